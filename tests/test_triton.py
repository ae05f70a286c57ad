"""The CUDA kernels of the L1 score, run on the CPU by Triton's interpreter, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_scoring import assert_l1_close, draw_inputs, expected, relative_error, run

pytest.importorskip("triton")

from tkbc.scoring.l1_triton import TritonL1

# The forward computes columns of padding from whatever stands there, and numpy, which the interpreter runs on, warns.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


def check(b: int, c: int, width: int, seed: int) -> None:
    query, entities, grad_scores = draw_inputs("l1", b, c, width, seed)
    found = run(TritonL1(), query, entities, grad_scores)
    truth = expected("l1", query, entities, grad_scores)
    assert_l1_close(found, truth, query, entities, grad_scores)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 32, 16), (9, 33, 17), (7, 31, 15), (3, 100, 40), (20, 5, 3)])
def test_shapes_around_the_block_s(shape: tuple[int, int, int]) -> None:
    check(*shape, seed=1)


@settings(max_examples=15)
@given(b=st.integers(1, 25), c=st.integers(1, 90), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_random_shapes(b: int, c: int, width: int, seed: int) -> None:
    check(b, c, width, seed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_accumulated_in_float32(dtype: torch.dtype) -> None:
    """Once the inputs are rounded nothing more is lost: as close to the reference on them as float32 inputs are."""
    query, entities, grad_scores = draw_inputs("l1", 11, 70, 37, seed=2)
    query, entities = tuple(t.to(dtype) for t in query), entities.to(dtype)
    kernel = TritonL1(dtype)
    scores = kernel.forward(query, entities, torch.full((11, 70), torch.nan), grad=True)
    grads = [torch.zeros(t.shape) for t in (*query, entities)]
    kernel.backward(query, entities, grad_scores, (grads[0], grads[1]), grads[2])
    # Rounded numbers tie now and then, so the truth is written out with the kernels' own rule for a tie.
    a, w, e = (t.double() for t in (*query, entities))
    difference = a[:, None] - w[:, None] * e
    signed = torch.where(difference >= 0, 1.0, -1.0) * grad_scores.double()[:, :, None]
    truths = (-signed.sum(1), (signed * e).sum(1), (signed * w[:, None]).sum(0))
    assert relative_error(scores, -difference.abs().sum(2)) < 2e-6
    for found, truth in zip(grads, truths, strict=True):
        assert relative_error(found, truth) < 2e-6


def test_backward_adds_and_ties_count_as_plus_one() -> None:
    a, w, e = torch.full((1, 1), 2.0), torch.full((1, 1), 4.0), torch.full((1, 1), 0.5)
    _, (grad_a, grad_w), grad_e = run(TritonL1(), (a, w), e, torch.ones(1, 1), start=10.0)
    assert (grad_a.item(), grad_w.item(), grad_e.item()) == (9.0, 10.5, 14.0)


def test_inputs_that_are_not_contiguous() -> None:
    query, entities, grad_scores = draw_inputs("l1", 5, 40, 7, seed=3)
    straight = run(TritonL1(), query, entities, grad_scores)
    turned = tuple(t.T.contiguous().T for t in query)
    found = run(TritonL1(), turned, entities.T.contiguous().T, grad_scores.T.contiguous().T)
    assert torch.equal(straight[0], found[0])
    torch.testing.assert_close(found[2], straight[2])


def test_the_check_at_start_passes() -> None:
    TritonL1().compile("cpu")
