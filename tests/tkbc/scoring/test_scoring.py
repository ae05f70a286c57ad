"""Every implementation of every score against a float64 reference written here, forward and backward."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.errors import UsageError
from memplan.workload import SCORINGS, Precision, Score, Scoring
from tests.support.scoring import assert_l1_close, draw_inputs, expected, relative_error, run
from tests.support.slow import mostly_slow
from tkbc.scoring import make_score
from tkbc.scoring.plain import loss_scale, loss_scale_on_device

COMBINATIONS = [(score, scoring) for score in get_args(Score) for scoring in SCORINGS]


@cache
def drawn_and_expected(score: Score, b: int, c: int, width: int) -> tuple[Any, ...]:
    """The inputs and the truth of one shape, which many implementations are held against; nobody changes them."""
    inputs = draw_inputs(score, b, c, width, seed=b * c + width)
    return inputs, expected(score, *inputs)


@pytest.mark.parametrize(("score", "scoring"), COMBINATIONS)
@pytest.mark.parametrize("threads", mostly_slow([2, 1, 3]))
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 2, 5), (7, 13, 4), (23, 719, 17), (5, 721, 3), (6, 1441, 9), (9, 2500, 33)]
)
def test_scores_and_gradients_equal_the_float64_reference(
    score: Score, scoring: Scoring, threads: int, shape: tuple[int, int, int]
) -> None:
    (query, entities, grad_scores), (true_scores, true_query, true_entities) = drawn_and_expected(score, *shape)
    implementation = make_score(score, scoring, "cpu", threads)
    scores, grad_query, grad_entities = run(implementation, query, entities, grad_scores)
    assert relative_error(scores, true_scores) < 2e-6
    for found, truth in zip(grad_query, true_query, strict=True):
        assert relative_error(found, truth) < 2e-6
    assert relative_error(grad_entities, true_entities) < 2e-6


@pytest.mark.parametrize(("score", "scoring"), COMBINATIONS)
def test_inputs_that_are_not_contiguous(score: Score, scoring: Scoring) -> None:
    query, entities, grad_scores = draw_inputs(score, 7, 800, 13, seed=3)
    turned = tuple(t.T.contiguous().T for t in query)
    implementation = make_score(score, scoring, "cpu", 2)
    found = run(implementation, turned, entities.T.contiguous().T, grad_scores.T.contiguous().T)
    truth = expected(score, query, entities, grad_scores)
    for one, other in zip((found[0], *found[1], found[2]), (truth[0], *truth[1], truth[2]), strict=True):
        assert relative_error(one, other) < 2e-6


@pytest.mark.parametrize(("score", "scoring"), COMBINATIONS)
def test_backward_adds_to_what_is_there(score: Score, scoring: Scoring) -> None:
    query, entities, grad_scores = draw_inputs(score, 9, 800, 7, seed=0)
    implementation = make_score(score, scoring, "cpu", 2)
    _, from_zero, entities_from_zero = run(implementation, query, entities, grad_scores)
    _, from_three, entities_from_three = run(implementation, query, entities, grad_scores, start=3.0)
    for zero, three in zip([*from_zero, entities_from_zero], [*from_three, entities_from_three], strict=True):
        torch.testing.assert_close(three, zero + 3, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    b=st.integers(1, 40),
    c=st.integers(1, 1500),
    width=st.integers(1, 70),
    threads=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_fused_l1_kernel_at_random_odd_shapes(b: int, c: int, width: int, threads: int, seed: int) -> None:
    query, entities, grad_scores = draw_inputs("l1", b, c, width, seed)
    found = run(make_score("l1", "fused", "cpu", threads), query, entities, grad_scores)
    truth = expected("l1", query, entities, grad_scores)
    assert_l1_close(found, truth, query, entities, grad_scores)


@pytest.mark.parametrize(("score", "scoring"), COMBINATIONS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_rounds_the_inputs_and_sums_in_float32(
    score: Score, scoring: Scoring, precision: Precision
) -> None:
    """Fused scores are exact for the rounded inputs; plain PyTorch rounds every term as well, never the sum."""
    query, entities, grad_scores = draw_inputs(score, 13, 300, 21, seed=5)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    rounded_query = tuple(t.to(dtype).float() for t in query)
    implementation = make_score(score, scoring, "cpu", 2, precision)
    scores, grad_query, grad_entities = run(implementation, query, entities, grad_scores)
    truth = expected(score, rounded_query, entities.to(dtype).float(), grad_scores)
    assert scores.dtype == grad_entities.dtype == torch.float32
    term = torch.finfo(dtype).eps
    plain = scoring != "fused"
    assert relative_error(scores, truth[0]) < (term if plain and score != "dot" else 2e-6)
    if score == "l1":
        return  # rounded inputs tie, and at a tie any subgradient is right: see the Triton kernels' test
    for found, exact in zip((*grad_query, grad_entities), (*truth[1], truth[2]), strict=True):
        assert relative_error(found, exact) < (4 * term if plain else 2e-6)


@pytest.mark.parametrize("score", ["dot", "l1", "l2"])
@pytest.mark.parametrize(("size", "weight"), [(1e-9, 1.0), (1.0, 1.0), (1.0, 100.0), (1e6, 30.0)])
def test_float16_gradients_neither_overflow_nor_vanish(score: Score, size: float, weight: float) -> None:
    """Gradients of scores from far below float16's range to far above, and inputs large enough to overflow products."""
    query, entities, grad_scores = draw_inputs(score, 40, 300, 8, seed=6)
    query = tuple((t * weight).half().float() for t in query)
    entities, grad_scores = entities.half().float(), grad_scores.abs() * size
    scale_down = 1.0 if score != "l2" else 0.01  # its squares must fit float16 themselves
    query = tuple((t * scale_down).half().float() for t in query)
    implementation = make_score(score, "chunked", "cpu", 1, "fp16")
    _, grad_query, grad_entities = run(implementation, query, entities, grad_scores)
    truth = expected(score, query, entities, grad_scores)
    for found, exact in zip((*grad_query, grad_entities), (*truth[1], truth[2]), strict=True):
        assert found.isfinite().all()
        assert relative_error(found, exact) < 0.02


