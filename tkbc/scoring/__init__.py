"""The pairwise scores, each in up to three scorings behind one function, ``make_score``.

A score takes a query, a tuple of (b, width) tensors, and rows of the entity table, (c, width), and gives (b, c):

    dot   q · e                        query (q,)
    l1    −Σ_k |a_k − w_k e_k|         query (a, w)
    l2    −Σ_k (a_k − w_k e_k)²        query (a, w)

``materialized`` scores all entities in plain PyTorch and keeps the graph, ``chunked`` does so a chunk of entities at a
time and recomputes in backward, ``fused`` builds no tensor larger than the scores. All three give the same numbers.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

import torch
from torch import Tensor

from memplan.errors import MemplanError, UsageError
from memplan.workload import DeviceType, Precision, Score, Scoring
from memplan.workload.rules import require
from tkbc.scoring.dot_fused import FusedDot
from tkbc.scoring.l2_fused import FusedL2
from tkbc.scoring.plain import Chunked, Materialized
from tkbc.scoring.rounded import HALF_TYPES, Rounded


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
    on_cuda = TritonL1(HALF_TYPES.get(precision, torch.float32))
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
    if scoring == "chunked":
        return Chunked(score, HALF_TYPES.get(precision))
    if scoring == "materialized":
        return Materialized(score, HALF_TYPES.get(precision))
    match score:
        case "l1":
            return _fused_l1(device, threads, precision)
        case "l2":
            fused: PairwiseScore = FusedL2()
        case "dot":
            fused = FusedDot()
    return fused if precision == "fp32" else Rounded(fused, precision)
