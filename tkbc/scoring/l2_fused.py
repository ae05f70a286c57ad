# Its bytes are told by memplan/memory/programs/scoring.py (``_fused_l2_*``).
"""The weighted L2 score without a (b, ·, d) tensor: unlike an absolute value, a square opens into matrix products.

−Σ_k (a_k − w_k e_k)² = 2 (a∘w) · e − w² · e² − ‖a‖². The three parts are larger than their sum where a and w∘e are
close, so its error is relative to them: about 1e-6 of ‖a‖² + ‖w∘e‖².
"""

from __future__ import annotations

import torch
from torch import Tensor

from tkbc.scoring.softmax_torch import TorchSoftmax


class FusedL2(TorchSoftmax):
    """−Σ_k (a_k − w_k e_k)² and its gradients as matrix products, in place."""

    needs_buffer = True

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        a, w = query
        assert out is not None
        factor = a * w
        torch.mm(factor, entities.T, out=out)
        squares = entities.square()
        torch.mul(w, w, out=factor)
        out.addmm_(factor, squares.T, beta=2, alpha=-1)
        del squares
        torch.mul(a, a, out=factor)
        return out.sub_(factor.sum(1)[:, None])

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        a, w = query
        grad_a, grad_w = grad_query
        # ∂a = 2 w ∘ (G E) − 2 a ∘ Σ_n G and ∂w = 2 a ∘ (G E) − 2 w ∘ (G E²)
        product = grad_scores @ entities
        grad_a.addcmul_(w, product, value=2)
        grad_w.addcmul_(a, product, value=2)
        squares = entities.square()
        torch.mm(grad_scores, squares, out=product)
        grad_w.addcmul_(w, product, value=-2)
        grad_a.addcmul_(a, grad_scores.sum(1)[:, None], value=-2)
        # ∂E = 2 Gᵀ (a ∘ w) − 2 E ∘ (Gᵀ w²)
        torch.mul(a, w, out=product)
        grad_entities.addmm_(grad_scores.T, product, alpha=2)
        torch.mul(w, w, out=product)
        torch.mm(grad_scores.T, product, out=squares)
        grad_entities.addcmul_(entities, squares, value=-2)
