"""What the loss and the ranking ask of a score, and which implementation is taken: an explicit choice or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from memplan.errors import MemplanError, UsageError
from memplan.workload import DeviceType, Precision, Score, Scoring, Workload
from memplan.workload.rules import require
from tkbc.scoring.rounded import Rounded

if TYPE_CHECKING:
    from torch import Tensor


class PairwiseScore(Protocol):
    """What the loss and the evaluation ask of a score."""

    @property
    def needs_buffer(self) -> bool:
        """Whether ``forward`` writes into the ``out`` that it is given (otherwise ``out`` is None)."""

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Return the (b, c) scores; the caller may overwrite them. ``grad``: a backward will follow."""

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores into probabilities, in place; return its log-sum-exp, (b,)."""

    @property
    def keeps_scores(self) -> bool:
        """Whether the scores outlive ``log_sum_exp_``."""

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,)."""

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores into exp(score − shift of its row), in place."""

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""

    def forget(self) -> None:
        """Free what a forward kept for a backward that will not come."""


def _fused_l1(device: DeviceType, threads: int, precision: Precision) -> PairwiseScore:
    if device == "cpu":
        from tkbc.scoring.l1_numba import NumbaL1  # numba takes a second to import: only where it is used

        on_cpu = NumbaL1(threads)
        on_cpu.compile()
        return on_cpu if precision == "fp32" else Rounded(on_cpu, precision)
    try:
        from tkbc.scoring.l1_triton import TritonL1
    except ImportError as error:
        raise UsageError(
            f"scoring 'fused' of the l1 score cannot run on cuda: {error}; Triton comes with PyTorch's CUDA builds for "
            "Linux. Install it, or use --scoring chunked"
        ) from None
    import torch

    on_cuda = TritonL1(precision)
    try:
        on_cuda.compile(device)
    except (MemplanError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - Triton, ptxas, the C compiler and the driver each raise their own
        raise MemplanError(
            f"the fused L1 kernels do not compile or start: {_first_line(error)} ({_gpu_and_versions()}); use "
            "--scoring chunked"
        ) from None
    torch.cuda.empty_cache()  # what the check of the kernels took
    return on_cuda


def _first_line(error: Exception) -> str:
    """Return what an error says in its first line; Triton's own begin with the place in the source and say it apart."""
    said = str(getattr(error, "error_message", None) or error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0]}" if said else type(error).__name__


def _gpu_and_versions() -> str:
    from importlib.metadata import version

    import torch

    major, minor = torch.cuda.get_device_capability()
    return (
        f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}, torch {torch.__version__}, triton "
        f"{version('triton')}"
    )


def make_score(
    score: Score,
    scoring: Scoring,
    device: DeviceType,
    threads: int = 1,
    precision: Precision = "fp32",
) -> PairwiseScore:
    """Return the implementation of ``score`` asked for.

    ``threads``: CPU threads of the fused L1 kernel; the others follow PyTorch's own setting. ``precision``: of the
    score's inputs; what comes out is float32.

    Raises:
        UsageError: it cannot run here, with the reason. Nothing is chosen in its place: choosing is the planner's.
        MemplanError: its kernels do not compile, start or compute the formula on this GPU.
    """
    require(score, scoring, device)
    return _make(score, scoring, precision, lambda: _fused_l1(device, threads, precision))


def score_without_kernels(workload: Workload) -> PairwiseScore:
    """Return a workload's score over tensors that hold no numbers: kernels allocate what they do and are not run."""

    def fused_l1() -> PairwiseScore:
        if workload.device == "cuda":
            from tkbc.scoring.l1_cuda import L1OnCuda

            return L1OnCuda(workload.precision)
        from tkbc.scoring.l1_cpu import L1OnCpu

        on_cpu = L1OnCpu(workload.threads)
        return on_cpu if workload.precision == "fp32" else Rounded(on_cpu, workload.precision)

    return _make(workload.score, workload.scoring, workload.precision, fused_l1)


def _make(score: Score, scoring: Scoring, precision: Precision, fused_l1: Callable[[], PairwiseScore]) -> PairwiseScore:
    """Return the score; only what is asked for is imported, since the planner starts in a fifth of a second."""
    if scoring != "fused":
        from tkbc.scoring.plain import Chunked, Materialized

        return Chunked(score, precision) if scoring == "chunked" else Materialized(score, precision)
    match score:
        case "l1":
            return fused_l1()
        case "l2":
            from tkbc.scoring.l2_fused import FusedL2

            fused: PairwiseScore = FusedL2()
        case "dot":
            from tkbc.scoring.dot_fused import FusedDot

            fused = FusedDot()
    return fused if precision == "fp32" else Rounded(fused, precision)
