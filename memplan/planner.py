"""The search: micro-batch, chunk, scoring and evaluation sizes for a budget; everything else stays as asked.

Micro-batch, chunk and scoring change no result. The scoring is the best that can run; micro-batches and chunks that fit
are compared by predicted time, then by memory. What the user fixed is kept, and so are batch and rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memplan.cost import evaluation_seconds, seconds_per_epoch
from memplan.devices import Target
from memplan.errors import DoesNotFitError
from memplan.estimator import estimate, peak_of
from memplan.plan import Alternative, Plan
from memplan.programs.step import run
from memplan.scorings import obstacle, preferred, require
from memplan.units import format_bytes
from memplan.workload import Shape, Workload, build_workload

SMALLEST_CHUNK = 128
LARGEST_EVALUATION = 1024
"""Queries ranked at once; more gain nothing once the kernels are busy."""
ALTERNATIVES = 5


def plan(shape: Shape, target: Target, *, n_queries: int | None = None, **settings: Any) -> Plan:
    """Return the fastest plan, by the cost model, that fits ``target.budget_bytes``.

    ``settings`` are fields of the workload; ``micro_batch_size``, ``chunk_size``, ``scoring``, ``eval_batch_size`` and
    ``eval_chunk_size`` are searched where left out, the evaluation's batch up to ``n_queries`` where a split is known
    to hold no more. Equal inputs give equal plans.

    Raises:
        UsageError: a setting is out of range.
        DoesNotFitError: nothing fits; names the smallest budget that would do and the largest tensor in its way.
    """
    fixed = {name: value for name, value in settings.items() if value is not None}
    fixed["device"] = target.device
    largest_evaluation = min(LARGEST_EVALUATION, n_queries or LARGEST_EVALUATION)
    base = build_workload(shape, **fixed)
    if "scoring" in fixed:
        require(base.score, base.scoring, base.device)
    candidates = sorted(_training_candidates(base, fixed), key=lambda w: _preference(w, target))
    evaluation = _fastest_evaluation(candidates[0], fixed, target, largest_evaluation)
    rejected: list[Alternative] = []
    for at, candidate in enumerate(candidates):
        needed = _device_bytes(candidate, target, evaluation=False)
        if evaluation is None:
            reason = "its evaluation does not fit"
        elif needed > target.budget_bytes:
            reason = _over(needed, target)
        else:
            chosen = _with_evaluation(candidate, evaluation)
            # Training and evaluation fit alone; on CUDA what one leaves reserved can still stand in the other's way.
            needed = _device_bytes(chosen, target)
            if needed <= target.budget_bytes:
                return _finish(chosen, target, rejected, candidates[at + 1 :])
            reason = f"{_over(needed, target)}, with evaluation"
        if len(rejected) < ALTERNATIVES:
            rejected.append(_alternative(candidate, needed, f"faster, but {reason}", target))
    raise _nothing_fits(candidates, fixed, target, largest_evaluation)


def _preference(workload: Workload, target: Target) -> tuple[float, int, int]:
    """Sort key: the faster first; among equals the micro-batch and chunk that take less memory."""
    return (
        seconds_per_epoch(workload, target.rates),
        workload.micro_batch_size,
        workload.chunk_size,
    )


def _over(needed_bytes: int, target: Target) -> str:
    return f"{format_bytes(needed_bytes - target.budget_bytes)} over the budget"


def _halvings(size: int, smallest: int = 1) -> list[int]:
    """Return ``size`` and what follows by halving, rounded up, down to ``smallest``: 10 gives 10, 5, 3, 2, 1."""
    sizes = [size]
    while sizes[-1] > smallest:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _chunks(n_entities: int) -> list[int]:
    """Return all entities at once, then powers of two below."""
    powers = [2**k for k in range(SMALLEST_CHUNK.bit_length() - 1, n_entities.bit_length() + 1) if 2**k < n_entities]
    return [n_entities, *reversed(powers)]


def _training_candidates(base: Workload, fixed: dict[str, Any]) -> Iterator[Workload]:
    scoring = base.scoring if "scoring" in fixed else preferred(base.score, base.device)
    micro_batches = [base.micro_batch_size] if "micro_batch_size" in fixed else _halvings(base.batch_size)
    chunks = [base.chunk_size] if "chunk_size" in fixed else _chunks(base.n_entities)
    if scoring == "materialized":
        chunks = [base.n_entities]
    for chunk in chunks:
        for micro_batch in micro_batches:
            yield base.model_copy(update={"scoring": scoring, "chunk_size": chunk, "micro_batch_size": micro_batch})


def _evaluation_candidates(workload: Workload, fixed: dict[str, Any], largest: int) -> Iterator[Workload]:
    batches = [workload.eval_batch_size] if "eval_batch_size" in fixed else _halvings(largest)
    chunks = [workload.eval_chunk_size] if "eval_chunk_size" in fixed else _chunks(workload.n_entities)
    if workload.scoring == "materialized":
        chunks = [workload.n_entities]
    for chunk in chunks:
        for batch in batches:
            yield workload.model_copy(update={"eval_batch_size": batch, "eval_chunk_size": chunk})


def _fastest_evaluation(workload: Workload, fixed: dict[str, Any], target: Target, largest: int) -> Workload | None:
    """Return the fastest evaluation that fits, or None."""
    ordered = sorted(
        _evaluation_candidates(workload, fixed, largest),
        key=lambda w: (evaluation_seconds(w, target.rates), w.eval_batch_size, w.eval_chunk_size),
    )
    fitting = (w for w in ordered if _device_bytes(w, target, training=False) <= target.budget_bytes)
    return next(fitting, None)


def _with_evaluation(workload: Workload, evaluation: Workload) -> Workload:
    return workload.model_copy(
        update={"eval_batch_size": evaluation.eval_batch_size, "eval_chunk_size": evaluation.eval_chunk_size}
    )


def _device_bytes(workload: Workload, target: Target, *, training: bool = True, evaluation: bool = True) -> int:
    ledger = run(workload, training=training, evaluation=evaluation)
    return peak_of(ledger, workload, target.outside_bytes).device_bytes


def _alternative(workload: Workload, device_bytes: int, reason: str, target: Target) -> Alternative:
    return Alternative(
        micro_batch_size=workload.micro_batch_size,
        chunk_size=workload.chunk_size,
        scoring=workload.scoring,
        device_bytes=device_bytes,
        seconds_per_epoch=seconds_per_epoch(workload, target.rates),
        reason=reason,
    )


def _finish(chosen: Workload, target: Target, rejected: list[Alternative], slower: list[Workload]) -> Plan:
    result = estimate(chosen, outside_bytes=target.outside_bytes, budget_bytes=target.budget_bytes)
    runners_up = []
    for workload in slower[: max(2, ALTERNATIVES - len(rejected))]:
        needed = _device_bytes(workload, target, evaluation=False)
        fits = needed <= target.budget_bytes
        runners_up.append(
            _alternative(
                workload, needed, "fits, not faster" if fits else f"not faster, and {_over(needed, target)}", target
            )
        )
    return Plan(
        workload=chosen,
        batch_size=chosen.batch_size,
        micro_batch_size=chosen.micro_batch_size,
        accumulation_steps=chosen.accumulation_steps,
        rank=chosen.rank,
        chunk_size=chosen.chunk_size,
        scoring=chosen.scoring,
        precision=chosen.precision,
        eval_batch_size=chosen.eval_batch_size,
        eval_chunk_size=chosen.eval_chunk_size,
        peak=result.peak,
        phases=result.phases,
        budget_bytes=target.budget_bytes,
        budget_source=target.budget_source,
        fits=True,
        seconds_per_epoch=seconds_per_epoch(chosen, target.rates),
        reason=_reason(chosen, is_fastest=not rejected),
        alternatives=rejected + runners_up,
    )


def _reason(chosen: Workload, *, is_fastest: bool) -> str:
    if chosen.accumulation_steps > 1:
        batch = f"{chosen.accumulation_steps} micro-batches of {chosen.micro_batch_size} a step"
    else:
        batch = "the whole batch at once"
    if chosen.chunk_size < chosen.n_entities:
        entities = f"entities scored {chosen.chunk_size} at a time"
    else:
        entities = "all entities scored at once"
    why = "the fastest of all, and it fits" if is_fastest else "the fastest that fits"
    fallback = obstacle(chosen.score, "fused", chosen.device)
    note = f" ({fallback})" if fallback is not None else ""
    return f"{batch}, {entities}, {chosen.scoring} scoring{note}: {why}"


def _nothing_fits(candidates: list[Workload], fixed: dict[str, Any], target: Target, largest: int) -> DoesNotFitError:
    evaluation = min(
        _evaluation_candidates(candidates[0], fixed, largest),
        key=lambda w: _device_bytes(w, target, training=False),
    )
    training = min(candidates, key=lambda w: _device_bytes(w, target, evaluation=False))
    workload = _with_evaluation(training, evaluation)
    needed_peak = estimate(workload, outside_bytes=target.outside_bytes)
    obstacle = needed_peak.tensors_at_peak[0]
    dimensions = " × ".join(str(size) for size in obstacle.shape)
    return DoesNotFitError(
        f"nothing fits {format_bytes(target.budget_bytes)} ({target.budget_source}): the smallest budget that would do "
        f"is {format_mib_up(needed_peak.peak.device_bytes)} (micro-batch {workload.micro_batch_size}, chunk "
        f"{workload.chunk_size}, {workload.scoring} scoring); the largest tensor then is the {obstacle.name}, "
        f"{dimensions}, {format_bytes(obstacle.bytes)}. Raise the budget or lower --rank"
    )


def format_mib_up(n_bytes: int) -> str:
    """Return the bytes in whole MiB, rounded up, as ``--budget`` takes them: enough, and less than a MiB too much."""
    return f"{-(-n_bytes // 2**20)}MiB"
