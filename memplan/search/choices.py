"""Which trainings are known to pay: what each takes here, how long, and what it was measured to reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from memplan.catalog.recipes import Reached, Recipe, recipes_for
from memplan.device.target import Target
from memplan.errors import UsageError
from memplan.plan import Choice
from memplan.prediction.rehearsal import n_parameters
from memplan.search.meshes import Meshes
from memplan.search.planner import Search, search_of
from memplan.workload import ModelName, Shape

ANY = "ICEWS14"
"""Where recipes that serve any dataset were measured."""


class Candidate(NamedTuple):
    """A recipe with what was measured of it, as it is or with something changed; None: it was not."""

    model: ModelName
    recipe: Recipe
    reached: Reached | None
    options: list[str]
    """What says so on the command line."""
    recommended: bool

    @property
    def changes(self) -> dict[str, Any]:
        """Return what is changed of the recipe."""
        return {} if self.reached is None else self.reached.changes

    @property
    def max_epochs(self) -> int:
        """Return the epochs that it takes."""
        return int(self.changes.get("max_epochs", self.recipe.max_epochs))

    @property
    def test_mrr(self) -> float:
        """Return what it reached; 0 where that is not known."""
        return 0.0 if self.reached is None else self.reached.test_mrr


def candidates(dataset: str | None, models: Iterable[ModelName], default: ModelName) -> Iterator[Candidate]:
    """Yield the first recipe of the model that is the ``default``, and all that was measured on the dataset.

    Figures of two datasets do not compare: where none is of this one, they are ICEWS14's, of recipes that serve any.
    """
    every = [(model, recipe) for model in models for recipe in recipes_for(dataset, model)]
    place = dataset if any(recipe.measured_on == dataset and recipe.reached for _, recipe in every) else ANY
    for model, recipe in every:
        is_first = recipe == recipes_for(dataset, model)[0]
        named = ([] if model == default else ["--model", model]) + ([] if is_first else ["--recipe", recipe.name])
        recommended = is_first and model == default
        if recommended and recipe.test_mrr is None:
            yield Candidate(model, recipe, None, named, recommended)
        for reached in recipe.reached if recipe.measured_on == place else ():
            changed = [(f"--{name.replace('_', '-')}", f"{value:g}") for name, value in reached.changes.items()]
            options = named + [word for pair in changed for word in pair]
            yield Candidate(model, recipe, reached, options, recommended and not changed)


def choices(
    shape: Shape, target: Target, n_queries: int | None, found: Iterable[tuple[Candidate, dict[str, Any]]]
) -> list[Choice]:
    """Return the recommended training and each that reaches more than every quicker one that fits, by what they reach.

    ``found``: candidates with their workloads' settings; one that a setting does not suit is left out.
    """
    searched = []
    for candidate, settings in found:
        try:
            search = search_of(shape, target, n_queries, settings)
        except UsageError:
            continue
        searched.append((search.least_seconds() * candidate.max_epochs, -candidate.test_mrr, candidate, search))
    most = 0.0
    rows = []
    for _, _, candidate, search in sorted(searched, key=lambda one: one[:2]):
        if candidate.recommended or candidate.test_mrr > most:
            row = _choice(candidate, search)
            rows.append(row)
            most = max(most, candidate.test_mrr) if row.fits else most
    return sorted(rows, key=lambda row: (row.test_mrr or 0.0, row.training_seconds))


def _choice(candidate: Candidate, search: Search | Meshes) -> Choice:
    fits, best = search.fits(), search.best()
    workload = best.chosen() if fits else best.smallest()
    seconds = best.seconds(workload) if fits else search.least_seconds()
    return Choice(
        model=candidate.model,
        recipe=candidate.recipe.name,
        options=candidate.options,
        recommended=candidate.recommended,
        rank=workload.rank,
        batch_size=workload.batch_size,
        n_parameters=n_parameters(workload),
        max_epochs=candidate.max_epochs,
        device_bytes=best.chosen_bytes() if fits else search.smallest_bytes(),
        fits=fits,
        seconds_per_epoch=seconds,
        training_seconds=seconds * candidate.max_epochs,
        test_mrr=None if candidate.reached is None else candidate.test_mrr,
        measured_on=candidate.recipe.measured_on,
        measured="not measured" if candidate.reached is None else candidate.reached.how,
    )
