# Its bytes are told by memplan/memory/programs/plain.py.
"""The scores in plain PyTorch: ``materialized`` keeps (b, N, d) tensors as plain code does, ``chunked`` recomputes.

Gradients are written out, so that on CUDA every tensor dies where the code says and no other thread allocates. With
G = ∂L/∂scores, f = |·| or (·)² and D = ∂L/∂(a − w·e) = −G ∘ f'(a − w·e):

    ∂a = Σ_n D     ∂w = −Σ_n D ∘ e     ∂e = −Σ_b D ∘ w
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from memplan.workload import Score
from tkbc.scoring.reference import FORMULAS
from tkbc.scoring.softmax_torch import TorchSoftmax


def loss_scale(inputs: tuple[Tensor, ...], grad_scores: Tensor) -> float:
    """Return the power of two by which the scores' gradient G can be multiplied without any float16 overflowing.

    With m the largest magnitude among the inputs, no gradient or term of one exceeds Σ|G| over a row or a column times
    max(1, m), times 2 (m + m²) more where a difference is squared. The bound is computed, not tried: an overflow to
    recover from cannot happen, and small probabilities keep what float16 can hold of them. Waits for the device.
    """
    largest = max(float(torch.linalg.vector_norm(tensor, torch.inf, dim=1).amax()) for tensor in inputs)
    sums = max(float(torch.linalg.vector_norm(grad_scores, 1, dim=dim).amax()) for dim in (0, 1))
    bound = sums * max(1.0, largest) * max(1.0, 2 * (largest + largest**2))
    if not 0 < bound < math.inf:
        return 1.0  # no gradient at all, or none that is finite: not for a scale to mend
    return 2.0 ** math.floor(math.log2(torch.finfo(torch.float16).max / bound))


def loss_scale_on_device(inputs: tuple[Tensor, ...], grad_scores: Tensor) -> Tensor:
    """Return what ``loss_scale`` does as a float32 scalar, computed where the inputs are: nobody waits for it."""
    largest = torch.stack([torch.linalg.vector_norm(tensor, torch.inf, dim=1).amax() for tensor in inputs]).amax()
    sums = torch.stack([torch.linalg.vector_norm(grad_scores, 1, dim=dim).amax() for dim in (0, 1)]).amax()
    largest = largest.float()
    bound = sums.mul_(largest.clamp(min=1)).mul_(largest.square().add_(largest).mul_(2).clamp_(min=1))
    # Beyond 2^100 the gradient is too small for any float32 sum, and 1 / bound might overflow.
    most = bound.reciprocal().mul_(torch.finfo(torch.float16).max).clamp_(max=2.0**100)
    mantissa, _ = torch.frexp(most)  # in [0.5, 1): the power of two at or below ``most`` is what it leaves, halved
    scale = most.div_(mantissa.mul_(2))
    return scale.masked_fill_(~((bound > 0) & (bound < math.inf)), 1.0)


def sum_over(terms: Tensor, dim: int) -> Tensor:
    """Return the sum of (b, c, d) terms over dimension 0 or 1.

    On CUDA by a product with ones: PyTorch's own sum over a dimension that is not the last takes scratch there by shape
    and number of multiprocessors, up to several hundred megabytes.
    """
    if not terms.is_cuda:
        return terms.sum(dim)
    if dim == 0:
        terms = terms.transpose(0, 1)
    rows, n, _ = terms.shape
    return torch.bmm(terms.new_ones((1, 1, n)).expand(rows, 1, n), terms)[:, 0, :]


class _Plain(TorchSoftmax):
    """A formula with its gradients; inputs are rounded to ``dtype`` where that is given."""

    def __init__(self, score: Score, dtype: torch.dtype | None = None) -> None:
        self.score = score
        self.dtype = dtype

    def _rounded(self, query: tuple[Tensor, ...], entities: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        if self.dtype is None:
            return query, entities
        return tuple(tensor.to(self.dtype) for tensor in query), entities.to(self.dtype)

    def _add_product_gradients(
        self, query: tuple[Tensor, ...], entities: Tensor, grad_scores: Tensor, totals: tuple[Tensor, ...]
    ) -> None:
        """Add the gradients of the ``dot`` score to ``totals``, (q, entities): of the rounded inputs, in float32."""
        (q,), entities = self._rounded(query, entities)
        grad_q, grad_entities = totals
        grad_entities.add_(grad_scores.T @ q.to(grad_scores.dtype))
        grad_q.add_(grad_scores @ entities.to(grad_scores.dtype))

    def _scaled(self, inputs: tuple[Tensor, ...], grad_scores: Tensor) -> tuple[Tensor, float | Tensor]:
        """Return −G in the inputs' type, times a power of two where that is float16, and one over this power."""
        if inputs[0].dtype != torch.float16:
            return (grad_scores * -1.0).to(inputs[0].dtype), 1.0
        if grad_scores.is_cuda:
            scale = loss_scale_on_device(inputs, grad_scores)
            return (grad_scores * -scale).to(inputs[0].dtype), scale.reciprocal_()
        power = loss_scale(inputs, grad_scores)
        return (grad_scores * -power).to(inputs[0].dtype), 1 / power

    def _slope(self, difference: Tensor, *, in_place: bool) -> Tensor:
        """Return f'(a − w·e): its sign for ``l1``, twice itself for ``l2``."""
        if self.score == "l1":
            return difference.sign_() if in_place else difference.sign()
        return difference.mul_(2) if in_place else difference * 2


