"""How fast a device computes, moves and starts work: what the cost model multiplies with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from memplan.catalog.gpus import Gpu
from memplan.device.measured_cpu import CPU_ERROR, CPU_SECONDS

HALF_AS_MANY_LANES = ((6, 0), (7, 0), (7, 5), (8, 0))
"""Compute capabilities with 64 float32 results a clock and multiprocessor, others have 128 (CUDA C++ Programming Guide,
"Arithmetic Instructions")."""


class Rates(NamedTuple):
    """A device's rates. A term is one |a_k − w_k e_k| of the L1 score, forward, or all three of its gradients."""

    flops_per_second: float
    """Of a float32 matrix product; a multiply-add counts as two."""
    bytes_per_second: float
    """Read or written by element-wise operations."""
    fresh_bytes_per_second: float
    """Written into new tensors. On the CPU the system hands out their pages one by one; on CUDA they are at hand."""
    launch_seconds: float
    """What an operation costs however small."""
    l1_terms_per_second: float
    """Of the fused L1 forward."""
    l1_gradient_terms_per_second: float
    """Of the fused L1 backward."""


class StepRates(NamedTuple):
    """What a CPU takes for each kind of work in a step, fitted to steps that were measured."""

    seconds: Mapping[str, float]
    """Of one unit of each kind; ``memplan.search.work`` counts the units."""
    error: float
    """Nine of ten steps, none of them among those fitted to, took within this share of what is predicted."""


def cpu_rates() -> StepRates:
    """Return the rates of the CPU that ``CPU_SECONDS`` was measured on, whatever this one is."""
    return StepRates(CPU_SECONDS, CPU_ERROR)


def gpu_rates(gpu: Gpu) -> Rates:
    """Return a GPU's rates from its peak, which is two flops a lane and clock; nothing of it is measured.

    Terms of the L1 score follow from the kernels' inner loops as benchmarks/sass.py counts them. Where a multiprocessor
    has as many float32 lanes as it issues instructions, every instruction counts; where it has half as many, those that
    keep the lanes or the issue busiest do.
    """
    lanes, traffic = gpu.flops_per_second / 2, gpu.bytes_per_second
    forward, backward = (2.0, 5.8) if gpu.capability in HALF_AS_MANY_LANES else (2.7, 10.9)
    return Rates(gpu.flops_per_second, traffic, traffic, 6e-6, lanes / forward, lanes / backward)
