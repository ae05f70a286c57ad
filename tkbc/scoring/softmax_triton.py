# Its bytes are told by memplan/memory/programs/loss.py: the log-sum-exp alone.
"""Row-wise softmax on CUDA, in place: Triton kernels beside the fused L1 score's.

PyTorch's own operations read a score six times and write it once for probabilities and log-sum-exp; these read it twice
and write it once, and the log-sum-exp alone reads it once and leaves it. The fused dot and L2 scores keep PyTorch's:
they run on GPUs for which Triton does not compile.
"""

from __future__ import annotations

from torch import Tensor

from tkbc.scoring.kernels.softmax import exp_rows, log_sum_exp_rows, softmax_rows

ROW_BLOCK = 1024
"""Scores that a program reads at once: 8 a thread, which hides the memory's latency."""
ROW_WARPS = 4


class TritonSoftmax:
    """The operations on a contiguous buffer of float32 scores that the loss needs, each in place."""

    keeps_scores = True

    def forget(self) -> None:
        """Free what a forward kept for its backward: here nothing."""

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores, (b, c), into probabilities; return its log-sum-exp, (b,)."""
        log_sum_exp = scores.new_empty(len(scores))
        softmax_rows[(len(scores),)](scores, log_sum_exp, scores.shape[1], BLOCK=ROW_BLOCK, num_warps=ROW_WARPS)
        return log_sum_exp

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,); the scores stay."""
        log_sum_exp = scores.new_empty(len(scores))
        log_sum_exp_rows[(len(scores),)](scores, log_sum_exp, scores.shape[1], BLOCK=ROW_BLOCK, num_warps=ROW_WARPS)
        return log_sum_exp

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores, (b, c), into exp(score − shift of its row), shift (b,)."""
        exp_rows[(len(scores),)](scores, shift, scores.shape[1], BLOCK=ROW_BLOCK, num_warps=ROW_WARPS)
