# Its bytes are told by memplan/programs/scoring.py (``_plain_*``).
"""The scores in plain PyTorch: ``materialized`` keeps the whole graph, ``chunked`` recomputes it a chunk at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tkbc.scoring.reference import Formula
from tkbc.scoring.softmax_torch import TorchSoftmax


def _gradients(
    scores: Tensor,
    inputs: tuple[Tensor, ...],
    grad_scores: Tensor,
    grad_query: tuple[Tensor, ...],
    grad_entities: Tensor,
) -> None:
    scale = 1.0
    if inputs[0].dtype == torch.float16:
        scale = loss_scale(inputs, grad_scores)
        grad_scores = grad_scores * scale
    *to_query, to_entities = torch.autograd.grad(scores, inputs, grad_scores)
    for total, part in zip(grad_query, to_query, strict=True):
        total.add_(part, alpha=1 / scale)
    grad_entities.add_(to_entities, alpha=1 / scale)


def loss_scale(inputs: tuple[Tensor, ...], grad_scores: Tensor) -> float:
    """Return the power of two by which the scores' gradient G can be multiplied without any float16 overflowing.

    With m the largest magnitude among the inputs, no gradient or term of one exceeds Σ|G| over a row or a column times
    max(1, m), times 2 (m + m²) more where a difference is squared. The bound is computed, not tried: an overflow to
    recover from cannot happen, and small probabilities keep what float16 can hold of them.
    """
    largest = max(float(torch.linalg.vector_norm(tensor.detach(), torch.inf)) for tensor in inputs)
    sums = max(float(torch.linalg.vector_norm(grad_scores, 1, dim=dim).amax()) for dim in (0, 1))
    bound = sums * max(1.0, largest) * max(1.0, 2 * (largest + largest**2))
    if not 0 < bound < math.inf:
        return 1.0  # no gradient at all, or none that is finite: not for a scale to mend
    return 2.0 ** math.floor(math.log2(torch.finfo(torch.float16).max / bound))


def _leaves(query: tuple[Tensor, ...], entities: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in (*query, entities))


class Chunked(TorchSoftmax):
    """A formula over one chunk of entities; its graph lives only inside ``backward``, which computes it again."""

    needs_buffer = True

    def __init__(self, formula: Formula, dtype: torch.dtype | None = None) -> None:
        self.formula = formula
        self.dtype = dtype

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        assert out is not None
        with torch.no_grad():
            *query_, entities_ = _leaves(query, entities, self.dtype)
            return out.copy_(self.formula(tuple(query_), entities_))

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        leaves = _leaves(query, entities, self.dtype)
        with torch.enable_grad():
            scores = self.formula(leaves[:-1], leaves[-1])
        _gradients(scores, leaves, grad_scores, grad_query, grad_entities)


class Materialized(TorchSoftmax):
    """A formula over all entities at once, its graph kept from forward to backward: the guide's way."""

    needs_buffer = False

    def __init__(self, formula: Formula, dtype: torch.dtype | None = None) -> None:
        self.formula = formula
        self.dtype = dtype
        self._graph: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Return new (b, N) scores, which the caller may overwrite; with ``grad`` their graph is kept."""
        del out
        if not grad:
            with torch.no_grad():
                *query_, entities_ = _leaves(query, entities, self.dtype)
                return self.formula(tuple(query_), entities_)
        leaves = _leaves(query, entities, self.dtype)
        with torch.enable_grad():
            scores = self.formula(leaves[:-1], leaves[-1])
        self._graph = (scores, leaves)
        return scores.detach()

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``; frees the graph."""
        del query, entities
        assert self._graph is not None, "backward follows a forward with grad=True"
        scores, leaves = self._graph
        self._graph = None
        _gradients(scores, leaves, grad_scores, grad_query, grad_entities)

    def forget(self) -> None:
        """Free the graph of a forward whose backward will not come."""
        self._graph = None
