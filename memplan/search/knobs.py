"""What each knob would save: the workload's bytes again with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memplan.device.target import Target
from memplan.errors import UsageError
from memplan.plan import Knob
from memplan.prediction.estimate import peak_of
from memplan.prediction.rehearsal import run
from memplan.workload import Workload, validated
from memplan.workload.rules import available

FEWER_ENTITIES = 1024
"""A chunk that costs little time (benchmarks/scoring.py) and much less memory than all entities at once."""

FEW_NEGATIVES = 4096
"""Negatives that a graph of a million entities is trained with in docs/negatives.md."""


def knobs(workload: Workload, target: Target) -> list[Knob]:
    """Return the changes that save memory on the device, the largest saving first."""
    now = _device_bytes(workload, target)
    found = []
    for change, settings, changes_result in _changes(workload, target):
        try:
            other = validated(Workload, {**workload.model_dump(), **settings})
        except UsageError:
            continue  # not a workload: that knob cannot be turned here
        saved = now - _device_bytes(other, target)
        if saved > 0:
            found.append(Knob(change=change, saved_bytes=saved, changes_result=changes_result))
    return sorted(found, key=lambda knob: -knob.saved_bytes)


def _changes(workload: Workload, target: Target) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield what to call a change, the fields it sets, and whether it trains another model."""
    n, b, batch = workload.n_candidates, workload.micro_batch_size, workload.batch_size
    for scoring in available(workload.score, workload.device, target.capability):
        if scoring != workload.scoring and scoring != "materialized":
            yield f"--scoring {scoring}", {"scoring": scoring}, False
    half = -(-b // 2)
    yield f"--micro-batch-size {half}", {"micro_batch_size": half, **_no_larger(workload, half)}, False
    if n > FEWER_ENTITIES < workload.chunk_size:
        chunks = {"chunk_size": FEWER_ENTITIES, "eval_chunk_size": min(FEWER_ENTITIES, workload.eval_chunk_size)}
        yield f"--chunk-size {FEWER_ENTITIES}", chunks, False
    elif workload.eval_chunk_size > FEWER_ENTITIES:
        yield f"--eval-chunk-size {FEWER_ENTITIES}", {"eval_chunk_size": FEWER_ENTITIES}, False
    if workload.eval_batch_size > 1:
        half_queries = -(-workload.eval_batch_size // 2)
        yield f"--eval-batch-size {half_queries}", {"eval_batch_size": half_queries}, False
    if workload.precision == "fp32":
        yield "--precision bf16", {"precision": "bf16"}, True
    half_batch = -(-batch // 2)
    smaller = {"batch_size": half_batch, "micro_batch_size": min(b, half_batch), **_no_larger(workload, half_batch)}
    yield f"--batch-size {half_batch}", smaller, True
    yield f"--rank {-(-workload.rank // 2)}", {"rank": -(-workload.rank // 2)}, True
    fewer = FEW_NEGATIVES if workload.negatives is None else -(-workload.negatives // 2)
    if fewer < n:
        chunk = fewer if workload.scoring == "materialized" else min(fewer, workload.chunk_size)
        yield f"--negatives {fewer}", {"negatives": fewer, "chunk_size": chunk}, True
    for optimizer in ("sgd", "adagrad"):
        if optimizer != workload.optimizer:
            yield f"--optimizer {optimizer}", {"optimizer": optimizer}, True


def _no_larger(workload: Workload, batch: int) -> dict[str, int]:
    """Return an evaluation batch that follows the training's where it was no larger, as it does by default."""
    return {"eval_batch_size": batch} if workload.eval_batch_size == workload.micro_batch_size else {}


def _device_bytes(workload: Workload, target: Target) -> int:
    return peak_of(run(workload), workload, target.outside_bytes).device_bytes
