"""Tensors without numbers: code written over PyTorch's tensors runs on these, and a ledger records what it allocates.

A ghost has a shape, a type and a storage. Making a storage records a birth; when the last ghost on it goes, which
CPython's counting of references decides as it does for PyTorch's tensors, its death is recorded. Slices and other views
share a storage. What an operator takes inside comes from the table in memplan/memory/operators.py.

A ghost knows what a training step asks of a tensor and nothing else: any other attribute is an ``AttributeError``, and
operands that do not fit each other are an error as they are in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from memplan.memory.ledger import ITEM_BYTES, Allocation, DType, Kind
from memplan.memory.operators import inside, passes

if TYPE_CHECKING:
    from memplan.memory.ghosts import Ghosts

Shape = tuple[int, ...]
T = TypeVar("T")

UNNAMED = "result of "
"""How the name of a tensor begins that nobody named; the operator follows."""


def named(name: str, tensor: T, kind: Kind | None = None) -> T:
    """Return ``tensor``; where it is a ghost that nobody named yet, the ledger calls it ``name``, of that ``kind``."""
    if isinstance(tensor, Ghost):
        allocation = tensor.allocation
        if allocation.name.startswith(UNNAMED):
            allocation.name, allocation.shape = name, tensor.shape
            if kind is not None:
                allocation.kind = kind
    return tensor


class Ghost:
    """A tensor's shape and type, on memory of its own or, as a view, on another's."""

    __slots__ = ("allocation", "base", "dtype", "grad", "library", "shape")

    grad: Ghost | None

    def __init__(self, library: Ghosts, allocation: Allocation, shape: Shape, dtype: DType, base: Ghost | None) -> None:
        self.library, self.allocation, self.shape, self.dtype, self.base = library, allocation, shape, dtype, base

    def __repr__(self) -> str:
        return f"Ghost({self.allocation.name!r}, {self.shape}, {self.dtype})"

    # What it is.

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Ghost]:
        return (self._view(self.shape[1:]) for _ in range(self.shape[0]))

    @property
    def is_cuda(self) -> bool:
        """Whether it lies on a GPU."""
        return self.library.device == "cuda"

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Return the bytes of an element."""
        return ITEM_BYTES[self.dtype]

    def __bool__(self) -> bool:
        raise TypeError(f"{self} has no numbers to decide by")

    # Numbers, which a ghost does not have: any finite number stands for them, so that code that looks goes on.

    def item(self) -> float:
        """Return 1."""
        return 1.0

    __float__ = item

    def tolist(self) -> list[float]:
        """Return a 1 for each element of a vector."""
        (n,) = self.shape
        return [1.0] * n

    # Views.

    def _view(self, shape: Shape) -> Ghost:
        return Ghost(self.library, self.allocation, shape, self.dtype, self if self.base is None else self.base)

    def __getitem__(self, index: Any) -> Ghost:
        if type(index) is slice:
            return self._view((len(range(*index.indices(self.shape[0]))), *self.shape[1:]))
        at = 0
        shape = []
        for part in index if type(index) is tuple else (index,):
            if part is None:
                shape.append(1)
                continue
            size = self.shape[at]
            at += 1
            if type(part) is slice:
                shape.append(len(range(*part.indices(size))))
            elif not -size <= part < size:
                raise IndexError(f"{part} of {size} in {self}")
        return self._view((*shape, *self.shape[at:]))

    @property
    def T(self) -> Ghost:  # noqa: N802 - PyTorch's name
        """The transposed matrix."""
        rows, columns = self.shape
        return self._view((columns, rows))

    def transpose(self, one: int, other: int) -> Ghost:
        """Return a view with two dimensions exchanged."""
        shape = list(self.shape)
        shape[one], shape[other] = shape[other], shape[one]
        return self._view(tuple(shape))

    def view(self, *shape: int) -> Ghost:
        """Return a view of that shape; one size may be -1."""
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(self.numel() // known if size == -1 else size for size in shape)
        require(math.prod(shape) == self.numel(), self, shape)
        return self._view(shape)

    def view_as(self, other: Ghost) -> Ghost:
        """Return a view of another's shape."""
        return self.view(*other.shape)

    def expand(self, *shape: int) -> Ghost:
        """Return a view repeated along dimensions of size 1."""
        require(broadcast(self.shape, shape) == shape, self, shape)
        return self._view(shape)

    def chunk(self, chunks: int, dim: int) -> tuple[Ghost, ...]:
        """Return that many views of equal parts of a dimension."""
        size = self.shape[dim]
        require(size % chunks == 0, self, chunks)
        part = (*self.shape[:dim], size // chunks, *self.shape[dim + 1 :])
        return tuple(self._view(part) for _ in range(chunks))

    def detach(self) -> Ghost:
        """Return itself: no graph is kept."""
        return self

    def contiguous(self) -> Ghost:
        """Return itself: what the step asks this of is contiguous."""
        return self

    # New tensors.

    def _new(self, name: str, shape: Shape, dtype: DType | None = None) -> Ghost:
        return self.library.new(UNNAMED + name, shape, self.dtype if dtype is None else dtype)

    def new_empty(self, shape: Sequence[int] | int, dtype: DType | None = None) -> Ghost:
        """Return a new tensor of that shape, of this one's type unless another is given."""
        return self._new("new_empty", (shape,) if isinstance(shape, int) else tuple(shape), dtype)

    new_zeros = new_ones = new_empty

    def new_full(self, shape: Sequence[int], value: float) -> Ghost:
        """Return a new tensor of that shape and this one's type."""
        del value
        return self._new("new_full", tuple(shape))

    def clone(self) -> Ghost:
        """Return a copy."""
        return self._new("clone", self.shape)

    def index_select(self, dim: int, index: Ghost) -> Ghost:
        """Return the rows, or what ``dim`` is, that a vector of ids names."""
        return self._new("index_select", (*self.shape[:dim], len(index), *self.shape[dim + 1 :]))

    def gather(self, dim: int, index: Ghost) -> Ghost:
        """Return the elements that ``index`` names along ``dim``."""
        require(len(index.shape) == len(self.shape) and index.dtype == "int64", self, dim, index)
        return self._new("gather", index.shape)

    def to(self, dtype: DType) -> Ghost:
        """Return itself in another type, itself where it is of that type."""
        return self if dtype == self.dtype else self._new("to", self.shape, dtype)

    def long(self) -> Ghost:
        """Return itself as int64."""
        return self.to("int64")

    def sum(self, dim: int | None = None, dtype: DType | None = None) -> Ghost:
        """Return the sum of all elements, or over a dimension."""
        total = self._new("sum", () if dim is None else self._without(dim), dtype)
        if dtype is not None and dtype != self.dtype:
            passes(self.library.ledger, "sum of half precision in float32", *self.shape)
        return total

    def amax(self, dim: int | None = None) -> Ghost:
        """Return the largest of all elements, or over a dimension."""
        return self._new("amax", () if dim is None else self._without(dim))

    def _without(self, dim: int) -> Shape:
        dim %= len(self.shape)
        return self.shape[:dim] + self.shape[dim + 1 :]

    def _unary(name: str, dtype: DType | None = None) -> Any:  # type: ignore[misc]  # noqa: N805
        def operator(self: Ghost) -> Ghost:
            return self._new(name, self.shape, dtype)

        return operator

    __neg__ = _unary("neg")
    __invert__ = _unary("not")
    abs = _unary("abs")
    sign = _unary("sign")
    square = _unary("square")
    reciprocal = _unary("reciprocal")
    exp = _unary("exp")
    log = _unary("log")
    sin = _unary("sin")
    cos = _unary("cos")
    tanh = _unary("tanh")
    sigmoid = _unary("sigmoid")

    def clamp(self, min: float) -> Ghost:  # noqa: A002 - PyTorch's name
        """Return itself, at least ``min``."""
        del min
        return self._new("clamp", self.shape)

    def _binary(name: str, dtype: DType | None = None) -> Any:  # type: ignore[misc]  # noqa: N805
        def operator(self: Ghost, other: Ghost | float) -> Ghost:
            if isinstance(other, Ghost):
                if self.dtype != other.dtype:
                    misfit(self, other)
                return self._new(name, broadcast(self.shape, other.shape), dtype)
            if self.is_cuda:  # a kernel is handed the number
                return self._new(name, self.shape, dtype)
            with self._with_a_number():
                return self._new(name, self.shape, dtype)

        return operator

    __add__ = _binary("add")
    __sub__ = _binary("sub")
    __mul__ = _binary("mul")
    __and__ = _binary("and")
    __ge__ = _binary("ge", "bool")
    __gt__ = _binary("gt", "bool")
    __lt__ = _binary("lt", "bool")

    def _with_a_number(self) -> Any:
        if self.dtype == "int64":
            return inside(self.library.ledger, "int64 with a Python number")
        return inside(self.library.ledger, "with a Python number", dtype=self.dtype)

    def __matmul__(self, other: Ghost) -> Ghost:
        return self.library.mm(self, other)

    # In place: nothing is allocated but what the operator takes inside.

    def _write(self, *operands: Ghost | float) -> Ghost:
        """Return itself, overwritten from numbers and from tensors of shapes that fit."""
        for operand in operands:
            if not isinstance(operand, Ghost):
                passes(self.library.ledger, "with a Python number", dtype=self.dtype)
                continue
            if operand.shape != self.shape:
                require(broadcast(self.shape, operand.shape) == self.shape, self, operand)
            if operand.dtype != self.dtype:
                self._cast(operand)
        return self

    def _cast(self, operand: Ghost) -> None:
        ledger = self.library.ledger
        if not operand.shape:
            passes(ledger, "float64 in place with a float32 number")
        else:
            passes(ledger, "operand of another type", *operand.shape, dtype=self.dtype)

    def add_(self, other: Ghost | float, alpha: float = 1) -> Ghost:
        """Add another in place."""
        del alpha
        return self._write(other)

    def mul_(self, other: Ghost | float) -> Ghost:
        """Multiply by another in place."""
        return self._write(other)

    sub_ = div_ = mul_

    def _in_place(self, *_numbers: object, **_options: object) -> Ghost:
        """Overwrite each element with a function of itself, with a number that a kernel is handed, or at random."""
        return self

    zero_ = neg_ = abs_ = sign_ = exp_ = log_ = reciprocal_ = _in_place
    square_ = sqrt_ = sin_ = cos_ = tanh_ = sigmoid_ = _in_place
    fill_ = clamp_ = clamp_min_ = normal_ = _in_place

    def copy_(self, source: Ghost) -> Ghost:
        """Copy another's elements; a type is converted on the way."""
        require(broadcast(self.shape, source.shape) == self.shape, self, source)
        return self

    def masked_fill_(self, mask: Ghost, value: float) -> Ghost:
        """Overwrite the elements that a mask names."""
        del value
        require(broadcast(self.shape, mask.shape) == self.shape and mask.dtype == "bool", self, mask)
        return self

    def addcmul_(self, one: Ghost, other: Ghost, value: float = 1) -> Ghost:
        """Add a multiple of the elements' product."""
        del value
        require(broadcast(one.shape, other.shape) == self.shape, self, one, other)
        return self

    addcdiv_ = addcmul_

    def addmm_(self, one: Ghost, other: Ghost, beta: float = 1, alpha: float = 1) -> Ghost:
        """Add a matrix product."""
        del beta, alpha
        self.library.mm(one, other, out=self)
        return self

    def index_add_(self, dim: int, index: Ghost, values: Ghost) -> Ghost:
        """Add rows where a vector of ids says."""
        require(dim == 0 and values.shape == (len(index), *self.shape[1:]), self, index, values)
        if self.library.deterministic:
            passes(self.library.ledger, "deterministic index_add_", *values.shape, len(self))
        return self

    def index_copy_(self, dim: int, index: Ghost, values: Ghost) -> Ghost:
        """Overwrite rows where a vector of int64 says; with deterministic algorithms alone it would sort, which no
        step asks for.
        """
        fits = dim == 0 and values.shape == (len(index), *self.shape[1:])
        fits = fits and (values.dtype, index.dtype) == (self.dtype, "int64")
        require(fits and not self.library.deterministic, self, index, values)
        return self

    def scatter_add_(self, dim: int, index: Ghost, values: Ghost) -> Ghost:
        """Add a number to each row where a column of int64 says."""
        require(dim == 1 and index.shape == values.shape == (len(self), 1) and index.dtype == "int64", self, index)
        if self.library.deterministic:
            passes(self.library.ledger, "deterministic scatter_add_", len(index), self.numel())
        return self


class Whole(Ghost):
    """A tensor on memory of its own, which dies with it and with the views on it."""

    __slots__ = ()

    def __del__(self) -> None:
        self.library.ledger.free(self.allocation)


def require(fits: bool, *what: object) -> None:
    """Raise a TypeError that names ``what``, unless it fits."""
    if not fits:
        misfit(*what)


def misfit(*what: object) -> NoReturn:
    """Raise the error of what does not fit."""
    raise TypeError(f"do not fit each other: {', '.join(map(repr, what))}")


def broadcast(one: Shape, other: Shape) -> Shape:
    """Return the shape of an element-wise result."""
    if one == other:
        return one
    n = max(len(one), len(other))
    one, other = (1,) * (n - len(one)) + one, (1,) * (n - len(other)) + other
    for x, y in zip(one, other, strict=True):
        require(x == y or 1 in (x, y), one, other)
    return tuple(y if x == 1 else x for x, y in zip(one, other, strict=True))
