# Its bytes are told by memplan/memory/programs/scoring.py: none.
"""The dot score without a temporary: products written into, and added to, tensors that are already there."""

from __future__ import annotations

import torch
from torch import Tensor

from tkbc.scoring.softmax_torch import TorchSoftmax


class FusedDot(TorchSoftmax):
    """q · e and its gradients as matrix products, ``out=`` and in place."""

    needs_buffer = True

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        (q,) = query
        assert out is not None
        return torch.mm(q, entities.T, out=out)

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        (q,) = query
        (grad_q,) = grad_query
        grad_q.addmm_(grad_scores, entities)
        grad_entities.addmm_(grad_scores.T, q)
