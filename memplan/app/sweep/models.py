"""A sweep over models: which there are, and the ranks at which they are compared."""

from __future__ import annotations

import dataclasses

from memplan.app.request import Graph, gather
from memplan.app.sweep.space import Value
from memplan.app.sweep.study import Sweep
from memplan.prediction.rehearsal import n_parameters
from memplan.workload import Workload, build_workload

ALIKE = 0.05
"""Counts of parameters that differ by no more than this share are as good as equal: a recipe's rank then stays."""


def models_of(sweep: Sweep) -> list[dict[str, Value]]:
    """Return a trial's value for each model that is searched over; one without any where no model is."""
    listed = [dimension.values for dimension in sweep.space if dimension.kind == "choice" and dimension.name == "model"]
    return [{"model": model} for model in listed[0]] if listed else [{}]


def equal_ranks(sweep: Sweep, graph: Graph) -> dict[str, int]:
    """Return the rank for each model with which all have as many parameters as the first has at its recipe's rank.

    None where no model is searched over, or where the ranks are given or searched over themselves.
    """
    models = [str(values["model"]) for values in models_of(sweep) if values]
    is_given = sweep.options.rank is not None or any(dimension.name == "rank" for dimension in sweep.space)
    if is_given or not models:
        return {}

    def at(model: str, rank: int | None = None) -> Workload:
        given = dataclasses.replace(sweep.options, model=model, rank=None if rank is None else str(rank))
        return build_workload(graph.shape, **gather(given, graph).settings)

    wanted = n_parameters(at(models[0]))
    found = {}
    for model in models:
        own = at(model)
        rank = own.rank
        if abs(n_parameters(own) - wanted) > ALIKE * wanted:
            near = max(1, round(rank * wanted / n_parameters(own)))
            rank = min((max(1, near - 1), near, near + 1), key=lambda r: abs(n_parameters(at(model, r)) - wanted))
        found[model] = rank
    return found
