"""The fused L1 score on the CPU without its kernels: the tensors that they work in, and what fills the scores.

This much needs neither PyTorch nor numba. l1_numba.py adds the kernels; without them it allocates the same and computes
nothing, which is what the planner asks of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tkbc.scoring.softmax_torch import KernelSoftmax
from tkbc.tensors import named

if TYPE_CHECKING:
    from torch import Tensor

TILE = 720
"""Entities a tile: at d = 100 the tile and its gradient take 576 KB and stay in a core's L2 cache."""


def geometry(n_candidates: int, threads: int) -> tuple[int, int]:
    """Return (parts, tile): the threads that get work and the width of their tiles, for ``n_candidates`` entities."""
    parts = min(threads, -(-n_candidates // TILE))
    span = -(-n_candidates // parts)
    return parts, min(TILE, span)


class L1OnCpu(KernelSoftmax):
    """−Σ_k |a_k − w_k e_k| and its gradients, in ``threads`` spans of entities, by kernels that a subclass adds."""

    needs_buffer = True

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        assert out is not None
        n_candidates, rank = entities.shape
        parts, tile = geometry(n_candidates, self.threads)
        packed = named("packed tiles of entities", entities.new_empty((parts, rank, tile)))
        self._forward(query, entities, out, packed)
        return out

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        n_candidates, rank = entities.shape
        parts, tile = geometry(n_candidates, self.threads)
        packed = named("packed tiles of entities", entities.new_empty((parts, rank, tile)))
        packed_grads = named("packed tiles of entity gradients", entities.new_empty((parts, rank, tile)))
        # Part 0 adds straight to the result; the others get tables of their own, added in order.
        others = named("query gradients of the other threads", entities.new_empty((2, parts - 1, *query[0].shape)))
        self._backward(query, entities, grad_scores, grad_query, grad_entities, (packed, packed_grads, others))

    def _forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor, packed: Tensor) -> None:
        pass

    def _backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
        scratch: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        pass
