"""A call of each operator of the table in memplan/memory/operators.py, and of a training step's others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from memplan.memory.ledger import ITEM_BYTES, DType
from memplan.memory.operators import OPERATORS

B, C, D = 37, 130, 12
"""Queries, entities and dimensions of the measured calls: odd, and no two products of them alike."""
MANY = 5000
"""Rows beyond which a CUDA sort takes scratch."""


class Call(NamedTuple):
    """One call of an operator."""

    operator: str
    """The row; empty where the operator takes nothing inside, on any device."""
    operand: tuple[int, ...]
    """What the row's rule is asked with."""
    make: Callable[[str], Callable[[], object]]
    """From a device to the call, whose inputs exist before it is measured."""
    result_bytes: int
    dtype: DType | None = None
    deterministic: bool = False

    def expected_bytes(self, device: str) -> int:
        """Return what the call takes at its peak by the table: its result and what it takes inside."""
        if not self.operator:
            return self.result_bytes
        extra: dict[str, DType] = {} if self.dtype is None else {"dtype": self.dtype}
        taken = getattr(OPERATORS[self.operator], device)(*self.operand, **extra)
        return self.result_bytes + sum(torch.Size(t.shape).numel() * ITEM_BYTES[t.dtype] for t in taken)


def _rand(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, device=device).to(dtype)


