"""Row-wise softmax in place: by PyTorch's own operations, or room for what kernels of one's own write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tkbc.tensors import named, torch

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_THEN_SUM = "largest scores, then log-sum-exp of the chunk"


class TorchSoftmax:
    """The operations on a buffer of scores that the loss needs, each in place."""

    keeps_scores = False

    def forget(self) -> None:
        """Free what a forward kept for its backward: here nothing."""

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores, (b, c), into probabilities; return its log-sum-exp, (b,).

        The largest probability of a row is at least 1 / c, so its logarithm is safe: log Σ exp s = max s − log max p.
        """
        largest = named(LARGEST_THEN_SUM, scores.amax(1))
        torch.softmax(scores, 1, out=scores)
        return largest.sub_(named("largest probabilities", scores.amax(1)).log_())

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,); the scores become probabilities."""
        return self.softmax_(scores)

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores, (b, c), into exp(score − shift of its row), shift (b,)."""
        scores.sub_(shift[:, None]).exp_()


class KernelSoftmax:
    """What a softmax by kernels of its own allocates; a subclass launches them. The log-sum-exp leaves the scores."""

    keeps_scores = True

    def forget(self) -> None:
        """Free what a forward kept for its backward: here nothing."""

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores, (b, c), into probabilities; return its log-sum-exp, (b,)."""
        return named(LARGEST_THEN_SUM, scores.new_empty(len(scores)))

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,); the scores stay."""
        return named(LARGEST_THEN_SUM, scores.new_empty(len(scores)))

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores, (b, c), into exp(score − shift of its row), shift (b,)."""
