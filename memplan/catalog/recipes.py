"""Recipes: how to train a model on a dataset, each with its source and what it was measured to reach.

A model's recipes stand in the model's own file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memplan.errors import UsageError
from memplan.workload import ModelName
from memplan.workload.models import recipes_of


@dataclass(frozen=True)
class Reached:
    """What one training with a recipe came to, a few of its settings changed: mostly a point of MRR over rank."""

    changes: dict[str, Any]
    """Fields of the workload or of the trainer; none: the recipe as it is."""
    test_mrr: float
    """Seed 0, on the recipe's dataset, or on ICEWS14 where the recipe serves any."""
    how: str
    """How it was measured."""


@dataclass(frozen=True)
class Recipe:
    """Training settings for a model. Of several that serve the same dataset, the first is the default."""

    name: str
    """What ``--recipe`` takes."""
    dataset: str | None
    """The catalog name of its dataset; None: any that has no recipe of its own."""
    source: str
    """Where the settings are from."""
    settings: dict[str, Any]
    """Fields of the workload."""
    learning_rate: float
    max_epochs: int
    test_mrr: float | None = None
    """What a run with it, seed 0, gave: on its dataset, on ICEWS14 where it serves any; None where none was made."""
    cooldown: float = 0.0
    """Share of the epochs, the last ones, in which the rate falls to 0."""
    variants: tuple[Reached, ...] = ()
    """What it came to with other ranks or epochs, where that was measured."""

    @property
    def training(self) -> dict[str, Any]:
        """Return its settings of the trainer, as ``settings`` are those of the workload."""
        return {"learning_rate": self.learning_rate, "max_epochs": self.max_epochs, "cooldown": self.cooldown}

    @property
    def reached(self) -> tuple[Reached, ...]:
        """Return all that was measured with it: as it is, then its variants."""
        own = () if self.test_mrr is None else (Reached({}, self.test_mrr, f"{self.source}; made twice"),)
        return own + self.variants

    @property
    def measured_on(self) -> str:
        """Return the dataset on which its figures were measured."""
        return self.dataset or "ICEWS14"

    @property
    def described(self) -> str:
        """Return source and measurement as one phrase."""
        if self.test_mrr is None:
            return f"{self.source}; not measured"
        return f"{self.source}; {'' if self.dataset else 'ICEWS14: '}test MRR {self.test_mrr:.3f}"


def find_recipe(dataset: str | None, model: ModelName, name: str | None = None) -> Recipe:
    """Return the recipe called ``name``, or the default one, for ``model`` on ``dataset``.

    Raises:
        UsageError: the model has none of that name there; the message says which there are.
    """
    candidates = recipes_for(dataset, model)
    if name is None:
        return candidates[0]
    for recipe in candidates:
        if recipe.name == name.lower():
            return recipe
    names = " or ".join(dict.fromkeys(recipe.name for recipe in candidates))
    elsewhere = [r.dataset for r in recipes_of(model) if r.name == name.lower() and r.dataset is not None]
    hint = f"; there is one for --dataset {' or '.join(elsewhere)}" if elsewhere else "; memplan recipes lists all"
    raise UsageError(f"--recipe: no {name!r} for {model} on {dataset or 'this graph'}, but {names}{hint}")


def lower_rate(given: float, dataset: str | None, model: ModelName, recipe: str | None) -> float:
    """Return the learning rate to try where a run diverged with ``given``: a tenth, and no more than the recipe's."""
    known = next((r for r in recipes_for(dataset, model) if recipe in (None, r.name)), None)
    return given / 10 if known is None else min(given / 10, known.learning_rate)


def recipes_for(dataset: str | None, model: ModelName) -> list[Recipe]:
    """Return every recipe that serves ``model`` on ``dataset``, the default first."""
    return [recipe for recipe in recipes_of(model) if recipe.dataset in (None, dataset)]