def _add_distance_gradients(
    query: tuple[Tensor, ...],
    entities: Tensor,
    grad_difference: Tensor,
    totals: tuple[Tensor, ...],
    factor: float | Tensor,
) -> None:
    """Add the gradients that D = ``grad_difference``, (b, c, d), gives, times ``factor``, to ``totals``, (a, w, e).

    Overwrites D.
    """
    grad_a, grad_w, grad_entities = totals
    _add(grad_a, sum_over(grad_difference, 1), 1, factor)
    _add(grad_w, sum_over(grad_difference * entities, 1), -1, factor)
    grad_difference.mul_(query[1][:, None, :])
    _add(grad_entities, sum_over(grad_difference, 0), -1, factor)


def _add(total: Tensor, part: Tensor, sign: int, factor: float | Tensor) -> None:
    if isinstance(factor, Tensor):
        total.addcmul_(part, factor, value=sign)
    else:
        total.add_(part, alpha=sign * factor)


class Chunked(_Plain):
    """A formula over one chunk of entities; ``backward`` computes the differences again, the rest in their place."""

    needs_buffer = True

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: nothing is kept)."""
        del grad
        assert out is not None
        return out.copy_(FORMULAS[self.score](*self._rounded(query, entities)))

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        totals = (*grad_query, grad_entities)
        if self.score == "dot":
            self._add_product_gradients(query, entities, grad_scores, totals)
            return
        (a, w), entities = self._rounded(query, entities)
        grad_difference = self._slope(a[:, None, :] - w[:, None, :] * entities, in_place=True)
        minus_grad, factor = self._scaled((a, w, entities), grad_scores)
        grad_difference.mul_(minus_grad[:, :, None])
        del minus_grad
        _add_distance_gradients((a, w), entities, grad_difference, totals, factor)


class Materialized(_Plain):
    """A formula over all entities at once, its differences kept from forward to backward: the guide's way.

    Written as one writes it without thinking of memory: at its peak the differences, their slope and its product with G
    live side by side, the three (b, N, d) tensors that PyTorch's autograd has there.
    """

    needs_buffer = False

    def __init__(self, score: Score, dtype: torch.dtype | None = None) -> None:
        super().__init__(score, dtype)
        self._kept: list[Tensor] = []

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Return new (b, N) scores, which the caller may overwrite; with ``grad`` the differences are kept."""
        del out
        query, entities = self._rounded(query, entities)
        if not grad or self.score == "dot":
            return FORMULAS[self.score](query, entities)
        a, w = query
        difference = a[:, None, :] - w[:, None, :] * entities
        self._kept = [difference]
        terms = difference.abs() if self.score == "l1" else difference.square()
        return -terms.sum(-1, dtype=torch.promote_types(terms.dtype, torch.float32))

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``; frees what was kept."""
        totals = (*grad_query, grad_entities)
        if self.score == "dot":
            self._add_product_gradients(query, entities, grad_scores, totals)
            return
        assert self._kept, "backward follows a forward with grad=True"
        (a, w), entities = self._rounded(query, entities)
        minus_grad, factor = self._scaled((a, w, entities), grad_scores)
        slope = self._slope(self._kept[0], in_place=False)
        grad_difference = slope * minus_grad[:, :, None]
        del slope, minus_grad
        self._kept.clear()
        _add_distance_gradients((a, w), entities, grad_difference, totals, factor)

    def forget(self) -> None:
        """Free what a forward kept whose backward will not come."""
        self._kept.clear()
