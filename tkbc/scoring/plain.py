"""The scores in plain PyTorch: ``materialized`` keeps (b, N, d) tensors as plain code does, ``chunked`` recomputes.

Gradients are written out, so that on CUDA every tensor dies where the code says and no other thread allocates. With
G = ∂L/∂scores, f = |·| or (·)² and D = ∂L/∂(a − w·e) = −G ∘ f'(a − w·e):

    ∂a = Σ_n D     ∂w = −Σ_n D ∘ e     ∂e = −Σ_b D ∘ w
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tkbc.scoring.rounded import HALF_TYPES
from tkbc.scoring.softmax_torch import TorchSoftmax
from tkbc.tensors import named, of_type, torch

if TYPE_CHECKING:
    from torch import Tensor

    from memplan.workload import Precision, Score

LARGEST_FLOAT16 = 65_504.0


def loss_scale(inputs: tuple[Tensor, ...], grad_scores: Tensor) -> float:
    """Return the power of two by which the scores' gradient G can be multiplied without any float16 overflowing.

    With m the largest magnitude among the inputs, no gradient or term of one exceeds Σ|G| over a row or a column times
    max(1, m), times 2 (m + m²) more where a difference is squared. The bound is computed, not tried: an overflow to
    recover from cannot happen, and small probabilities keep what float16 can hold of them. Waits for the device.
    """
    norm = torch.linalg.vector_norm
    largest = max(
        float(named("largest input", named("largest of each input row", norm(tensor, math.inf, dim=1)).amax()))
        for tensor in inputs
    )
    sums = max(
        float(named("largest sum", named("sums of the scores' gradient", norm(grad_scores, 1, dim=dim)).amax()))
        for dim in (0, 1)
    )
    bound = sums * max(1.0, largest) * max(1.0, 2 * (largest + largest**2))
    if not 0 < bound < math.inf:
        return 1.0  # no gradient at all, or none that is finite: not for a scale to mend
    return 2.0 ** math.floor(math.log2(LARGEST_FLOAT16 / bound))


def loss_scale_on_device(inputs: tuple[Tensor, ...], grad_scores: Tensor) -> Tensor:
    """Return what ``loss_scale`` does as a float32 scalar, computed where the inputs are: nobody waits for it."""
    norm, a_row, a_sum = torch.linalg.vector_norm, "input row", "sum of the scores' gradient"
    in_half = torch.stack([_largest(norm(tensor, math.inf, dim=1), a_row) for tensor in inputs])
    in_half = named(f"largest {a_row}", named(f"largest {a_row}, of each tensor", in_half).amax())
    sums = torch.stack([_largest(norm(grad_scores, 1, dim=dim), a_sum) for dim in (0, 1)])
    sums = named(f"largest {a_sum}", named(f"largest {a_sum}, of each tensor", sums).amax())
    largest = named("largest input", in_half.to(of_type(in_half, "float32")))
    del in_half
    bound = sums.mul_(named("factor of the bound", largest.clamp(min=1)))
    bound.mul_(named("factor of the bound", largest.square()).add_(largest).mul_(2).clamp_(min=1))
    # Beyond 2^100 the gradient is too small for any float32 sum, and 1 / bound might overflow.
    most = named("scale", bound.reciprocal()).mul_(LARGEST_FLOAT16).clamp_(max=2.0**100)
    mantissa, _exponent = torch.frexp(
        most
    )  # in [0.5, 1): the power of two at or below ``most`` is what it leaves, halved
    scale = most.div_(named("mantissa", mantissa).mul_(2))
    name = "bound in range"
    in_range = named(name, named(name, bound > 0) & named(name, bound < math.inf))
    return scale.masked_fill_(named("bound out of range", ~in_range), 1.0)


def _largest(numbers: Tensor, of: str) -> Tensor:
    """Return the largest of a vector, a number for each ``of``."""
    return named(f"largest {of}", named(f"largest of each {of}", numbers).amax())


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
    return torch.bmm(named("ones", terms.new_ones((1, 1, n))).expand(rows, 1, n), terms)[:, 0, :]


class _Plain(TorchSoftmax):
    """A formula with its gradients; inputs are rounded where ``precision`` is a half one."""

    def __init__(self, score: Score, precision: Precision = "fp32") -> None:
        self.score = score
        self.dtype = HALF_TYPES.get(precision)

    def _rounded(self, query: tuple[Tensor, ...], entities: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        if self.dtype is None:
            return query, entities
        dtype = of_type(entities, self.dtype)
        names = ("q",) if self.score == "dot" else ("a", "w")
        halves = (
            named(f"{name} in half precision", tensor.to(dtype)) for name, tensor in zip(names, query, strict=True)
        )
        return tuple(halves), named("scored entities in half precision", entities.to(dtype))

    def _scores(self, query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
        """Return new (b, c) scores of rounded inputs; nothing else stays (reference.py has the formulas)."""
        if self.score == "dot":
            q, total = query[0], _sum_type(entities)
            product = named("q, rounded", q.to(total)) @ named("entities, rounded", entities.to(total)).T
            return named("scores", product, "scores")
        a, w = query
        distances = named("distances", _sum(self._terms(_difference(a, w, entities))), "scores")
        return named("scores", -distances, "scores")

    def _terms(self, difference: Tensor) -> Tensor:
        """Return f(a − w·e)."""
        if self.score == "l1":
            return named("|a − w · e|", difference.abs())
        return named("(a − w · e)²", difference.square())

    def _add_product_gradients(
        self, query: tuple[Tensor, ...], entities: Tensor, grad_scores: Tensor, totals: tuple[Tensor, ...]
    ) -> None:
        """Add the gradients of the ``dot`` score to ``totals``, (q, entities): of the rounded inputs, in float32."""
        (q,), entities = self._rounded(query, entities)
        grad_q, grad_entities = totals
        dtype = grad_scores.dtype
        of_entities = grad_scores.T @ named("q, rounded", q.to(dtype))
        grad_entities.add_(named("gradient of the scored entities, plain", of_entities))
        del of_entities
        of_q = grad_scores @ named("entities, rounded", entities.to(dtype))
        grad_q.add_(named("gradient of q, plain", of_q))

    def _scaled(self, inputs: tuple[Tensor, ...], grad_scores: Tensor) -> tuple[Tensor, float | Tensor]:
        """Return −G in the inputs' type, times a power of two where that is float16, and one over this power."""
        dtype = inputs[0].dtype
        if self.dtype != "float16":
            return _half(_minus(grad_scores * -1.0), dtype), 1.0
        if grad_scores.is_cuda:
            scale = loss_scale_on_device(inputs, grad_scores)
            minus_grad = _minus(grad_scores * named("minus the scale", -scale))
            return _half(minus_grad, dtype), scale.reciprocal_()
        power = loss_scale(inputs, grad_scores)
        return _half(_minus(grad_scores * -power), dtype), 1 / power

    def _slope(self, difference: Tensor, *, in_place: bool) -> Tensor:
        """Return f'(a − w·e): its sign for ``l1``, twice itself for ``l2``."""
        if self.score == "l1":
            return difference.sign_() if in_place else named("sign(a − w · e)", difference.sign())
        return difference.mul_(2) if in_place else named("2 (a − w · e)", difference * 2)


