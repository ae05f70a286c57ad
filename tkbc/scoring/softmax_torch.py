# Its bytes are told by memplan/memory/programs/loss.py.
"""Row-wise softmax in place, with PyTorch's own operations: what every score does that brings no kernels of its own."""

from __future__ import annotations

import torch
from torch import Tensor


class TorchSoftmax:
    """The operations on a buffer of scores that the loss needs, each in place."""

    keeps_scores = False

    def forget(self) -> None:
        """Free what a forward kept for its backward: here nothing."""

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores, (b, c), into probabilities; return its log-sum-exp, (b,).

        The largest probability of a row is at least 1 / c, so its logarithm is safe: log Σ exp s = max s − log max p.
        """
        largest = scores.amax(1)
        torch.softmax(scores, 1, out=scores)
        return largest.sub_(scores.amax(1).log_())

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,); the scores become probabilities."""
        return self.softmax_(scores)

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores, (b, c), into exp(score − shift of its row), shift (b,)."""
        scores.sub_(shift[:, None]).exp_()
