"""Tensors without numbers: code written over PyTorch's tensors runs on these, and a ledger records what it allocates.

A ghost has a shape, a type and a storage. Making a storage records a birth; when the last ghost on it goes, which
CPython's counting of references decides as it does for PyTorch's tensors, its death is recorded. Slices and other views
share a storage. What an operator takes inside comes from the table in memplan/operators.py.

A ghost knows what a training step asks of a tensor and nothing else: any other attribute is an ``AttributeError``, and
operands that do not fit each other are an error as they are in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from memplan.ledger import ITEM_BYTES, Allocation, DType, Kind, Ledger
from memplan.operators import inside, passes
from memplan.workload import DeviceType

Shape = tuple[int, ...]
T = TypeVar("T")

UNNAMED = "result of "
"""How the name of a tensor begins that nobody named; the operator follows."""
NORM_PIECE = 65_536
"""Elements that a block of PyTorch's norm over several tensors takes (kChunkSize in its MultiTensorApply)."""


def named(name: str, tensor: T, kind: Kind | None = None) -> T:
    """Return ``tensor``; if it is a ghost that has no name yet, the ledger calls it ``name``, of that kind and shape."""
    if isinstance(tensor, Ghost):
        allocation = tensor.storage.allocation
        if allocation.name.startswith(UNNAMED):
            allocation.name, allocation.shape = name, tensor.shape
            if kind is not None:
                allocation.kind = kind
    return tensor


class Storage:
    """The memory of a ghost and of its views: born with the first, dead with the last."""

    __slots__ = ("allocation", "library")

    def __init__(self, library: Ghosts, allocation: Allocation) -> None:
        self.library, self.allocation = library, allocation
        library.ledger.born(allocation)

    def __del__(self) -> None:
        if self.library.is_recording:
            self.library.ledger.free(self.allocation)


class Ghost:
    """A tensor's shape, type and storage."""

    __slots__ = ("dtype", "grad", "library", "shape", "storage")

    grad: Ghost | None

    def __init__(self, library: Ghosts, storage: Storage, shape: Shape, dtype: DType) -> None:
        self.library, self.storage, self.shape, self.dtype = library, storage, shape, dtype

    def __repr__(self) -> str:
        return f"Ghost({self.storage.allocation.name!r}, {self.shape}, {self.dtype})"

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
        return Ghost(self.library, self.storage, shape, self.dtype)

    def __getitem__(self, index: Any) -> Ghost:
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
        _require(math.prod(shape) == self.numel(), self, shape)
        return self._view(shape)

    def view_as(self, other: Ghost) -> Ghost:
        """Return a view of another's shape."""
        return self.view(*other.shape)

    def expand(self, *shape: int) -> Ghost:
        """Return a view repeated along dimensions of size 1."""
        _require(_broadcast(self.shape, shape) == shape, self, shape)
        return self._view(shape)

    def split(self, size: int, dim: int = 0) -> tuple[Ghost, ...]:
        """Return views of ``size`` rows, or of what ``dim`` is, the last of what is left."""
        n = self.shape[dim]
        widths = (min(size, n - start) for start in range(0, n, size))
        return tuple(self._view((*self.shape[:dim], width, *self.shape[dim + 1 :])) for width in widths)

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

    def index_select(self, dim: int, index: Ghost) -> Ghost:
        """Return the rows, or what ``dim`` is, that a vector of ids names."""
        return self._new("index_select", (*self.shape[:dim], len(index), *self.shape[dim + 1 :]))

    def gather(self, dim: int, index: Ghost) -> Ghost:
        """Return the elements that ``index`` names along ``dim``."""
        _require(len(index.shape) == len(self.shape) and index.dtype == "int64", self, dim, index)
        return self._new("gather", index.shape)

    def to(self, dtype: DType) -> Ghost:
        """Return itself in another type, itself where it is of that type."""
        return self if dtype == self.dtype else self._new("to", self.shape, dtype)

    def long(self) -> Ghost:
        """Return itself as int64."""
        return self.to("int64")

    def float(self) -> Ghost:
        """Return itself as float32."""
        return self.to("float32")

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

    def clamp(self, min: float) -> Ghost:  # noqa: A002 - PyTorch's name
        """Return itself, at least ``min``."""
        del min
        return self._new("clamp", self.shape)

    def _binary(name: str, dtype: DType | None = None) -> Any:  # type: ignore[misc]  # noqa: N805
        def operator(self: Ghost, other: Ghost | float) -> Ghost:
            if isinstance(other, Ghost):
                _require(self.dtype == other.dtype, self, other)
                return self._new(name, _broadcast(self.shape, other.shape), dtype)
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
                with self._with_a_number():
                    pass
                continue
            if operand.shape != self.shape:
                _require(_broadcast(self.shape, operand.shape) == self.shape, self, operand)
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

    def _in_place(self) -> Ghost:
        """Overwrite each element with a function of itself."""
        return self

    zero_ = neg_ = abs_ = sign_ = exp_ = log_ = reciprocal_ = _in_place

    def fill_(self, value: float) -> Ghost:
        """Overwrite each element with a function of itself, or with a number that a kernel is handed."""
        del value
        return self

    clamp_min_ = fill_

    def clamp_(self, min: float | None = None, max: float | None = None) -> Ghost:  # noqa: A002 - PyTorch's names
        """Bound each element."""
        del min, max
        return self

    def copy_(self, source: Ghost) -> Ghost:
        """Copy another's elements; a type is converted on the way."""
        _require(_broadcast(self.shape, source.shape) == self.shape, self, source)
        return self

    def normal_(self, mean: float, std: float, generator: object = None) -> Ghost:
        """Draw each element anew."""
        del mean, std, generator
        return self

    def masked_fill_(self, mask: Ghost, value: float) -> Ghost:
        """Overwrite the elements that a mask names."""
        del value
        _require(_broadcast(self.shape, mask.shape) == self.shape and mask.dtype == "bool", self, mask)
        return self

    def addcmul_(self, one: Ghost, other: Ghost, value: float = 1) -> Ghost:
        """Add a multiple of the elements' product."""
        del value
        _require(_broadcast(one.shape, other.shape) == self.shape, self, one, other)
        return self

    addcdiv_ = addcmul_

    def addmm_(self, one: Ghost, other: Ghost, beta: float = 1, alpha: float = 1) -> Ghost:
        """Add a matrix product."""
        del beta, alpha
        self.library.mm(one, other, out=self)
        return self

    def index_add_(self, dim: int, index: Ghost, values: Ghost) -> Ghost:
        """Add rows where a vector of ids says."""
        _require(dim == 0 and values.shape == (len(index), *self.shape[1:]), self, index, values)
        if self.library.deterministic:
            passes(self.library.ledger, "deterministic index_add_", *values.shape, len(self))
        return self

    def scatter_add_(self, dim: int, index: Ghost, values: Ghost) -> Ghost:
        """Add a number to each row where a column of int64 says."""
        _require(dim == 1 and index.shape == values.shape == (len(self), 1) and index.dtype == "int64", self, index)
        if self.library.deterministic:
            passes(self.library.ledger, "deterministic scatter_add_", len(index), self.numel())
        return self


