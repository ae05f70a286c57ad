"""Watching memory: measured against predicted, at the first step and evaluation and then as often as it is cheap.

On the CPU a measurement takes PyTorch's profiler, too slow to leave on. The set-up, the first step and the first batch
of the first evaluation are always measured; after that the first step of an epoch and the first batch of an evaluation
are, as long as all measuring together takes under a hundredth of the run's time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import psutil
import torch
from torch import Tensor

from memplan.plan import Bytes, MemoryCheck, Plan
from memplan.search.replan import Part
from memplan.units import format_count
from memplan.workload import Workload
from tkbc.measure.meter import make_meter, tensor_bytes
from tkbc.runs.reporter import MemoryNow
from tkbc.step.trainer import Trainer

MEASURED_PIECES = 5000
"""Chunks of scores, over all micro-batches, up to which a step or a batch of queries is measured."""
SHARE_OF_TIME = 0.01
TOLERANCE = 0.005
"""Measured above predicted by more than this share is drift."""


class MemoryWatch:
    """Measures a run's phases and compares them with its plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.meter = make_meter(plan.workload.device)
        self._measured: set[Part] = set()
        self._begin = time.perf_counter()
        self._seconds = 0.0
        self._highest: Bytes | None = None
        self._process = psutil.Process()

    def adopt(self, plan: Plan) -> None:
        """Compare with another plan from now on; what was measured of the old one says nothing about it."""
        self.plan = plan
        self.meter.peaks.clear()
        self._measured.clear()

    def measuring(self, part: Part, living: Iterable[Tensor]) -> AbstractContextManager[None]:
        """Return what measures a full step or batch of queries, or does nothing where it is too early for another.

        ``living``: every tensor that lives already and keeps living.
        """
        is_first = part not in self._measured
        is_cheap = self._seconds < SHARE_OF_TIME * (time.perf_counter() - self._begin)
        if not _few_enough(self.plan.workload, part) or not (is_first or is_cheap):
            return nullcontext()
        return self._record(part, living, is_first=is_first)

    @contextmanager
    def measuring_evaluation(self, living: Iterable[Tensor]) -> Iterator[None]:
        """Measure a full batch of queries as one phase, or do nothing where it is too early for another."""
        with self.measuring("evaluation", living), self.meter.phase("evaluation"):
            yield

    @contextmanager
    def _record(self, part: Part, living: Iterable[Tensor], *, is_first: bool) -> Iterator[None]:
        begin = time.perf_counter()
        with self.meter.recording(living):
            yield
        self._measured.add(part)
        if not is_first:
            self._seconds += time.perf_counter() - begin

    def check(self) -> MemoryCheck | None:
        """Return predicted against measured so far; None where nothing was measured."""
        peaks = self.meter.peaks
        if not peaks:
            return None
        for reading in peaks.values():
            self._highest = reading.largest(self._highest)
        return MemoryCheck.compare(self.plan.workload.device, self.plan.phases, self.plan.peak, peaks)

    def now(self, trainer: Trainer) -> MemoryNow:
        """Return the run's memory at this moment."""
        highest = self._highest
        process_bytes = self._process.memory_info().rss
        if self.plan.workload.device == "cuda":
            return MemoryNow(
                torch.cuda.memory_allocated(),
                torch.cuda.memory_reserved(),
                # Measuring a phase resets the statistics: what was reached before counts too.
                max(torch.cuda.max_memory_reserved(), self.meter.earlier_reserved_bytes),
                self.plan.budget_bytes,
                process_bytes,
            )
        return MemoryNow(
            tensor_bytes(trainer.persistent_tensors()),
            None,
            None if highest is None else highest.requested_bytes,
            self.plan.budget_bytes,
            process_bytes,
        )


def drift(check: MemoryCheck) -> str | None:
    """Return the phase that took more than predicted, beyond the tolerance, by the most; None where none did."""
    worst = max(check.phases, key=lambda phase: phase.relative_error)
    if worst.relative_error <= TOLERANCE:
        return None
    return (
        f"memory drifts from the plan: {worst.name} took {format_count(worst.measured.requested_bytes)} bytes, "
        f"predicted {format_count(worst.predicted.requested_bytes)} ({worst.relative_error:+.1%})"
    )


def _few_enough(workload: Workload, part: Part) -> bool:
    """Return whether a profiler can record so many pieces of work: it keeps every event until the end."""
    if part == "training":
        pieces = workload.accumulation_steps * -(-workload.n_candidates // workload.chunk_size)
    else:
        pieces = -(-workload.n_entities // workload.eval_chunk_size)
    return pieces <= MEASURED_PIECES
