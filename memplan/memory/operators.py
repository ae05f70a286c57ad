"""What PyTorch's operators take for themselves while they run, besides inputs and results: one table, by device.

A row is a fact about PyTorch, measured: on the CPU by ``torch.profiler``'s memory events
(tests/memplan/memory/test_operators.py), on CUDA by the caching allocator's statistics under PyTorch's CUDA build on
the stand-in device (tests/cuda_standin/test_real_operators.py). What is no row takes nothing inside; the same tests
look at other operators of a training step for that.

Sums deserve a word. A CUDA sum of more than 131,072 numbers into one, or over a dimension that is not the last, takes
scratch by shape and number of multiprocessors (30 to 360 MB at ICEWS14's shapes). So the step sums squares by a dot
product and middle dimensions by a batched product with ones, which take cuBLAS's workspace and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from memplan.memory.ledger import DType, Ledger

SCALAR: tuple[int, ...] = ()
KIB = 2**10


class Temporary(NamedTuple):
    """A tensor that an operator makes for itself and frees before it returns."""

    name: str
    shape: tuple[int, ...]
    dtype: DType


Rule = Callable[..., list[Temporary]]
"""From the operand's shape to the temporaries alive at once, in order of birth; they die in the opposite order."""


class Operator(NamedTuple):
    """A row of the table."""

    cpu: Rule
    cuda: Rule


def _nothing(*_shape: int, **_dtype: DType) -> list[Temporary]:
    return []


def _wrapped(dtype: DType) -> Rule:
    """Return the rule of a Python number that is made a tensor."""
    return lambda *_shape: [Temporary("Python number", SCALAR, dtype)]


def _wrapped_and_cast(*_shape: int, dtype: DType = "float32") -> list[Temporary]:
    """A Python number is made a tensor of 8 bytes, then cast to the other operand's type."""
    return [Temporary("Python number", SCALAR, "float64"), Temporary("Python number, cast", SCALAR, dtype)]


def _cast(*shape: int, dtype: DType = "float32") -> list[Temporary]:
    return [Temporary(f"operand, as {dtype}", shape, dtype)]


def sort_scratch_bytes(n: int, highest: int) -> int:
    """Return what CUB's radix sort of n pairs of int64, keys up to ``highest``, takes on CUDA; 0 where n ≤ 2,048.

    Two spare pairs of arrays where one pass of 8 bits is not enough, 2 KiB of counts a pass, 1 KiB a tile. A tile is
    2,816 pairs on Turing, 3,840 on Ampere and 4,608 on Hopper; Turing's is taken, so newer devices take a little less.
    """
    if n <= 2048:
        return 0
    passes = max(1, -(-max(1, (highest - 1).bit_length()) // 8))
    spare = 2 * (-(-8 * n // 256) * 256) if passes > 1 else 0
    return spare + KIB * (-(-n // 2816) + 2 * passes) + 511


def _sorted_rows(n: int, highest: int) -> list[Temporary]:
    """Deterministic writes by index: the indices are sorted, so that equal ones are added in one order."""
    names = ("linear index", "sorted index", "order", "sorted order")
    scratch = max(1, sort_scratch_bytes(n, highest))
    return [*(Temporary(name, (n,), "int64") for name in names), Temporary("sort scratch", (scratch,), "uint8")]


def _deterministic_index_add(n: int, width: int, highest: int) -> list[Temporary]:
    return [
        Temporary("row numbers as int64", (n,), "int64"),
        Temporary("rows to add, copied", (n, width), "float32"),
        *_sorted_rows(n, highest),
    ]


def _deterministic_scatter_add(n: int, highest: int) -> list[Temporary]:
    return [Temporary("columns, spread out", (n,), "int64"), *_sorted_rows(n, highest)]


OPERATORS: dict[str, Operator] = {
    "with a Python number": Operator(cpu=_wrapped_and_cast, cuda=_nothing),
    "int64 with a Python number": Operator(cpu=_wrapped("int64"), cuda=_nothing),
    "float64 in place with a float32 number": Operator(cpu=_wrapped("float64"), cuda=_nothing),
    "operand of another type": Operator(cpu=_cast, cuda=_nothing),
    "sum of half precision in float32": Operator(cpu=_cast, cuda=_nothing),
    "random permutation": Operator(cpu=_wrapped("int64"), cuda=_nothing),
    "deterministic index_add_": Operator(cpu=_nothing, cuda=_deterministic_index_add),
    "deterministic scatter_add_": Operator(cpu=_nothing, cuda=_deterministic_scatter_add),
}


@contextmanager
def inside(ledger: Ledger, operator: str, *operand: int, **dtype: DType) -> Iterator[None]:
    """Record what an operator takes for itself on ``operand`` around what is recorded inside, its results."""
    rule = getattr(OPERATORS[operator], ledger.device)
    taken = [ledger.new(name, *shape, dtype=of) for name, shape, of in rule(*operand, **dtype)]
    yield
    ledger.free(*reversed(taken))


def passes(ledger: Ledger, operator: str, *operand: int, **dtype: DType) -> None:
    """Record an operator that makes no result: what it takes for itself is born and dies."""
    rule = getattr(OPERATORS[operator], ledger.device)
    if rule is not _nothing:
        taken = [ledger.new(name, *shape, dtype=of) for name, shape, of in rule(*operand, **dtype)]
        ledger.free(*reversed(taken))
