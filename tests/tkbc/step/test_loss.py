"""The streamed softmax loss against PyTorch's own cross-entropy in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from memplan.workload import SCORINGS, Score, Scoring
from tests.support.scoring import draw_inputs, reference, relative_error
from tkbc.scoring import make_score
from tkbc.step.loss import softmax_cross_entropy


def check(
    score: Score, scoring: Scoring, b: int, n: int, width: int, chunk: int, seed: int, scale: float = 1.0
) -> None:
    query, entities, _ = draw_inputs(score, b, n, width, seed)
    query = tuple(scale * t for t in query)
    labels = torch.randint(0, n, (b,), generator=torch.Generator().manual_seed(seed))
    grad_entities = torch.ones_like(entities)
    loss, grad_query = softmax_cross_entropy(
        make_score(score, scoring, "cpu", 2), query, entities, labels, grad_entities, chunk_size=chunk
    )
    leaves = [t.double().requires_grad_() for t in (*query, entities)]
    truth = cross_entropy(reference(score, tuple(leaves[:-1]), leaves[-1]), labels, reduction="sum")
    *true_query, true_entities = torch.autograd.grad(truth, leaves)
    assert loss.item() == pytest.approx(truth.item(), rel=2e-5, abs=2e-5)
    if n > 1:
        for found, expected in zip(grad_query, true_query, strict=True):
            assert relative_error(found, expected) < 2e-4
        assert torch.allclose(
            grad_entities.double() - 1, true_entities, atol=1e-5 * float(true_entities.abs().max()) + 1e-6
        )


@pytest.mark.parametrize("score", ["dot", "l1"])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("chunk", [1, 7, 50, 53])
def test_value_and_gradients(score: Score, scoring: Scoring, chunk: int) -> None:
    """53 entities in chunks of 1, 7 (ragged), 50 (a last chunk of 3) and 53."""
    check(score, scoring, 11, 53, 6, 53 if scoring == "materialized" else chunk, seed=chunk)


@pytest.mark.slow
@settings(max_examples=40)
@given(b=st.integers(1, 20), n=st.integers(1, 90), width=st.integers(1, 9), data=st.data(), seed=st.integers(0, 99))
def test_any_shape_and_chunk(b: int, n: int, width: int, data: st.DataObject, seed: int) -> None:
    chunk = data.draw(st.integers(1, n))
    check(data.draw(st.sampled_from(["dot", "l1"])), "fused", b, n, width, chunk, seed)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    """Score differences of several hundred: the label's probability underflows, its loss must not."""
    for chunk in (53, 10):
        check("l1", "fused", 9, 53, 6, chunk, seed=5, scale=100.0)
        check("dot", "fused", 9, 53, 6, chunk, seed=5, scale=100.0)