def _ids(device: str, n: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(n, dtype=dtype, device=device)


def _in_place(dtype: torch.dtype) -> Callable[[str], Callable[[], object]]:
    def make(device: str) -> Callable[[], object]:
        x = _rand(device, B, D, dtype=dtype)
        return lambda: x.mul_(3)

    return make


def _labels(device: str) -> Callable[[], object]:
    labels = _ids(device, B, torch.int64)
    return lambda: labels - 3


def _comparison(device: str) -> Callable[[], object]:
    labels = _ids(device, B, torch.int64)
    return lambda: labels >= 3


def _total(device: str) -> Callable[[], object]:
    total, value = torch.zeros(2, dtype=torch.float64, device=device), _rand(device, 1)[0]
    return lambda: total[0].add_(value)


def _half_added(device: str) -> Callable[[], object]:
    total, part = _rand(device, B, D), _rand(device, B, D, dtype=torch.float16)
    return lambda: total.add_(part, alpha=0.5)


def _float32_added(device: str) -> Callable[[], object]:
    total, part = _rand(device, C, dtype=torch.float64), _rand(device, C)
    return lambda: total.add_(part)


def _half_summed(device: str) -> Callable[[], object]:
    terms = _rand(device, B, C, D, dtype=torch.bfloat16)
    return lambda: terms.sum(-1, dtype=torch.float32)


def _permuted(_device: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randperm(B, generator=generator)


def _index_add(n: int) -> Callable[[str], Callable[[], object]]:
    def make(device: str) -> Callable[[], object]:
        table, ids, rows = _rand(device, C, D), _ids(device, n), _rand(device, n, D)
        return lambda: table.index_add_(0, ids, rows)

    return make


def _scatter_add(n: int) -> Callable[[str], Callable[[], object]]:
    def make(device: str) -> Callable[[], object]:
        scores, at, minus = _rand(device, n, C), _ids(device, n, torch.int64), _rand(device, n)
        return lambda: scores.scatter_add_(1, at[:, None], minus[:, None])

    return make


def _gathered(device: str) -> Callable[[], object]:
    table, ids = _rand(device, C, D), _ids(device, B)
    return lambda: table.index_select(0, ids)


def _product(device: str) -> Callable[[], object]:
    q, e, out = _rand(device, B, D), _rand(device, C, D), _rand(device, B, C)
    return lambda: torch.mm(q, e.T, out=out)


def _added_product(device: str) -> Callable[[], object]:
    q, g, total = _rand(device, B, D), _rand(device, B, C), _rand(device, C, D)
    return lambda: total.addmm_(g.T, q)


def _dot(device: str) -> Callable[[], object]:
    x = _rand(device, B * D)
    return lambda: torch.dot(x, x)


def _softmax(device: str) -> Callable[[], object]:
    scores = _rand(device, B, C)
    return lambda: torch.softmax(scores, 1, out=scores)


def _largest(device: str) -> Callable[[], object]:
    scores = _rand(device, B, C)
    return lambda: scores.amax(1)


def _norms(device: str) -> Callable[[], object]:
    table, norms = _rand(device, C, D), _rand(device, C, 1)
    return lambda: torch.linalg.vector_norm(table, dim=1, keepdim=True, out=norms)


def _label_scores(device: str) -> Callable[[], object]:
    scores, at = _rand(device, B, C), _ids(device, B, torch.int64)
    return lambda: scores.gather(1, at[:, None])


def _excluded(device: str) -> Callable[[], object]:
    scores, at = _rand(device, B * C), _ids(device, B, torch.int64)
    return lambda: scores.index_fill_(0, at, -torch.inf)


def _accumulated(device: str) -> Callable[[], object]:
    x, y = _rand(device, B, D), _rand(device, B, D)
    return lambda: x.addcmul_(y, y, value=2)


def _log_add(device: str) -> Callable[[], object]:
    x, y = _rand(device, B), _rand(device, B)
    return lambda: torch.logaddexp(x, y, out=x)


def _summed_middle(device: str) -> Callable[[], object]:
    from tkbc.scoring.plain import sum_over

    terms = _rand(device, B, C, D)
    return lambda: sum_over(terms, 1)


def _rows_overwritten(device: str) -> Callable[[], object]:
    table, ids, rows = _rand(device, C, D), torch.arange(B, device=device), _rand(device, B, D)
    return lambda: table.index_copy_(0, ids, rows)


def _rows_into(device: str) -> Callable[[], object]:
    table, ids, rows = _rand(device, C, D), _ids(device, B, torch.int64), _rand(device, B, D)
    return lambda: torch.index_select(table, 0, ids, out=rows)


def _ids_widened(device: str) -> Callable[[], object]:
    ids, heads = _ids(device, B, torch.int64), _ids(device, B)
    return lambda: ids.copy_(heads)


def _root(device: str) -> Callable[[], object]:
    x = _rand(device, B, D)
    return lambda: x.sqrt_()


CALLS: dict[str, Call] = {
    "in place with a number": Call("with a Python number", (), _in_place(torch.float32), 0),
    "half in place with a number": Call("with a Python number", (), _in_place(torch.float16), 0, dtype="float16"),
    "label positions": Call("int64 with a Python number", (), _labels, 8 * B),
    "comparison of labels": Call("int64 with a Python number", (), _comparison, B),
    "loss added to the total": Call("float64 in place with a float32 number", (), _total, 0),
    "half added": Call("operand of another type", (B, D), _half_added, 0),
    "float32 added to float64": Call("operand of another type", (C,), _float32_added, 0, dtype="float64"),
    "float64 with a number": Call("with a Python number", (), _in_place(torch.float64), 0, dtype="float64"),
    "half summed": Call("sum of half precision in float32", (B, C, D), _half_summed, 4 * B * C),
    "permutation": Call("random permutation", (), _permuted, 8 * B),
    "rows added": Call("deterministic index_add_", (B, D, C), _index_add(B), 0, deterministic=True),
    "many rows added": Call("deterministic index_add_", (MANY, D, C), _index_add(MANY), 0, deterministic=True),
    "labels subtracted": Call("deterministic scatter_add_", (B, B * C), _scatter_add(B), 0, deterministic=True),
    "many labels subtracted": Call(
        "deterministic scatter_add_", (MANY, MANY * C), _scatter_add(MANY), 0, deterministic=True
    ),
    "rows overwritten": Call("", (), _rows_overwritten, 0),
    "rows gathered into": Call("", (), _rows_into, 0),
    "ids widened": Call("", (), _ids_widened, 0),
    "numbers from 0 on": Call("", (), lambda device: lambda: torch.arange(B, dtype=torch.int32, device=device), 4 * B),
    "roots": Call("", (), _root, 0),
    "rows gathered": Call("", (), _gathered, 4 * B * D),
    "product": Call("", (), _product, 0),
    "added product": Call("", (), _added_product, 0),
    "dot product": Call("", (), _dot, 4),
    "softmax": Call("", (), _softmax, 0),
    "largest scores": Call("", (), _largest, 4 * B),
    "norms of rows": Call("", (), _norms, 0),
    "scores of labels": Call("", (), _label_scores, 4 * B),
    "excluded": Call("", (), _excluded, 0),
    "accumulated": Call("", (), _accumulated, 0),
    "log-sum-exp": Call("", (), _log_add, 0),
    "rows added, as usual": Call("", (), _index_add(B), 0),
    "labels subtracted, as usual": Call("", (), _scatter_add(B), 0),
}


@contextmanager
def deterministic(is_so: bool) -> Iterator[None]:
    """Let PyTorch use deterministic algorithms alone inside, as ``--deterministic`` does."""
    torch.use_deterministic_algorithms(is_so)
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]
