"""Measuring a device: on the CPU short training steps; on CUDA rates, and what a run takes outside its tensors."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable
from statistics import median

import torch

from memplan.device.calibration import Calibration
from memplan.device.present import present_gpus, usable_threads
from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.errors import MemplanError
from memplan.search.work import Work, step_work
from memplan.workload import Workload
from memplan.workload.rules import obstacle
from tkbc.measure.cases import cases
from tkbc.measure.fitting import error_on_others, fitted
from tkbc.measure.steps import step_times
from tkbc.scoring import make_score
from tkbc.step.threads import score_threads

QUERIES, ENTITIES, RANK = 512, 8192, 128
"""The products' and the L1 kernel's shape: the size of a real step, and quick enough on a laptop."""
MOVED_FLOATS = 2**26
"""256 MiB: beyond any cache."""
SMALL_OPERATIONS = 2000
SECONDS_EACH = 0.4
"""What one rate may take to measure."""
CASE_SECONDS = 0.6
"""What a workload's layouts take in all, each at least four steps."""
TRUST = 0.05
"""How much what is stated counts beside what is measured (``fitted``)."""
Shown = Callable[[list[list[Workload]]], Iterable[list[Workload]]]


def calibrate(target: Target, shown: Shown = list) -> Calibration:
    """Measure ``target``, which is this machine's CPU or first GPU, and return its figures.

    On the CPU the steps of ``tkbc.measure.cases`` are timed, and the seconds of each kind of work fitted to them.

    On CUDA each rate is that of the median call over some tenths of a second. The workspace is what the caching
    allocator gains with the first matrix product, and the context what the driver's free memory loses besides that
    allocator until everything here has run: PyTorch loads its kernels as they are first asked for.

    Args:
        target: what ``resolve`` found.
        shown: hands on what is measured, one after the other, and may show how far it is.

    Raises:
        MemplanError: this process has used CUDA already: context and workspace are there, and cannot be measured.
    """
    return _calibrate_cuda(target) if target.device == "cuda" else _calibrate_cpu(target, shown)


def _calibrate_cpu(target: Target, shown: Shown) -> Calibration:
    threads = usable_threads()
    work: list[Work] = []
    seconds: list[float] = []
    for layouts in shown(cases(threads)):
        with score_threads(layouts[0]):
            times = step_times(layouts, CASE_SECONDS)
        work += [step_work(layout) for layout in layouts]
        seconds += [time.seconds for time in times]
    stated = cpu_rates().seconds
    return Calibration(
        device=target.name,
        threads=threads,
        versions=_versions(),
        step_seconds=fitted(work, seconds, stated, TRUST),
        error=error_on_others(work, seconds, stated, TRUST),
    )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}


def _calibrate_cuda(target: Target) -> Calibration:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise MemplanError(
            "this process has used CUDA already, so what its context and cuBLAS take cannot be measured any more; "
            "calibrate in a new process: memplan calibrate --device cuda"
        )
    free_before = present_gpus()[0].free_bytes
    workspace_bytes = _workspace_bytes()
    query, entities = torch.randn(QUERIES, RANK, device="cuda"), torch.randn(ENTITIES, RANK, device="cuda")
    scores = torch.empty(QUERIES, ENTITIES, device="cuda")
    product = _seconds(lambda: torch.mm(query, entities.T, out=scores))
    floats = torch.zeros(MOVED_FLOATS, device="cuda")
    moved = _seconds(lambda: floats.add_(1.0))
    written = _seconds(lambda: floats + 1.0)
    one = torch.zeros(1, device="cuda")

    def small_operations() -> None:
        for _ in range(SMALL_OPERATIONS):
            one.add_(one)

    launches = _seconds(small_operations)
    forward, backward = _l1_seconds(target, query, entities, scores)
    terms = QUERIES * ENTITIES * RANK
    return Calibration(
        device=target.name,
        threads=usable_threads(),
        versions=_versions(),
        flops_per_second=2 * terms / product,
        bytes_per_second=8 * MOVED_FLOATS / moved,
        fresh_bytes_per_second=4 * MOVED_FLOATS / written,
        launch_seconds=launches / SMALL_OPERATIONS,
        l1_terms_per_second=None if forward is None else terms / forward,
        l1_gradient_terms_per_second=None if backward is None else terms / backward,
        context_bytes=_context_bytes(free_before),
        workspace_bytes=workspace_bytes,
    )


def _l1_seconds(
    target: Target, query: torch.Tensor, entities: torch.Tensor, scores: torch.Tensor
) -> tuple[float | None, float | None]:
    """Return what the fused L1 kernel takes, forward and backward; None where it cannot run."""
    if obstacle("l1", "fused", "cuda", target.capability) is not None:
        return None, None
    kernel = make_score("l1", "fused", "cuda")
    pair = (query, query)
    gradients = (torch.zeros_like(query), torch.zeros_like(query))
    to_entities = torch.zeros_like(entities)
    forward = _seconds(lambda: kernel.forward(pair, entities, scores, grad=True))
    backward = _seconds(lambda: kernel.backward(pair, entities, scores, gradients, to_entities))
    return forward, backward


def _seconds(work: Callable[[], object]) -> float:
    """Return the median seconds of one call, after a first that is not counted."""

    def once() -> float:
        begin = time.perf_counter()
        work()
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
