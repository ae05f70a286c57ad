"""The fused score and loss as operators for one's own model: right, differentiable, compilable, and hard to misuse."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from memplan.errors import UsageError
from tests.support.scoring import assert_l1_close, relative_error
from tests.support.scoring import reference as defined
from tests.support.slow import mostly_slow
from tkbc.measure.meter import CpuMeter
from tkbc.scoring import calling, operators, softmax_cross_entropy, weighted_l1
from tkbc.scoring.l1_cpu import TILE
from tkbc.scoring.sliced import SlicedL1

SHAPES = [(1, 1, 1), (3, 2, 5), (7, 13, 4), (5, 721, 3), (6, 1441, 9)]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(b: int, n: int, d: int, dtype: torch.dtype = torch.float32, *, grad: bool = True) -> Inputs:
    generator = torch.Generator().manual_seed(b * n + d)
    a, w, e = (torch.randn(rows, d, generator=generator).to(dtype).requires_grad_(grad) for rows in (b, b, n))
    return a, w, e, torch.randint(0, n, (b,), generator=generator)


def in_float64(a: Tensor, w: Tensor, e: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    leaves = tuple(t.detach().double().requires_grad_() for t in (a, w, e))
    return defined("l1", leaves[:2], leaves[2]), leaves  # type: ignore[return-value]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_the_definition_in_float64(shape: tuple[int, int, int]) -> None:
    a, w, e, _ = draw(*shape)
    grad_scores = torch.randn(shape[:2], generator=torch.Generator().manual_seed(1))
    scores = weighted_l1(a, w, e)
    assert scores.dtype == torch.float32
    scores.backward(grad_scores)
    truth, leaves = in_float64(a, w, e)
    truth.backward(grad_scores.double())
    found = (scores.detach(), (a.grad, w.grad), e.grad)
    exact = (truth.detach(), (leaves[0].grad, leaves[1].grad), leaves[2].grad)
    assert_l1_close(found, exact, (a.detach(), w.detach()), e.detach(), grad_scores)  # type: ignore[arg-type]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk_size", mostly_slow([None, 5, 720, 10_000, 1], quick=4))
def test_the_loss_equals_the_definition_in_float64(shape: tuple[int, int, int], chunk_size: int | None) -> None:
    a, w, e, labels = draw(*shape)
    loss = softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size)
    loss.backward()
    truth, leaves = in_float64(a, w, e)
    exact = cross_entropy(truth, labels)
    exact.backward()
    assert abs(float(loss.detach()) - float(exact.detach())) < 1e-5 * max(1.0, float(exact.detach()))
    for found, leaf in zip((a, w, e), leaves, strict=True):
        assert found.grad is not None
        assert leaf.grad is not None
        assert float((found.grad - leaf.grad).abs().max()) < 1e-6 + 1e-5 * float(leaf.grad.abs().max())


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_every_example_s_loss_and_weight_are_its_own(chunk_size: int | None) -> None:
    a, w, e, labels = draw(6, 13, 5, torch.float64)
    weights = torch.arange(6, dtype=torch.float64)
    losses = softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size, reduction="none")
    truth, leaves = in_float64(a, w, e)
    exact = cross_entropy(truth, labels, reduction="none")
    torch.testing.assert_close(losses, exact)
    torch.testing.assert_close(
        softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size, reduction="sum"), exact.sum()
    )
    (losses @ weights).backward()
    (exact @ weights).backward()
    for found, leaf in zip((a, w, e), leaves, strict=True):
        torch.testing.assert_close(found.grad, leaf.grad)


def test_gradients_are_the_slopes_of_the_functions() -> None:
    a, w, e, labels = draw(4, 9, 3, torch.float64)
    assert torch.autograd.gradcheck(weighted_l1, (a, w, e))
    for chunk_size in (None, 4):

        def losses(a: Tensor, w: Tensor, e: Tensor, chunk: int | None = chunk_size) -> Tensor:
            return softmax_cross_entropy(a, w, e, labels, chunk_size=chunk, reduction="none")

        assert torch.autograd.gradcheck(losses, (a, w, e))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_pytorch_finds_nothing_wrong_with_the_operators(dtype: torch.dtype) -> None:
    a, w, e, labels = draw(5, 13, 7, dtype)
    torch.library.opcheck(operators.scores_operator, (a, w, e))
    for chunk_size in (13, 4):
        torch.library.opcheck(operators.loss_operator, (a, w, e, labels, chunk_size))


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_model_compiles_whole(*, dynamic: bool) -> None:
    def model(a: Tensor, w: Tensor, e: Tensor, labels: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(e, dim=1)
        return softmax_cross_entropy(a * 2, w, unit, labels, chunk_size=5) - weighted_l1(a, w, unit).mean()

    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for b, n in ((6, 13), (7, 17)):
        plain, other = draw(b, n, 5), draw(b, n, 5)
        expected, found = model(*plain), compiled(*other)
        torch.testing.assert_close(found, expected)
        expected.backward()
        found.backward()
        for one, two in zip(plain[:3], other[:3], strict=True):
            torch.testing.assert_close(one.grad, two.grad)


def test_tensors_that_are_not_contiguous() -> None:
    a, w, e, labels = draw(6, 723, 5, grad=False)
    turned = tuple(t.T.contiguous().T.requires_grad_() for t in (a, w, e))
    one_row = w[:1].clone().requires_grad_()
    leaves = tuple(t.clone().requires_grad_() for t in (a, w, e))
    for work in (
        lambda a, w, e: weighted_l1(a, w, e).sum(),  # whose gradient is an expanded 1
        lambda a, w, e: weighted_l1(a, w, e).T.contiguous().square().sum(),
        lambda a, w, e: softmax_cross_entropy(a, w, e, labels, chunk_size=100, reduction="sum"),
        lambda a, w, e: softmax_cross_entropy(a, w, e[::2], labels // 2),
    ):
        found = torch.autograd.grad(work(*turned), turned)  # type: ignore[no-untyped-call]
        exact = torch.autograd.grad(work(*leaves), leaves)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found, exact)
    weighted_l1(leaves[0], one_row.expand(6, -1), leaves[2]).sum().backward()
    assert one_row.grad is not None
    assert one_row.grad.shape == (1, 5)


@pytest.mark.parametrize(("b", "n", "d"), [(0, 5, 3), (4, 0, 3), (4, 5, 0), (0, 0, 0)])
def test_tensors_without_elements(b: int, n: int, d: int) -> None:
    a, w, e = (torch.zeros(rows, d, requires_grad=True) for rows in (b, b, n))
    scores = weighted_l1(a, w, e)
    assert torch.equal(scores, torch.zeros(b, n))
    scores.sum().backward()
    assert e.grad is not None
    assert torch.equal(e.grad, torch.zeros(n, d))
    labels = torch.zeros(b, dtype=torch.int64)
    if n == 0:
        with pytest.raises(UsageError, match="there are no entities"):
            softmax_cross_entropy(a, w, e, labels)
        return
    for chunk_size in (None, 2):
        losses = softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size, reduction="none")
        torch.testing.assert_close(losses, torch.full((b,), float(n)).log())
        losses.sum().backward()


def sized(*shapes: tuple[int, ...], **options: Any) -> list[Tensor]:
    return [torch.zeros(shape, **options) for shape in shapes]


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (sized((3, 8), (3, 8), (5, 4)), "a and w are 8 wide and the entities 4"),
        (sized((3, 4), (3, 4), (5, 8)), "a and w are 4 wide and the entities 8"),
        (sized((3, 4), (2, 4), (5, 4)), r"a has the shape \(3, 4\) and w \(2, 4\)"),
        (sized((3, 4), (3, 5), (5, 4)), r"a has the shape \(3, 4\) and w \(3, 5\)"),
        (sized((4,), (4,), (5, 4)), r"a has the shape \(4,\); it takes two dimensions, \(b, d\)"),
        (sized((3, 4), (3, 4), (1, 5, 4)), r"entities has the shape \(1, 5, 4\)"),
        (sized((3, 4), (3, 4), (5, 4), dtype=torch.int64), "a is int64; it takes float32"),
        (sized((3, 4), (3, 4), (5, 4), dtype=torch.complex64), "a is complex64; it takes float32"),
        ([*sized((3, 4), (3, 4)), torch.zeros(5, 4).double()], "a is float32 and entities is float64"),
        ([*sized((3, 4), (3, 4)), torch.zeros(5, 4).to_sparse()], "entities is torch.sparse_coo; make it dense"),
        ([*sized((3, 4), (3, 4)), torch.zeros(5, 4, device="meta")], "a is on cpu and entities on meta"),
    ],
)
def test_what_does_not_go_together_is_told(tensors: list[Tensor], told: str) -> None:
    labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UsageError, match=told):
        weighted_l1(*tensors)
    with pytest.raises(UsageError, match=told):
        softmax_cross_entropy(*tensors, labels)
    with pytest.raises(UsageError, match=told):
        operators.scores_backward_operator(torch.zeros(3, 5), *tensors)


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        (torch.tensor([0, 1, 5]), {}, "labels hold 5; they take rows of the entities, 0 to 4"),
        (torch.tensor([0, -1, 2]), {}, "labels hold -1"),
        (torch.tensor([0, 1]), {}, r"labels have the shape \(2,\); they take \(b,\), one for each of 3 queries"),
        (torch.zeros(3, 5), {}, r"labels have the shape \(3, 5\)"),
        (torch.zeros(3, dtype=torch.int32), {}, r"labels are int32; they take int64: labels.long\(\)"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), {}, "a is on cpu and labels on meta"),
        (torch.tensor([0, 1, 2]), {"chunk_size": 0}, "chunk_size 0: it takes 1 or more"),
        (torch.tensor([0, 1, 2]), {"reduction": "max"}, "reduction 'max': mean, sum or none"),
    ],
)
def test_labels_that_cannot_be_are_told(labels: Tensor, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        softmax_cross_entropy(*sized((3, 4), (3, 4), (5, 4)), labels, **options)


def test_a_gradient_of_another_shape_is_told() -> None:
    a, w, e, labels = draw(3, 5, 4, grad=False)
    b, n = torch.zeros(3), torch.zeros(3, 5)
    with pytest.raises(UsageError, match=r"grad_scores has the shape \(5, 3\); it takes \(3, 5\)"):
        operators.scores_backward_operator(n.T, a, w, e)
    for given, told in (((b[:2], b, n), "grad_losses"), ((b, b[:2], n), "log_sum_exp"), ((b, b, n[:2]), "kept")):
        grad_losses, log_sum_exp, kept = given
        with pytest.raises(UsageError, match=f"{told} has the shape"):
            operators.loss_backward_operator(grad_losses, a, w, e, labels, log_sum_exp, kept, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_only_where_it_goes_in_and_out(dtype: torch.dtype) -> None:
    a, w, e, labels = draw(6, 13, 9, dtype)
    scores = weighted_l1(a, w, e)
    assert scores.dtype == torch.float32
    truth, leaves = in_float64(a, w, e)
    assert relative_error(scores.detach(), truth.detach()) < 2e-6
    softmax_cross_entropy(a, w, e, labels, chunk_size=5).backward()
    cross_entropy(truth, labels).backward()
    for found, leaf in zip((a, w, e), leaves, strict=True):
        assert found.grad is not None
        assert found.grad.dtype == dtype
        assert leaf.grad is not None
        torch.testing.assert_close(found.grad, leaf.grad.to(dtype), rtol=1e-2, atol=1e-6)


def test_inside_autocast_everything_is_float32() -> None:
    a, w, e, labels = draw(6, 13, 9)
    with torch.autocast("cpu", torch.bfloat16):
        half = a @ torch.eye(9)
        assert half.dtype == torch.bfloat16
        assert torch.equal(weighted_l1(half, w, e), weighted_l1(half.float(), w, e))
        loss = softmax_cross_entropy(half, w, e, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    assert a.grad is not None


def test_only_what_needs_a_gradient_gets_one() -> None:
    a, w, e, labels = draw(6, 13, 9)
    frozen = e.detach()
    softmax_cross_entropy(a, w.detach(), frozen, labels).backward()
    assert a.grad is not None
    assert w.grad is None
    assert frozen.grad is None
    (grad,) = torch.autograd.grad(weighted_l1(a, w, e).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        grad.sum().backward()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("chunk_size", [None, 64])
def test_memory_is_that_of_the_scores(chunk_size: int | None) -> None:
    b, n, d = 50, 3000, 40
    a, w, e, labels = draw(b, n, d)
    softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size)  # compiled
    meter = CpuMeter()
    with meter.recording(), meter.phase("loss"):
        softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size).backward()
    # Scores kept and the scores' gradient, or a chunk of them; gradients of the three inputs; a tile and its gradient;
    # the mean and its gradient, log-sum-exp and the losses' gradient; each label's column and whether it lies inside.
    scores = 2 * b * n if chunk_size is None else b * chunk_size
    elements = scores + d * (n + 2 * b) + 2 * d * (TILE if chunk_size is None else chunk_size)
    assert meter.peaks["loss"].requested_bytes == 4 * elements + 4 * (2 * b + 2) + 9 * b


def test_plain_pytorch_in_slices_equals_the_definition() -> None:
    a, w, e, _ = draw(5, 23, 7, torch.float64, grad=False)
    truth, leaves = in_float64(a, w, e)
    grad_scores = torch.randn(5, 23, dtype=torch.float64)
    truth.backward(grad_scores)
    sliced = SlicedL1(elements=5 * 7 * 4)
    out = torch.full((5, 23), torch.nan, dtype=torch.float64)
    torch.testing.assert_close(sliced.forward((a, w), e, out, grad=True), truth)
    grads = tuple(torch.zeros_like(t) for t in (a, w, e))
    sliced.backward((a, w), e, grad_scores, grads[:2], grads[2])
    torch.testing.assert_close(grads, tuple(leaf.grad for leaf in leaves))


@pytest.mark.parametrize("chunk_size", [None, 30])
def test_the_cuda_kernels_behind_the_operators(chunk_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from tkbc.scoring.l1_triton import TritonL1

    monkeypatch.setattr(calling, "_on_cpu", lambda *_: TritonL1())  # in Triton's interpreter
    a, w, e, labels = draw(3, 71, 5)
    softmax_cross_entropy(a, w, e, labels, chunk_size=chunk_size).backward()
    truth, leaves = in_float64(a, w, e)
    cross_entropy(truth, labels).backward()
    for found, leaf in zip((a, w, e), leaves, strict=True):
        assert found.grad is not None
        assert leaf.grad is not None
        assert relative_error(found.grad, leaf.grad) < 1e-5


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_a_forked_process_has_threads_of_its_own() -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    done = run_python("""
        import os, torch
        from tkbc.scoring import weighted_l1
        torch.set_num_threads(2)
        a, w, e = torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1441, 1)
        weighted_l1(a, w, e)
        child = os.fork()
        if child == 0:
            weighted_l1(a, w, e)
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert done.stdout.strip() == "7", done.stderr


@pytest.mark.slow
def test_who_does_not_ask_for_the_operators_does_not_declare_them() -> None:
    done = run_python("""
        import sys
        import tkbc.scoring
        print("tkbc.scoring.operators" in sys.modules, tkbc.scoring.weighted_l1.__module__)
        try:
            tkbc.scoring.weighted_l3
        except AttributeError as error:
            print(error)
    """)
    assert done.stdout.splitlines() == [
        "False tkbc.scoring.operators",
        "module 'tkbc.scoring' has no attribute 'weighted_l3'",
    ], done.stderr
