"""The CUDA kernels of the L1 score, run on the CPU by Triton's interpreter, against the float64 reference."""

from __future__ import annotations

import ast
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.errors import MemplanError
from memplan.workload import Precision
from tests.support.scoring import assert_l1_close, draw_inputs, expected, relative_error, run
from tests.support.slow import mostly_slow
from tkbc.scoring import make_score
from tkbc.step.loss import softmax_cross_entropy

pytest.importorskip("triton")

from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from tkbc.scoring import l1_cuda, l1_triton
from tkbc.scoring.l1_cuda import SPAN, parts_of
from tkbc.scoring.l1_triton import TritonL1

# The forward computes columns of padding from whatever stands there, and numpy, which the interpreter runs on, warns.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")


def check(b: int, c: int, width: int, seed: int) -> None:
    query, entities, grad_scores = draw_inputs("l1", b, c, width, seed)
    found = run(TritonL1(), query, entities, grad_scores)
    truth = expected("l1", query, entities, grad_scores)
    assert_l1_close(found, truth, query, entities, grad_scores)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (70, 5, 3),
        *(pytest.param(s, marks=pytest.mark.slow) for s in [(64, 64, 32), (65, 65, 33), (63, 63, 31), (3, 130, 40)]),
    ],
)
def test_shapes_around_the_block_s(shape: tuple[int, int, int]) -> None:
    check(*shape, seed=1)