def _difference(a: Tensor, w: Tensor, entities: Tensor) -> Tensor:
    """Return a − w·e for each query and entity, (b, c, d)."""
    return named("a − w · e", a[:, None, :] - named("w · e", w[:, None, :] * entities))


def _sum(terms: Tensor) -> Tensor:
    return terms.sum(-1, dtype=_sum_type(terms))


def _sum_type(tensor: Tensor) -> torch.dtype:
    """Return the type of sums: the terms' own, or float32 where that is a half one."""
    return of_type(tensor, "float32") if tensor.element_size() < 4 else tensor.dtype


def _minus(minus_grad: Tensor) -> Tensor:
    return named("minus the scores' gradient", minus_grad, "scores")


def _half(minus_grad: Tensor, dtype: torch.dtype) -> Tensor:
    return named("minus the scores' gradient, in half precision", minus_grad.to(dtype))


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
    _add(grad_a, named("gradient of a, plain", sum_over(grad_difference, 1)), 1, factor)
    terms = named("terms of the gradient of w", grad_difference * entities)
    of_w = named("gradient of w, plain", sum_over(terms, 1))
    del terms
    _add(grad_w, of_w, -1, factor)
    del of_w
    grad_difference.mul_(query[1][:, None, :])
    _add(grad_entities, named("gradient of the scored entities, plain", sum_over(grad_difference, 0)), -1, factor)


def _add(total: Tensor, part: Tensor, sign: int, factor: float | Tensor) -> None:
    if isinstance(factor, float):
        total.add_(part, alpha=sign * factor)
    else:
        total.addcmul_(part, factor, value=sign)


class Chunked(_Plain):
    """A formula over one chunk of entities; ``backward`` computes the differences again, the rest in their place."""

    needs_buffer = True

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: nothing is kept)."""
        del grad
        assert out is not None
        return out.copy_(self._scores(*self._rounded(query, entities)))

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
        grad_difference = self._slope(_difference(a, w, entities), in_place=True)
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

    def __init__(self, score: Score, precision: Precision = "fp32") -> None:
        super().__init__(score, precision)
        self._kept: list[Tensor] = []

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Return new (b, N) scores, which the caller may overwrite; with ``grad`` the differences are kept."""
        del out
        query, entities = self._rounded(query, entities)
        if not grad or self.score == "dot":
            return self._scores(query, entities)
        a, w = query
        self._kept = [_difference(a, w, entities)]
        terms = self._terms(self._kept[0])
        return named("scores", -named("distances", _sum(terms), "scores"), "scores")

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
        grad_difference = named("gradient of a − w · e", slope * minus_grad[:, :, None])
        del slope, minus_grad
        self._kept.clear()
        _add_distance_gradients((a, w), entities, grad_difference, totals, factor)

    def forget(self) -> None:
        """Free what a forward kept whose backward will not come."""
        self._kept.clear()
