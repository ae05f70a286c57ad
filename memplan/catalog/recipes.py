"""Recipes: how to train a model on a dataset, each with its source and what it was measured to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memplan.catalog.datasets import DEMO
from memplan.errors import UsageError
from memplan.workload import ModelName


@dataclass(frozen=True)
class Recipe:
    """Training settings for a model. Of several that serve the same model and dataset, the first is the default."""

    name: str
    """What ``--recipe`` takes."""
    model: ModelName
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

    @property
    def training(self) -> dict[str, Any]:
        """Return its settings of the trainer, as ``settings`` are those of the workload."""
        return {"learning_rate": self.learning_rate, "max_epochs": self.max_epochs, "cooldown": self.cooldown}

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
    elsewhere = [r.dataset for r in RECIPES if r.model == model and r.name == name.lower() and r.dataset is not None]
    hint = f"; there is one for --dataset {' or '.join(elsewhere)}" if elsewhere else "; memplan recipes lists all"
    raise UsageError(f"--recipe: no {name!r} for {model} on {dataset or 'this graph'}, but {names}{hint}")


def lower_rate(given: float, dataset: str | None, model: ModelName, recipe: str | None) -> float:
    """Return the learning rate to try where a run diverged with ``given``: a tenth, and no more than the recipe's."""
    known = next((r for r in recipes_for(dataset, model) if recipe in (None, r.name)), None)
    return given / 10 if known is None else min(given / 10, known.learning_rate)


def recipes_for(dataset: str | None, model: ModelName) -> list[Recipe]:
    """Return every recipe that serves ``model`` on ``dataset``, the default first."""
    return [recipe for recipe in RECIPES if recipe.model == model and recipe.dataset in (None, dataset)]


_ADAGRAD: dict[str, Any] = {"batch_size": 1000, "optimizer": "adagrad"}
_COMPLEX: dict[str, Any] = {**_ADAGRAD, "rank": 156, "emb_reg": 1e-2, "time_reg": 1e-2}
_PAIRRE: dict[str, Any] = {
    **_ADAGRAD,
    "rank": 100,
    "emb_reg": 1e-2,
    "n3_parts": True,
    "time_reg": 1e-2,
    "unit_norm": False,
}
_STATIC = {"time_reg": 0.0}
_SMALL = {"batch_size": 500}
_DEMO_COMPLEX = {**_COMPLEX, **_SMALL, "rank": 50}
_DEMO_PAIRRE = {**_PAIRRE, **_SMALL}
_GUIDE: dict[str, Any] = {"rank": 64, "optimizer": "adagrad", "emb_reg": 1e-5, "unit_norm": True}
_TKBC = "tkbc's README (Lacroix et al., ICLR 2020)"

# A dataset's own come before the general ones where they are the default, after them where they are not.
RECIPES: tuple[Recipe, ...] = (
    Recipe("demo", "TNTPairRE", DEMO.name, "tried here", _DEMO_PAIRRE, 0.2, 30, 0.373, cooldown=0.25),
    Recipe("demo", "TPairRE", DEMO.name, "TNTPairRE's", _DEMO_PAIRRE, 0.2, 30, 0.326, cooldown=0.25),
    Recipe("demo", "PairRE", DEMO.name, "TNTPairRE's", {**_DEMO_PAIRRE, **_STATIC}, 0.2, 30, 0.248, cooldown=0.25),
    Recipe("demo", "TNTComplEx", DEMO.name, "tried here", _DEMO_COMPLEX, 0.1, 30, 0.416),
    Recipe("demo", "TComplEx", DEMO.name, "TNTComplEx's", _DEMO_COMPLEX, 0.1, 30, 0.428),
    Recipe("demo", "ComplEx", DEMO.name, "TNTComplEx's", {**_DEMO_COMPLEX, **_STATIC}, 0.1, 30, 0.275),
    Recipe(
        "icews14", "TNTPairRE", "ICEWS14", "docs/results.md",
        {**_ADAGRAD, "rank": 280, "emb_reg": 2.5e-2, "n3_parts": True, "time_reg": 1e-2, "unit_norm": False},
        0.2, 90, 0.575, cooldown=0.25,
    ),
    Recipe("plain", "TNTPairRE", None, "docs/results.md", _PAIRRE, 0.2, 30, 0.517, cooldown=0.25),
    Recipe("plain", "TPairRE", None, "TNTPairRE's", _PAIRRE, 0.2, 30, 0.507, cooldown=0.25),
    Recipe("plain", "PairRE", None, "TNTPairRE's", {**_PAIRRE, **_STATIC}, 0.2, 30, 0.462, cooldown=0.25),
    Recipe("tkbc", "TNTComplEx", None, _TKBC, _COMPLEX, 0.1, 50, 0.562),
    Recipe("tkbc", "TComplEx", None, "TNTComplEx's", _COMPLEX, 0.1, 50, 0.561),
    Recipe("tkbc", "ComplEx", None, "TNTComplEx's", {**_COMPLEX, **_STATIC}, 0.1, 50, 0.468),
    Recipe(
        "tkbc-1560", "TNTComplEx", "ICEWS14", "tkbc's author, on its issue tracker: test MRR 0.62",
        {**_COMPLEX, "rank": 1560, "emb_reg": 5e-3}, 0.1, 100,
    ),
    Recipe(
        "guide", "TNTPairRE", "ICEWS14", "the TNTPairRE memory guide",
        {**_GUIDE, "batch_size": 256, "time_reg": 1e-4}, 1e-3, 100, 0.153,
    ),
    Recipe(
        "guide", "TNTPairRE", "ICEWS05-15", "the TNTPairRE memory guide",
        {**_GUIDE, "batch_size": 200, "time_reg": 1e-3}, 1e-3, 100,
    ),
    Recipe(
        "guide", "TNTPairRE", "YAGO15K", "the TNTPairRE memory guide",
        {**_GUIDE, "batch_size": 128, "time_reg": 1.0, "no_time_emb": True}, 1e-3, 100,
    ),
)  # fmt: skip
