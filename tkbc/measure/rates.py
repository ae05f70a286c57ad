"""Measuring a device: how fast it multiplies, moves and starts work, and what a run takes there outside its tensors."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from statistics import median

import torch

from memplan.device.calibration import Calibration
from memplan.device.present import present_gpus, usable_threads
from memplan.device.target import Target
from memplan.errors import MemplanError
from memplan.workload.rules import obstacle
from tkbc.scoring import make_score

QUERIES, ENTITIES, RANK = 512, 8192, 128
"""The products' and the L1 kernel's shape: the size of a real step, and quick enough on a laptop."""
MOVED_FLOATS = 2**26
"""256 MiB: beyond any cache."""
SMALL_OPERATIONS = 2000
SECONDS_EACH = 0.4
"""What one rate may take to measure."""


def calibrate(target: Target) -> Calibration:
    """Measure ``target``, which is this machine's CPU or first GPU, and return its figures.

    Each rate is that of the median call over some tenths of a second. On CUDA the workspace is what the caching
    allocator gains with the first matrix product, and the context what the driver's free memory loses besides that
    allocator until everything here has run: PyTorch loads its kernels as they are first asked for.

    Raises:
        MemplanError: this process has used CUDA already: context and workspace are there, and cannot be measured.
    """
    device = target.device
    if device == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise MemplanError(
            "this process has used CUDA already, so what its context and cuBLAS take cannot be measured any more; "
            "calibrate in a new process: memplan calibrate --device cuda"
        )
    free_before = present_gpus()[0].free_bytes if device == "cuda" else 0
    workspace_bytes = _workspace_bytes() if device == "cuda" else None
    if device == "cpu":
        torch.set_num_threads(usable_threads())
    query, entities = torch.randn(QUERIES, RANK, device=device), torch.randn(ENTITIES, RANK, device=device)
    scores = torch.empty(QUERIES, ENTITIES, device=device)
    product = _seconds(lambda: torch.mm(query, entities.T, out=scores), device)
    floats = torch.zeros(MOVED_FLOATS, device=device)
    moved = _seconds(lambda: floats.add_(1.0), device)
    written = _seconds(lambda: floats + 1.0, device)
    one = torch.zeros(1, device=device)

    def small_operations() -> None:
        for _ in range(SMALL_OPERATIONS):
            one.add_(one)

    launches = _seconds(small_operations, device)
    forward, backward = _l1_seconds(target, query, entities, scores)
    terms = QUERIES * ENTITIES * RANK
    return Calibration(
        device=target.name,
        threads=usable_threads(),
        versions={"python": platform.python_version(), "torch": torch.__version__},
        flops_per_second=2 * terms / product,
        bytes_per_second=8 * MOVED_FLOATS / moved,
        fresh_bytes_per_second=4 * MOVED_FLOATS / written,
        launch_seconds=launches / SMALL_OPERATIONS,
        l1_terms_per_second=None if forward is None else terms / forward,
        l1_gradient_terms_per_second=None if backward is None else terms / backward,
        context_bytes=_context_bytes(free_before) if device == "cuda" else None,
        workspace_bytes=workspace_bytes,
    )


def _l1_seconds(
    target: Target, query: torch.Tensor, entities: torch.Tensor, scores: torch.Tensor
) -> tuple[float | None, float | None]:
    """Return what the fused L1 kernel takes, forward and backward; None where it cannot run."""
    if obstacle("l1", "fused", target.device, target.capability) is not None:
        return None, None
    kernel = make_score("l1", "fused", target.device, usable_threads())
    pair = (query, query)
    gradients = (torch.zeros_like(query), torch.zeros_like(query))
    to_entities = torch.zeros_like(entities)
    forward = _seconds(lambda: kernel.forward(pair, entities, scores, grad=True), target.device)
    backward = _seconds(lambda: kernel.backward(pair, entities, scores, gradients, to_entities), target.device)
    return forward, backward


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the median seconds of one call, after a first that is not counted."""

    def once() -> float:
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    once()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < SECONDS_EACH:
        taken.append(once())
    return median(taken)


def _workspace_bytes() -> int:
    """Return what cuBLAS takes inside the allocator at the first product of this process."""
    one = torch.ones((1, 1), device="cuda")
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    product = torch.mm(one, one)
    taken: int = torch.cuda.memory_stats()["requested_bytes.all.current"] - before
    return max(0, taken - product.untyped_storage().nbytes())


def _context_bytes(free_before: int) -> int | None:
    """Return what the device has less than before, outside the allocator; None where others have freed more."""
    torch.cuda.synchronize()
    taken = free_before - present_gpus()[0].free_bytes - torch.cuda.memory_reserved()
    return taken if taken > 0 else None
