"""Which scoring can run where: asked by the planner before it chooses and by the trainer before it runs."""

from __future__ import annotations

import importlib.util

from memplan.errors import UsageError
from memplan.workload import SCORINGS, DeviceType, Score, Scoring

Capability = tuple[int, int]
"""CUDA compute capability."""
OLDEST_FOR_TRITON: Capability = (7, 0)
"""Volta: what Triton compiles for."""


def obstacle(score: Score, scoring: Scoring, device: DeviceType, capability: Capability | None = None) -> str | None:
    """Return why ``scoring`` of ``score`` cannot run on ``device``, or None if it can.

    Plain PyTorch scorings run everywhere, and so do the fused dot and L2 scores, which are matrix products. The fused
    L1 score is a numba kernel on the CPU; without numba the planner falls back to ``chunked``. On CUDA it is a Triton
    kernel: Triton comes with PyTorch there, but compiles for no GPU older than Volta.
    """
    if scoring != "fused" or score != "l1":
        return None
    if device == "cuda":
        if capability is not None and capability < OLDEST_FOR_TRITON:
            return (
                f"Triton, which compiles the fused L1 kernel, needs compute capability {OLDEST_FOR_TRITON[0]}.0, and "
                f"this GPU has {capability[0]}.{capability[1]}"
            )
        return None
    if importlib.util.find_spec("numba") is None:
        return "the fused L1 kernel needs the package numba (pip install numba)"
    return None


def require(score: Score, scoring: Scoring, device: DeviceType, capability: Capability | None = None) -> None:
    """Check that ``scoring`` can run.

    Raises:
        UsageError: it cannot, with the reason. Nothing is chosen in its place.
    """
    why_not = obstacle(score, scoring, device, capability)
    if why_not is not None:
        raise UsageError(f"scoring {scoring!r} of the {score} score cannot run on {device}: {why_not}; use chunked")


def preferred(score: Score, device: DeviceType, capability: Capability | None = None) -> Scoring:
    """Return the scoring that is taken where none is asked for: ``fused``, else ``chunked``.

    ``materialized`` is run on request only: it is the way that runs out of memory, kept to compare with.
    """
    return "fused" if obstacle(score, "fused", device, capability) is None else "chunked"


def available(score: Score, device: DeviceType, capability: Capability | None = None) -> list[Scoring]:
    """Return the scorings of ``score`` that can run on ``device``."""
    return [scoring for scoring in SCORINGS if obstacle(score, scoring, device, capability) is None]
