"""Who computes on the CPU: PyTorch's threads, or those of the fused L1 kernel, and never both at once.

PyTorch's OpenMP threads spin for milliseconds after each operation, on the cores that the kernel's threads need next.
So where the score runs on threads of its own, PyTorch computes on the one that calls it. This also makes a run's
results those of its plan, whatever number of threads the process had before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from memplan.workload import Workload
from memplan.workload.rules import runs_numba


@contextmanager
def score_threads(workload: Workload) -> Iterator[None]:
    """Have PyTorch compute a workload on the CPU with as many threads as it should; put its number back afterwards."""
    before = torch.get_num_threads()
    if workload.device == "cpu":
        torch.set_num_threads(1 if runs_numba(workload) else workload.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
