"""What ``memplan trace`` runs: a file's step traced, measured, or fitted."""

from __future__ import annotations

from memplan.device.target import Target
from memplan.trace.fit import Range
from memplan.trace.fit import fit as fit_size
from memplan.trace.loading import load
from memplan.trace.real import record_real
from memplan.trace.result import Fit, Trace
from memplan.trace.tracing import Recorded, record, result_of


def traced(file: str, sizes: dict[str, int], target: Target, alloc_conf: str | None) -> tuple[Trace, Recorded]:
    """Return the trace of a file's step."""
    make_step = load(file)
    recorded = record(make_step, sizes, target)
    return result_of(make_step, sizes, target, alloc_conf, recorded), recorded


def measured(file: str, sizes: dict[str, int], target: Target, alloc_conf: str | None) -> tuple[Trace, Recorded]:
    """Return what a file's step really takes on the CPU."""
    make_step = load(file)
    recorded = record_real(make_step, sizes, target)
    return result_of(make_step, sizes, target, alloc_conf, recorded), recorded


def fitted(
    file: str, text: str, sizes: dict[str, int], target: Target, alloc_conf: str | None, effective: int | None
) -> tuple[Trace, Recorded, Fit]:
    """Return the trace of the largest size that fits, and how it was found."""
    bounds = Range.parse(text)
    make_step = load(file)
    answer, recorded = fit_size(make_step, bounds, sizes, target, alloc_conf, effective)
    return answer.trace, recorded, answer