def test_the_loss_scale_computed_on_the_device_is_the_one_computed_on_the_host() -> None:
    """To the bit, from gradients far below float16's range to far above, with none at all and with ones not finite."""
    generator = torch.Generator().manual_seed(0)
    scales = set()
    for size in (1e-20, 1e-9, 1e-4, 1.0, 64.0, 1e3, 1e8, 0.0, float("inf"), float("nan")):
        for weight in (1e-3, 1.0, 2.0, 100.0, float("inf")):
            inputs = tuple((torch.randn(rows, 5, generator=generator) * weight).half() for rows in (3, 3, 7))
            grad_scores = torch.randn(3, 7, generator=generator) * size
            scale = loss_scale(inputs, grad_scores)
            assert loss_scale_on_device(inputs, grad_scores).item() == scale
            scales.add(scale)
    assert len(scales) > 10


def test_a_weight_of_zero_is_no_special_case() -> None:
    query, entities, grad_scores = draw_inputs("l1", 6, 40, 5, seed=1)
    query[1][:, ::2] = 0
    found = run(make_score("l1", "fused", "cpu", 2), query, entities, grad_scores)
    truth = expected("l1", query, entities, grad_scores)
    assert relative_error(found[0], truth[0]) < 2e-6
    assert relative_error(found[2], truth[2]) < 2e-6


def test_a_tie_takes_the_subgradient_plus_one() -> None:
    """Where a = w·e exactly, the fused kernel's sign is +1 (PyTorch's abs takes 0): documented, so tested."""
    a, w, e = torch.full((1, 1), 2.0), torch.full((1, 1), 4.0), torch.full((1, 1), 0.5)
    scores, (grad_a, grad_w), grad_e = run(make_score("l1", "fused", "cpu"), (a, w), e, torch.ones(1, 1))
    assert scores.item() == 0
    assert (grad_a.item(), grad_w.item(), grad_e.item()) == (-1.0, 0.5, 4.0)


@pytest.mark.parametrize("where", [0, 719, 1499])
def test_not_a_number_is_not_hidden(where: int) -> None:
    query, entities, _ = draw_inputs("l1", 4, 1500, 6, seed=2)
    entities[where, 3] = float("nan")
    scores = make_score("l1", "fused", "cpu", 2).forward(query, entities, torch.empty(4, 1500), grad=False)
    assert scores[:, where].isnan().all()
    assert scores.isnan().sum() == 4


def test_equal_threads_give_equal_bits() -> None:
    query, entities, grad_scores = draw_inputs("l1", 33, 3000, 20, seed=3)
    kernel = make_score("l1", "fused", "cpu", 3)
    one, other = (run(kernel, query, entities, grad_scores) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(x, y) for x, y in zip(one[1], other[1], strict=True))
    assert torch.equal(one[2], other[2])


def test_a_scoring_that_cannot_run_is_refused_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match="numba"):
        make_score("l1", "fused", "cpu")
