"""How fast a device computes, moves and starts work: what the cost model multiplies with."""

from __future__ import annotations

from typing import NamedTuple

from memplan.gpus import Gpu


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


def cpu_rates(threads: int) -> Rates:
    """Return rates of a core times ``threads``: what kernels reach (benchmarks/), not a datasheet's peak."""
    return Rates(45e9 * threads, 5e9 * threads, 1e9 * threads, 4e-6, 22e9 * threads, 13e9 * threads)


def gpu_rates(gpu: Gpu) -> Rates:
    """Return a GPU's rates from its peak: a term takes 2 of its instructions forward, 5 backward.

    A multiply-add is one instruction and two flops, hence 4 and 10 flops a term; nothing of it is measured.
    """
    flops, traffic = gpu.flops_per_second, gpu.bytes_per_second
    return Rates(flops, traffic, traffic, 6e-6, flops / 4, flops / 10)
