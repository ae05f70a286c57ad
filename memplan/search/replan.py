"""A smaller plan for a run that ran out of memory all the same: batch, rank and scoring stay, sizes shrink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from memplan.device.target import Target
from memplan.errors import DoesNotFitError
from memplan.plan import Plan
from memplan.prediction.estimate import peak_of
from memplan.prediction.rehearsal import run
from memplan.search.cost import evaluation_seconds, seconds_per_epoch
from memplan.search.planner import plan as search
from memplan.search.side import SMALLEST_CHUNK, halvings
from memplan.units import format_bytes
from memplan.workload import Workload

Part = Literal["training", "evaluation"]


def replan(plan: Plan, target: Target, part: Part) -> Plan:
    """Return the fastest plan of which ``part`` takes less than in ``plan``, and no more than the target's budget.

    Only that part's sizes change, which changes no result: micro-batch and chunk for training, queries and entities at
    once for evaluation.

    Raises:
        DoesNotFitError: no smaller sizes fit.
    """
    limit = min(target.budget_bytes, _peak(plan.workload, target, part) - 1)
    cost: Callable[[Workload], float] = (
        (lambda w: seconds_per_epoch(w, target.rates))
        if part == "training"
        else (lambda w: evaluation_seconds(w, target.rates))
    )
    for workload in sorted(_smaller(plan.workload, part), key=cost):
        if _peak(workload, target, part) <= limit:
            fixed = workload.model_dump(exclude=set(workload.shape.model_dump()))
            # The other part is not what failed: it stays, and is planned anew in its turn where it fails too.
            enough = max(target.budget_bytes, _peak(workload, target))
            found = search(workload.shape, target._replace(budget_bytes=enough), **fixed)
            return found.model_copy(update={"recipe": plan.recipe})
    raise DoesNotFitError(
        f"out of memory while {'training' if part == 'training' else 'ranking'}, and no smaller plan fits "
        f"{format_bytes(max(0, limit))} ({target.budget_source})"
    )


def _peak(workload: Workload, target: Target, part: Part | None = None) -> int:
    ledger = run(workload, training=part != "evaluation", evaluation=part != "training")
    return peak_of(ledger, workload, target.outside_bytes).device_bytes


def _smaller(workload: Workload, part: Part) -> Iterator[Workload]:
    training = part == "training"
    batch = "micro_batch_size" if training else "eval_batch_size"
    chunk = "chunk_size" if training else "eval_chunk_size"
    for rows in halvings(getattr(workload, batch)):
        for entities in halvings(getattr(workload, chunk), SMALLEST_CHUNK):
            whole = workload.n_candidates if training else workload.n_entities
            if workload.scoring != "materialized" or entities == whole:
                yield workload.model_copy(update={batch: rows, chunk: entities})
