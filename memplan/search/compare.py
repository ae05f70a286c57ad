"""Configurations side by side: what each takes, how long by the cost model, whether it fits here, and on which GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from memplan.catalog.datasets import find_dataset
from memplan.catalog.gpus import GPUS
from memplan.catalog.guide import CLAIMS, Claim
from memplan.device.target import CUDA_CONTEXT_BYTES, Target, usable_bytes
from memplan.prediction.estimate import estimate, peak_of
from memplan.prediction.rehearsal import run
from memplan.search.cost import seconds_per_epoch
from memplan.workload import Shape, Workload, build_workload
from memplan.workload.rules import obstacle, require


class Row(NamedTuple):
    """One configuration: the whole batch at once, against all entities at once."""

    dataset: str | None
    rank: int
    batch_size: int
    scoring: str
    tensor_bytes: int
    """What one (batch, entities, rank) tensor of float32 takes, whether it is built or not."""
    requested_bytes: int
    """Peak of what tensors ask for in training; evaluation can take smaller batches."""
    device_bytes: int
    seconds_per_epoch: float
    fits: bool
    gpus: tuple[str, ...]
    """The GPUs of the catalog on which it fits."""
    claim: Claim | None = None
    """What the guide says of this configuration."""


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
    grid = ((rank, batch, scoring) for rank in ranks for batch in batch_sizes for scoring in scorings)
    return [
        _row(shape, target, {**settings, "rank": rank, "batch_size": batch, "scoring": scoring})
        for rank, batch, scoring in grid
    ]


def compare_with_guide(target: Target, settings: dict[str, Any]) -> Iterator[Row]:
    """Yield, for each configuration of TNTPairRE in the guide, a row built plainly and one with the fused kernel."""
    for claim in CLAIMS:
        entry = find_dataset(claim.dataset)
        for scoring in ("materialized", "fused"):
            given = {
                **settings,
                "model": "TNTPairRE",
                "dataset": entry.name,
                "rank": claim.rank,
                "batch_size": claim.batch_size,
                "scoring": scoring,
            }
            yield _row(entry.shape, target, given)._replace(claim=claim)


def _row(shape: Shape, target: Target, settings: dict[str, Any]) -> Row:
    given = {**settings, "eval_batch_size": 1, "device": target.device}
    workload = build_workload(shape, **given)
    require(workload.score, workload.scoring, workload.device, target.capability)
    peak = estimate(workload, outside_bytes=target.outside_bytes).peak
    return Row(
        workload.dataset,
        workload.rank,
        workload.batch_size,
        workload.scoring,
        4 * workload.batch_size * workload.n_candidates * workload.rank,
        peak.requested_bytes,
        peak.device_bytes,
        seconds_per_epoch(workload, target.rates),
        peak.device_bytes <= target.budget_bytes,
        tuple(_gpus_that_fit(workload)),
    )


def _gpus_that_fit(workload: Workload) -> Iterator[str]:
    on_cuda = workload.model_copy(update={"device": "cuda"})
    needed = peak_of(run(on_cuda), on_cuda, CUDA_CONTEXT_BYTES).device_bytes
    for gpu in GPUS.values():
        if needed <= usable_bytes(gpu) and obstacle(workload.score, workload.scoring, "cuda", gpu.capability) is None:
            yield gpu.name


def values_of(row: Row) -> dict[str, Any]:
    """Return a row as plain values, the guide's figure in its own columns."""
    values = row._asdict()
    claim = values.pop("claim")
    values["guide_says"] = None if claim is None else claim.says
    values["guide_bytes"] = None if claim is None else claim.says_bytes
    values["guide_code_bytes"] = None if claim is None else claim.code_bytes
    return values
