"""A grid of rank × batch × scoring: what each takes, how long by the cost model, and whether it fits."""

from __future__ import annotations

from typing import Any, NamedTuple

from memplan.cost import seconds_per_epoch
from memplan.devices import Target
from memplan.estimator import estimate
from memplan.scorings import require
from memplan.workload import Shape, build_workload


class Row(NamedTuple):
    """One cell of the grid: the whole batch at once, against all entities at once."""

    rank: int
    batch_size: int
    scoring: str
    requested_bytes: int
    """Peak of what tensors ask for in training; evaluation can take smaller batches."""
    device_bytes: int
    seconds_per_epoch: float
    fits: bool


def compare(
    shape: Shape,
    target: Target,
    ranks: list[int],
    batch_sizes: list[int],
    scorings: list[str],
    settings: dict[str, Any],
) -> list[Row]:
    """Return a row for each rank, batch size and scoring; ``settings`` are the other fields of the workload.

    Raises:
        UsageError: a value is out of range, or a scoring cannot run on the device.
    """
    rows = []
    for rank in ranks:
        for batch_size in batch_sizes:
            for scoring in scorings:
                given = {**settings, "rank": rank, "batch_size": batch_size, "scoring": scoring}
                workload = build_workload(shape, **{**given, "eval_batch_size": 1, "device": target.device})
                require(workload.score, workload.scoring, workload.device)
                peak = estimate(workload, outside_bytes=target.outside_bytes).peak
                rows.append(
                    Row(
                        rank,
                        batch_size,
                        scoring,
                        peak.requested_bytes,
                        peak.device_bytes,
                        seconds_per_epoch(workload, target.rates),
                        peak.device_bytes <= target.budget_bytes,
                    )
                )
    return rows