def _require(fits: bool, *what: object) -> None:
    if not fits:
        raise TypeError(f"do not fit each other: {', '.join(map(repr, what))}")


def _broadcast(one: Shape, other: Shape) -> Shape:
    """Return the shape of an element-wise result."""
    if one == other:
        return one
    n = max(len(one), len(other))
    one, other = (1,) * (n - len(one)) + one, (1,) * (n - len(other)) + other
    for x, y in zip(one, other, strict=True):
        _require(x == y or 1 in (x, y), one, other)
    return tuple(y if x == 1 else x for x, y in zip(one, other, strict=True))


class Ghosts:
    """What ``torch`` is to PyTorch's tensors: it makes ghosts, on one device, into one ledger.

    cuBLAS's workspace is born with the first product and stays.
    """

    float32: DType = "float32"
    float64: DType = "float64"
    float16: DType = "float16"
    bfloat16: DType = "bfloat16"
    int32: DType = "int32"
    int64: DType = "int64"

    def __init__(self, device: DeviceType, *, deterministic: bool = False, workspace_bytes: int = 0) -> None:
        self.device = device
        self.deterministic = deterministic
        self.workspace_bytes = workspace_bytes
        self.ledger = Ledger(device)
        self.is_recording = True
        self._workspace: Ghost | None = None
        self.linalg = SimpleNamespace(vector_norm=self._vector_norm)
        self.nn = SimpleNamespace(utils=SimpleNamespace(get_total_norm=self.get_total_norm))

    def new(self, name: str, shape: Shape, dtype: DType) -> Ghost:
        """Return a new tensor."""
        ledger = self.ledger
        n_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        return Ghost(self, Storage(self, Allocation(name, shape, dtype, n_bytes, "temporaries", ledger.now)), shape, dtype)

    def empty(self, shape: Shape, dtype: DType = "float32", device: str | None = None) -> Ghost:
        """Return a new tensor on the device."""
        _require(device == self.device, device, self.device)
        return self.new(UNNAMED + "empty", shape, dtype)

    zeros = ones = empty

    def zeros_like(self, tensor: Ghost) -> Ghost:
        """Return a new tensor of another's shape and type."""
        return tensor._new("zeros_like", tensor.shape)

    def randperm(self, n: int) -> Ghost:
        """Return a random order, drawn on the host."""
        order = self.new(UNNAMED + "randperm", (n,), "int64")
        passes(self.ledger, "random permutation")
        return order

    def mm(self, one: Ghost, other: Ghost, out: Ghost | None = None) -> Ghost:
        """Return a matrix product, in ``out`` where that is given."""
        (rows, inner), (inner_too, columns) = one.shape, other.shape
        _require(inner == inner_too and one.dtype == other.dtype, one, other)
        return self._product(one, (rows, columns), out)

    def bmm(self, one: Ghost, other: Ghost) -> Ghost:
        """Return the matrix product of each pair."""
        (n, rows, inner), (n_too, inner_too, columns) = one.shape, other.shape
        _require((n, inner, one.dtype) == (n_too, inner_too, other.dtype), one, other)
        return self._product(one, (n, rows, columns))

    def dot(self, one: Ghost, other: Ghost) -> Ghost:
        """Return the dot product of two vectors."""
        _require(one.shape == other.shape and len(one.shape) == 1, one, other)
        return self._product(one, ())

    def _product(self, one: Ghost, shape: Shape, out: Ghost | None = None) -> Ghost:
        if out is None:
            out = one._new("a product", shape)
        _require(out.shape == shape and out.dtype == one.dtype, out, shape)
        if self._workspace is None and self.device == "cuda":
            self._workspace = self.new("cuBLAS workspace", (self.workspace_bytes,), "uint8")
        return out

    def mul(self, one: Ghost, other: Ghost | float, *, out: Ghost) -> Ghost:
        """Write the elements' product into ``out``."""
        return self._into(out, one, other)

    def logaddexp(self, one: Ghost, other: Ghost, *, out: Ghost) -> Ghost:
        """Write log(exp x + exp y) into ``out``."""
        return self._into(out, one, other)

    def where(self, mask: Ghost, one: Ghost, other: Ghost, *, out: Ghost) -> Ghost:
        """Write x where a mask is, else y, into ``out``."""
        _require(mask.shape == out.shape and mask.dtype == "bool", mask, out)
        return self._into(out, one, other)

    def softmax(self, scores: Ghost, dim: int, *, out: Ghost) -> Ghost:
        """Write the softmax over a dimension into ``out``."""
        del dim
        return self._into(out, scores)

    def sqrt(self, tensor: Ghost, *, out: Ghost) -> Ghost:
        """Write the square roots into ``out``."""
        return self._into(out, tensor)

    def _into(self, out: Ghost, *operands: Ghost | float) -> Ghost:
        for operand in operands:
            if isinstance(operand, Ghost):
                _require(_broadcast(operand.shape, out.shape) == out.shape, operand, out)
            else:
                out._write(operand)
        return out

    def hypot(self, one: Ghost, other: Ghost) -> Ghost:
        """Return √(x² + y²)."""
        return one._new("hypot", _broadcast(one.shape, other.shape))

    def stack(self, tensors: Sequence[Ghost]) -> Ghost:
        """Return tensors of one shape as one."""
        first = tensors[0]
        _require(all(tensor.shape == first.shape for tensor in tensors), *tensors)
        return first._new("stack", (len(tensors), *first.shape))

    def frexp(self, tensor: Ghost) -> tuple[Ghost, Ghost]:
        """Return mantissas and exponents."""
        return tensor._new("frexp", tensor.shape), named("exponent", tensor._new("frexp", tensor.shape, "int32"))

    def _vector_norm(
        self, tensor: Ghost, ord: float = 2, dim: int | None = None, keepdim: bool = False, out: Ghost | None = None  # noqa: A002
    ) -> Ghost:
        del ord
        if out is None:
            return tensor._new("vector_norm", () if dim is None else tensor._without(dim))
        _require(keepdim and dim == 1 and out.shape == (len(tensor), 1), tensor, out)
        return out

    def get_total_norm(self, tensors: Sequence[Ghost]) -> Ghost:
        """Return the norm of all tensors, as torch.nn.utils has it: norms of pieces, of tensors, then of these."""
        first = tensors[0]
        pieces = max(-(-tensor.numel() // NORM_PIECE) for tensor in tensors)
        of_pieces = named("norms of pieces of the gradients", first._new("norm", (len(tensors) * pieces,)))
        norms = [named(f"norm of the {t.storage.allocation.name}", t._new("norm", ())) for t in tensors]
        del of_pieces
        return named("norm of all gradients", self._vector_norm(named("norms of the gradients", self.stack(norms))))


def library_of(tensor: Any) -> Any:
    """Return what makes tensors like ``tensor``: ``torch``, or the ghost's own library."""
    if isinstance(tensor, Ghost):
        return tensor.library
    import torch

    return cast("Any", torch)
