"""Ghosts against PyTorch's tensors: shapes, types and views of every operator, and what a ledger hears of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch as pytorch
from torch import Tensor

from memplan.memory.ghost import UNNAMED, Ghost, named
from memplan.memory.ghosts import Ghosts
from memplan.memory.ledger import DType
from memplan.prediction.rehearsal import run
from memplan.workload import Workload
from tests.support.workloads import combinations, with_negatives
from tkbc.tensors import each, in_any_order, of_type, torch

B, C, D = 6, 10, 4
Inputs = dict[str, Any]


def inputs(new: Callable[[tuple[int, ...], DType], Any]) -> Inputs:
    """A matrix of queries, one of entities, scores, differences, a vector, ids, labels, a mask, and half precision."""
    return {
        "q": new((B, D), "float32"),
        "e": new((C, D), "float32"),
        "s": new((B, C), "float32"),
        "x": new((B, C, D), "float32"),
        "v": new((B,), "float32"),
        "total": new((B,), "float64"),
        "ids": new((B,), "int32"),
        "labels": new((B,), "int64"),
        "mask": new((B,), "bool"),
        "half": new((B, D), "float16"),
    }


CALLS: dict[str, Callable[[Inputs], Any]] = {
    "index_select": lambda t: t["e"].index_select(0, t["ids"]),
    "index_select of columns": lambda t: t["s"].index_select(1, t["ids"]),
    "rows": lambda t: t["e"][2:5],
    "rows to the end": lambda t: t["e"][7:99],
    "all but the last": lambda t: t["e"][:-1],
    "columns": lambda t: t["e"][:, :3],
    "new axis": lambda t: t["q"][:, None, :],
    "a row": lambda t: t["e"][2],
    "an element": lambda t: t["s"][1, 0],
    "transposed": lambda t: t["e"].T,
    "flat": lambda t: t["e"].view(-1),
    "reshaped": lambda t: t["s"].view(-1)[: 3 * C].view(3, C),
    "halves": lambda t: t["e"].chunk(2, 1),
    "unpacked": lambda t: tuple(t["q"]),
    "expanded": lambda t: t["s"].view(B, 1, C).expand(B, 3, C),
    "axes exchanged": lambda t: t["x"].transpose(0, 1),
    "difference": lambda t: t["q"][:, None, :] - t["q"][:, None, :] * t["e"],
    "product": lambda t: t["q"] @ t["e"].T,
    "product into": lambda t: torch.mm(t["q"], t["e"].T, out=t["s"]),
    "products": lambda t: torch.bmm(t["x"].new_ones((1, 1, C)).expand(B, 1, C), t["x"])[:, 0, :],
    "added product": lambda t: t["e"].addmm_(t["s"].T, t["q"]),
    "dot": lambda t: torch.dot(t["v"], t["v"]),
    "sum": lambda t: t["s"].sum(),
    "sum over the last": lambda t: t["x"].sum(-1),
    "sum of halves": lambda t: t["half"].sum(-1, dtype=of_type(t["half"], "float32")),
    "largest": lambda t: t["s"].amax(1),
    "gather": lambda t: t["s"].gather(1, t["labels"][:, None])[:, 0],
    "comparison": lambda t: (t["labels"] >= 0) & (t["labels"] < 3),
    "not": lambda t: ~t["mask"],
    "labels moved": lambda t: (t["labels"] - 3).clamp_(0, 2),
    "where": lambda t: torch.where(t["mask"], t["v"], t["v"], out=t["v"]),
    "logaddexp": lambda t: torch.logaddexp(t["v"], t["v"], out=t["v"]),
    "softmax": lambda t: torch.softmax(t["s"], 1, out=t["s"]),
    "norm": lambda t: torch.linalg.vector_norm(t["e"]),
    "norm of half rows": lambda t: torch.linalg.vector_norm(t["half"], math.inf, dim=1),
    "norms": lambda t: torch.linalg.vector_norm(t["e"], dim=1, keepdim=True, out=t["e"].new_empty((C, 1))),
    "total norm": lambda t: torch.nn.utils.get_total_norm([t["q"], t["e"]]),
    "stack": lambda t: torch.stack([t["v"], t["v"]]),
    "frexp": lambda t: tuple(torch.frexp(t["v"])),
    "hypot": lambda t: torch.hypot(t["q"], t["q"]),
    "zeros like": lambda t: torch.zeros_like(t["half"]),
    "new of another type": lambda t: t["q"].new_empty((2, 3), dtype=of_type(t["q"], "float16")),
    "new vector": lambda t: t["q"].new_zeros(5),
    "new scalar": lambda t: t["q"].new_zeros(()),
    "full": lambda t: t["q"].new_full((5,), -math.inf),
    "as half": lambda t: t["q"].to(of_type(t["q"], "bfloat16")),
    "as it is": lambda t: t["q"].to(of_type(t["q"], "float32")),
    "as int64": lambda t: t["ids"].long(),
    "minus": lambda t: -t["s"],
    "magnitudes": lambda t: t["q"].abs(),
    "signs": lambda t: t["q"].sign(),
    "squares": lambda t: t["q"].square(),
    "at least": lambda t: t["v"].clamp(min=1),
    "one over": lambda t: t["v"].reciprocal(),
    "exponentials": lambda t: t["q"].exp(),
    "logarithms": lambda t: t["q"].log(),
    "sines": lambda t: t["q"].sin(),
    "cosines": lambda t: t["q"].cos(),
    "hyperbolic tangents": lambda t: t["half"].tanh(),
    "logistic": lambda t: t["half"].sigmoid(),
    "waves in place": lambda t: t["q"].square_().sqrt_().sin_().cos_().tanh_().sigmoid_(),
    "times a number": lambda t: t["half"] * 2,
    "in place": lambda t: (
        t["q"].mul_(t["q"]).sub_(t["v"][:, None]).add_(2).div_(3).sign_().abs_().neg_().exp_().zero_()
    ),
    "accumulated": lambda t: t["q"].addcmul_(t["q"], t["v"][:, None], value=2).addcdiv_(t["q"], t["q"], value=2),
    "of another type": lambda t: t["total"].add_(t["v"]),
    "rows added": lambda t: t["e"].index_add_(0, t["ids"], t["q"]),
    "rows overwritten": lambda t: t["e"].index_copy_(0, t["labels"], t["q"]),
    "rows gathered into": lambda t: torch.index_select(t["e"], 0, t["labels"], out=t["q"]),
    "labels subtracted": lambda t: t["s"].scatter_add_(1, t["labels"][:, None], t["v"][:, None]),
    "overwritten": lambda t: t["q"].fill_(1).clamp_min_(0).log_().reciprocal_().normal_(0.0, 1.0),
    "as another": lambda t: t["q"].detach().contiguous().view_as(t["q"]),
    "copied": lambda t: t["s"].copy_(t["s"]),
    "cloned": lambda t: t["q"].clone(),
    "masked": lambda t: t["v"].masked_fill_(t["mask"], 1.0),
    "product written": lambda t: torch.mul(t["e"].T, -1, out=t["half"].new_empty((D, C))),
    "root": lambda t: torch.sqrt(t["v"], out=t["v"]),
}


def of_pytorch() -> Inputs:
    return inputs(lambda shape, dtype: pytorch.zeros(shape, dtype=getattr(pytorch, dtype)))


def of_ghosts(library: Ghosts) -> Inputs:
    return inputs(lambda shape, dtype: named("input", library.zeros(shape, dtype, library.device)))


def described(result: Any) -> Any:
    """Shape and type of each tensor of a result."""
    if isinstance(result, tuple):
        return [described(part) for part in result]
    return tuple(result.shape), str(result.dtype).removeprefix("torch.")


@pytest.mark.parametrize("name", CALLS)
def test_shape_and_type_are_pytorch_s(name: str) -> None:
    assert described(CALLS[name](of_ghosts(Ghosts("cpu")))) == described(CALLS[name](of_pytorch()))


@pytest.mark.parametrize("name", CALLS)
def test_what_is_a_view_or_in_place_in_pytorch_is_no_birth(name: str) -> None:
    library = Ghosts("cuda")
    given, real = of_ghosts(library), of_pytorch()
    found, expected = CALLS[name](given), CALLS[name](real)
    storages = {tensor.untyped_storage().data_ptr() for tensor in real.values()}
    inside = {tensor.allocation for tensor in given.values()}
    for ghost, tensor in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, expected)), strict=True):
        assert (ghost.allocation in inside) == (tensor.untyped_storage().data_ptr() in storages)


def test_every_operator_of_a_ghost_is_compared() -> None:
    public = {name for name in (*vars(Ghost), *vars(Ghosts)) if not name.startswith("_")}
    asked = set().union(*(call.__code__.co_names for call in CALLS.values()))
    numbers_and_itself = {"item", "tolist", "is_cuda", "numel", "element_size", "shape", "dtype", "grad"}
    of_the_library = {"new", "empty", "zeros", "ones", "randperm", "arange", "optim", "allocation", "base", "library"}
    types = {"float16", "bfloat16", "float32", "float64", "int32", "int64"}
    assert public - asked == numbers_and_itself | of_the_library | types


def test_what_a_ghost_does_not_know_is_an_error() -> None:
    given = of_ghosts(Ghosts("cpu"))
    with pytest.raises(AttributeError):
        given["q"].cumsum(0)
    with pytest.raises(AttributeError):
        torch.cumsum(given["q"], 0)
    with pytest.raises(TypeError, match="do not fit"):
        given["q"] @ given["e"]
    with pytest.raises(TypeError, match="do not fit"):
        given["q"].mul_(given["e"])
    with pytest.raises(TypeError, match="no numbers to decide by"):
        bool(given["mask"])
    with pytest.raises(IndexError):
        given["q"][9]


def test_writes_in_any_order_sort_nothing_where_only_deterministic_algorithms_run() -> None:
    library = Ghosts("cuda", deterministic=True)
    given = of_ghosts(library)
    before = len(library.ledger.events)
    with in_any_order(given["e"]):
        given["e"].index_copy_(0, given["labels"], given["q"]).index_add_(0, given["ids"], given["q"])
    assert len(library.ledger.events) == before
    given["e"].index_add_(0, given["ids"], given["q"])
    assert len(library.ledger.events) > before
    with pytest.raises(TypeError, match="do not fit"):
        given["e"].index_copy_(0, given["labels"], given["q"])


@pytest.mark.parametrize("warn_only", [False, True])
def test_writes_in_any_order_leave_pytorch_s_setting_as_it_was(warn_only: bool) -> None:
    with in_any_order(pytorch.zeros(1)):
        assert not pytorch.are_deterministic_algorithms_enabled()
    assert not pytorch.are_deterministic_algorithms_enabled()
    pytorch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        with in_any_order(pytorch.zeros(1)):
            assert not pytorch.are_deterministic_algorithms_enabled()
        assert pytorch.are_deterministic_algorithms_enabled()
        assert pytorch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        pytorch.use_deterministic_algorithms(False)


def test_births_and_deaths_follow_the_references() -> None:
    library = Ghosts("cpu")
    table = named("table", library.zeros((C, D), device="cpu"))
    part = named("rows", table.index_select(0, library.zeros((2,), "int32", "cpu")))[:, :1]
    del table
    alive = {a.name for a in library.ledger.alive_at_peak()}
    assert alive == {"table", "rows", f"{UNNAMED}empty"}
    assert [(a.name, born) for a, born in library.ledger.events if a is not None] == [
        ("table", True), (f"{UNNAMED}empty", True), ("rows", True), (f"{UNNAMED}empty", False), ("table", False),
    ]  # fmt: skip
    assert library.ledger.live_bytes == 2 * D * 4
    del part
    assert library.ledger.live_bytes == 0


@pytest.mark.parametrize(
    "workload",
    [*combinations(), *with_negatives()],
    ids=lambda w: f"{w.device}-{w.model}-{w.score}-{w.scoring}-{w.precision}{'-negatives' if w.negatives else ''}",
)
def test_every_tensor_of_a_run_has_a_name_and_what_a_run_makes_dies(workload: Workload) -> None:
    ledger = run(workload)
    assert not [a.name for a, _ in ledger.events if a is not None and a.name.startswith(UNNAMED)]
    alive: list[Any] = []
    for allocation, is_birth in ledger.events:
        if allocation is None:
            continue
        alive.append(allocation) if is_birth else alive.remove(allocation)
    assert {a.phase for a in alive} == {"setup"}


@pytest.mark.parametrize(
    ("n", "size", "expected"), [(10, 10, [0]), (10, 4, [0, 8]), (12, 4, [0]), (3, 10, [0]), (1, 1, [0])]
)
def test_loops_run_whole_on_tensors_and_over_what_differs_on_ghosts(n: int, size: int, expected: list[int]) -> None:
    starts = range(0, n, size)
    assert each(starts, pytorch.zeros(n)) == starts
    assert each(starts, Ghosts("cpu").zeros((n,), device="cpu")) == expected  # type: ignore[arg-type]


def test_a_library_is_asked_for_functions_over_its_own_tensors() -> None:
    assert isinstance(torch.zeros_like(pytorch.zeros(2)), Tensor)
    assert isinstance(torch.zeros_like(Ghosts("cpu").zeros((2,), device="cpu")), Ghost)  # type: ignore[call-overload]