@settings(max_examples=10)
@given(b=st.integers(1, 25), c=st.integers(1, 90), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_random_shapes(b: int, c: int, width: int, seed: int) -> None:
    check(b, c, width, seed)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_inputs_are_accumulated_in_float32(precision: Precision, dtype: torch.dtype) -> None:
    """Once the inputs are rounded nothing more is lost: as close to the reference on them as float32 inputs are."""
    query, entities, grad_scores = draw_inputs("l1", 11, 70, 37, seed=2)
    query, entities = tuple(t.to(dtype) for t in query), entities.to(dtype)
    kernel = TritonL1(precision)
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


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of few entities: the interpreter takes milliseconds a turn of a loop."""
    for module in (l1_cuda, l1_triton):
        monkeypatch.setattr(module, "SPAN", 16)


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_check_at_start_passes_for_every_type(precision: Precision) -> None:
    TritonL1(precision).compile("cpu")


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize(("b", "c", "parts"), [(65, 32, 2), (3, 53, 3), (1, 79, 4)])
def test_parts_of_the_entities_are_summed(b: int, c: int, parts: int) -> None:
    assert parts_of(b, c, 6) == parts
    check(b, c, 6, seed=5)


def test_parts_follow_from_shapes_and_are_bounded() -> None:
    """ICEWS14's step has 13; their sums take at most 16 MiB whatever the shape, and a part never has few entities."""
    assert parts_of(1000, 7128, 100) == 13
    for b, n, rank in itertools.product((1, 64, 1000, 20_000), (1, 511, 512, 7128, 10**6), (1, 32, 100, 2000)):
        parts = parts_of(b, n, rank)
        assert 1 <= parts <= max(1, n // SPAN)
        assert 4 * (parts - 1) * 2 * b * rank <= 16 * 2**20


@pytest.mark.usefixtures("short_parts")
def test_equal_inputs_give_equal_bits() -> None:
    query, entities, grad_scores = draw_inputs("l1", 5, 33, 6, seed=6)
    one, other = (run(TritonL1(), query, entities, grad_scores) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[2], other[2])
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize("tile", [(16, 16, 4), (32, 64, 1), (128, 128, 3)])
@pytest.mark.slow
def test_other_block_sizes_and_turns_give_the_same(tile: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels hold for any power of two from 16 on: the stated sizes are a choice, not a condition."""
    for module in (l1_cuda, l1_triton):
        monkeypatch.setattr(module, "TILE", tile[0])
        monkeypatch.setattr(module, "DIMENSIONS", tile[1])
    monkeypatch.setattr(l1_triton, "UNROLL", tile[2])
    check(19, 131, 21, seed=4)


@pytest.mark.parametrize("rank", mostly_slow([3, 4, 33, 1, 31, 32, 63, 65], quick=3))
def test_ranks_around_a_vector_and_a_tile(rank: int) -> None:
    """Rows that are whole vectors are read where they lie, others from copies."""
    check(3, 70, rank, seed=rank)


def test_gradients_land_in_their_slice_alone() -> None:
    """A chunk's gradients are a slice of the table's: nothing before or behind it may change."""
    query, entities, grad_scores = draw_inputs("l1", 4, 30, 7, seed=8)
    table = torch.zeros(50, 7)
    grads = (torch.zeros(4, 7), torch.zeros(4, 7))
    TritonL1().backward(query, entities, grad_scores, grads, table[13:43])
    truth = expected("l1", query, entities, grad_scores)
    assert relative_error(table[13:43], truth[2]) < 2e-6
    assert table[:13].count_nonzero() == table[43:].count_nonzero() == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 1023), (2, 1024), (5, 2500)])
def test_softmax_and_log_sum_exp(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = -80 * torch.rand(shape, generator=generator)
    truth, kernel = scores.double(), TritonL1()
    kept = scores.clone()
    torch.testing.assert_close(kernel.log_sum_exp_(kept).double(), truth.logsumexp(1), rtol=1e-6, atol=1e-6)
    assert torch.equal(kept, scores)
    shift = torch.randn(shape[0], generator=generator)
    kernel.exp_(kept, shift)
    torch.testing.assert_close(kept.double(), (truth - shift.double()[:, None]).exp(), rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(kernel.softmax_(scores).double(), truth.logsumexp(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.double(), truth.softmax(1), rtol=1e-5, atol=1e-30)


def test_softmax_of_numbers_that_are_none_is_pytorch_s() -> None:
    """A diverged run must show it: NaN and infinities come out as PyTorch gives them."""
    inf, nan = float("inf"), float("nan")
    scores = torch.tensor([[-1.0, nan, -2.0], [-1.0, inf, -2.0], [-inf, -1.0, -inf], [-inf, -inf, -inf]])
    truth, kernel = scores.double(), TritonL1()
    sums = kernel.log_sum_exp_(scores.clone()).double()
    torch.testing.assert_close(sums[[0, 2, 3]], truth.logsumexp(1)[[0, 2, 3]], equal_nan=True)
    assert not sums[1].isfinite()
    kernel.softmax_(scores)
    torch.testing.assert_close(scores.double(), truth.softmax(1), equal_nan=True)


@pytest.mark.parametrize("chunk", [37, 50])
def test_the_loss_equals_pytorch_s(chunk: int) -> None:
    """Through the loop over chunks: the last one's scores are kept over the log-sum-exp, the others' computed again."""
    query, entities, _ = draw_inputs("l1", 6, 50, 9, seed=9)
    labels = torch.tensor([0, 49, 36, 37, 5, 40])
    grad_entities = torch.zeros_like(entities)
    loss, grads = softmax_cross_entropy(TritonL1(), query, entities, labels, grad_entities, chunk_size=chunk)
    leaves = [t.double().requires_grad_() for t in (*query, entities)]
    scores = -(leaves[0][:, None] - leaves[1][:, None] * leaves[2]).abs().sum(2)
    truth = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
    truth.backward()
    assert float(loss) == pytest.approx(float(truth.detach()), rel=1e-6)
    for found, leaf in zip((*grads, grad_entities), leaves, strict=True):
        assert leaf.grad is not None
        assert relative_error(found, leaf.grad) < 1e-5


def _compilation_error() -> Exception:
    node = ast.parse("x").body[0]
    return CompilationError("def kernel():\n    x", node, "x is not defined")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (_compilation_error(), "CompilationError: x is not defined"),
        (OutOfResources(300_000, 65_536, "shared memory"), "OutOfResources: out of resource: shared memory"),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid\nmore"), "device kernel image is invalid ("),
        (FileNotFoundError(2, "No such file or directory", "gcc"), "'gcc'"),
        (AssertionError(), "AssertionError ("),
    ],
)
def test_kernels_that_do_not_compile_or_start_are_one_line(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(TritonL1, "compile", fail)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(MemplanError) as caught:
        make_score("l1", "fused", "cuda")
    message = str(caught.value)
    assert says in message
    assert "Tesla T4, compute capability 7.5, torch" in message
    assert "triton" in message
    assert message.endswith("use --scoring chunked")
    assert "\n" not in message
