"""What tests of scoring share with others."""

from __future__ import annotations

import torch
from torch import Tensor

from memplan.workload import Score
from tkbc.scoring import PairwiseScore

Results = tuple[Tensor, tuple[Tensor, ...], Tensor]
"""Scores, gradients of the query, gradient of the entities."""


def reference(score: Score, query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
    """The scores from their definition, one pair of rows after another dimension by dimension, in float64."""
    query, entities = tuple(t.double() for t in query), entities.double()
    if score == "dot":
        return torch.einsum("bk,nk->bn", query[0], entities)
    a, w = query
    power = 1 if score == "l1" else 2
    return -torch.stack([(a - w * e).abs().pow(power).sum(1) for e in entities], dim=1)


def draw_inputs(score: Score, b: int, c: int, width: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query = tuple(torch.randn(b, width, generator=generator) for _ in range(1 if score == "dot" else 2))
    entities = torch.randn(c, width, generator=generator)
    return query, entities, torch.randn(b, c, generator=generator)


def run(
    implementation: PairwiseScore, query: tuple[Tensor, ...], entities: Tensor, grad_scores: Tensor, start: float = 0.0
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Return scores and gradients; the buffer is poisoned, so that an entry left out shows."""
    b, c = grad_scores.shape
    out = torch.full((b, c), float("nan"), dtype=entities.dtype) if implementation.needs_buffer else None
    scores = implementation.forward(query, entities, out, grad=True).clone()
    grad_query = tuple(torch.full(t.shape, start, dtype=t.dtype) for t in query)
    grad_entities = torch.full(entities.shape, start, dtype=entities.dtype)
    implementation.backward(query, entities, grad_scores, grad_query, grad_entities)
    return scores, grad_query, grad_entities


def expected(
    score: Score, query: tuple[Tensor, ...], entities: Tensor, grad_scores: Tensor
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    leaves = [t.double().requires_grad_() for t in (*query, entities)]
    scores = reference(score, tuple(leaves[:-1]), leaves[-1])
    *grad_query, grad_entities = torch.autograd.grad(scores, leaves, grad_scores.double())
    return scores.detach(), tuple(grad_query), grad_entities


def relative_error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm().clamp_min(1e-12))


def assert_l1_close(
    found: Results, truth: Results, query: tuple[Tensor, ...], entities: Tensor, grad_scores: Tensor
) -> None:
    """Scores within 2e-6 of the truth, gradients within 1e-6 of the size of their terms.

    Gradients are sums of terms of either sign that can cancel to almost nothing, so their error is measured against the
    terms: Σ|G|, Σ|G||e| and Σ|G||w|.
    """
    assert relative_error(found[0], truth[0]) < 2e-6
    g = grad_scores.double().abs()
    sizes = (
        g.sum(1, keepdim=True).expand(query[0].shape),
        g @ entities.double().abs(),
        g.T @ query[1].double().abs(),
    )
    for gradient, exact, size in zip((*found[1], found[2]), (*truth[1], truth[2]), sizes, strict=True):
        assert float((gradient.double() - exact).norm() / size.norm()) < 1e-6
