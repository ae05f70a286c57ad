"""What ``torch`` is to PyTorch's tensors, for ghosts: functions, new tensors, optimizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from memplan.memory.ghost import UNNAMED, Ghost, Shape, Whole, broadcast, named, require
from memplan.memory.ledger import ITEM_BYTES, Allocation, DType, Ledger
from memplan.memory.operators import passes
from memplan.workload import DeviceType

NORM_PIECE = 65_536
"""Elements that a block of PyTorch's norm over several tensors takes (kChunkSize in its MultiTensorApply)."""


def _vector_norm(
    tensor: Ghost,
    ord: float = 2,  # noqa: A002 - PyTorch's name
    dim: int | None = None,
    keepdim: bool = False,
    out: Ghost | None = None,
) -> Ghost:
    del ord
    if out is None:
        return tensor._new("vector_norm", () if dim is None else tensor._without(dim))
    require(keepdim and dim == 1 and out.shape == (len(tensor), 1), tensor, out)
    return out


def _total_norm(tensors: Sequence[Ghost]) -> Ghost:
    """Return the norm of all tensors, as torch.nn.utils has it: norms of pieces, of tensors, then of these."""
    first = tensors[0]
    pieces = max(-(-tensor.numel() // NORM_PIECE) for tensor in tensors)
    of_pieces = named("norms of pieces of the gradients", first._new("norm", (len(tensors) * pieces,)))
    norms = [named(f"norm of the {t.allocation.name}", t._new("norm", ())) for t in tensors]
    del of_pieces
    return named("norm of all gradients", _vector_norm(named("norms of the gradients", first.library.stack(norms))))


class Ghosts:
    """What ``torch`` is to PyTorch's tensors: it makes ghosts, on one device, into one ledger.

    cuBLAS's workspace is born with the first product and stays.
    """

    linalg = SimpleNamespace(vector_norm=_vector_norm)
    nn = SimpleNamespace(utils=SimpleNamespace(get_total_norm=_total_norm))
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
        self._has_multiplied = False

    @property
    def optim(self) -> Any:
        """The optimizers."""
        return SimpleNamespace(**{kind.__name__: partial(kind, self) for kind in (SGD, Adagrad, Adam)})

    def new(self, name: str, shape: Shape, dtype: DType) -> Ghost:
        """Return a new tensor."""
        ledger = self.ledger
        n_bytes = math.prod(shape) * ITEM_BYTES[dtype]
        allocation = ledger.born(Allocation(name, shape, dtype, n_bytes, "temporaries", ledger.now))
        return Whole(self, allocation, shape, dtype, None)

    def empty(self, shape: Shape, dtype: DType = "float32", device: str | None = None) -> Ghost:
        """Return a new tensor on the device."""
        require(device == self.device, device, self.device)
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

    def arange(self, n: int, dtype: DType = "int64", device: str | None = None) -> Ghost:
        """Return the numbers from 0 on, on the device."""
        return self.empty((n,), dtype, device)

    def index_select(self, tensor: Ghost, dim: int, index: Ghost, *, out: Ghost) -> Ghost:
        """Write the rows that a vector of ids names into ``out``."""
        require(dim == 0 and out.shape == (len(index), *tensor.shape[1:]) and out.dtype == tensor.dtype, tensor, out)
        return out

    def mm(self, one: Ghost, other: Ghost, out: Ghost | None = None) -> Ghost:
        """Return a matrix product, in ``out`` where that is given."""
        (rows, inner), (inner_too, columns) = one.shape, other.shape
        require(inner == inner_too and one.dtype == other.dtype, one, other)
        return self._product(one, (rows, columns), out)

    def bmm(self, one: Ghost, other: Ghost) -> Ghost:
        """Return the matrix product of each pair."""
        (n, rows, inner), (n_too, inner_too, columns) = one.shape, other.shape
        require((n, inner, one.dtype) == (n_too, inner_too, other.dtype), one, other)
        return self._product(one, (n, rows, columns))

    def dot(self, one: Ghost, other: Ghost) -> Ghost:
        """Return the dot product of two vectors."""
        require(one.shape == other.shape and len(one.shape) == 1, one, other)
        return self._product(one, ())

    def _product(self, one: Ghost, shape: Shape, out: Ghost | None = None) -> Ghost:
        if out is None:
            out = one._new("a product", shape)
        require(out.shape == shape and out.dtype == one.dtype, out, shape)
        if self.device == "cuda" and not self._has_multiplied:
            self._has_multiplied = True
            self.ledger.new("cuBLAS workspace", self.workspace_bytes, dtype="uint8")
        return out

    def _into(self, *operands: Ghost | float, out: Ghost) -> Ghost:
        """Write an element-wise function of tensors, or a number and a tensor, into ``out``."""
        for operand in operands:
            if isinstance(operand, Ghost):
                require(broadcast(operand.shape, out.shape) == out.shape, operand, out)
            else:
                out._write(operand)
        return out

    mul = logaddexp = where = sqrt = _into

    def softmax(self, scores: Ghost, dim: int, *, out: Ghost) -> Ghost:
        """Write the softmax over a dimension into ``out``."""
        del dim
        return self._into(scores, out=out)

    def hypot(self, one: Ghost, other: Ghost) -> Ghost:
        """Return √(x² + y²)."""
        return one._new("hypot", broadcast(one.shape, other.shape))

    def stack(self, tensors: Sequence[Ghost]) -> Ghost:
        """Return tensors of one shape as one."""
        first = tensors[0]
        require(all(tensor.shape == first.shape for tensor in tensors), *tensors)
        return first._new("stack", (len(tensors), *first.shape))

    def frexp(self, tensor: Ghost) -> tuple[Ghost, Ghost]:
        """Return mantissas and exponents."""
        return tensor._new("frexp", tensor.shape), named("exponent", tensor._new("frexp", tensor.shape, "int32"))


class SGD:
    """``torch.optim.SGD``, fused: nothing is kept and nothing taken."""

    def __init__(self, library: Ghosts, parameters: Sequence[Ghost], lr: float, *, fused: bool) -> None:
        del fused
        self.library = library
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr, "eps": 0.0}]
        self.state: dict[Ghost, dict[str, Any]] = {parameter: {} for parameter in parameters}

    def step(self) -> None:
        """Take a step; where step counts are kept, they go up by one."""
        if any(self.state.values()):
            passes(self.library.ledger, "with a Python number")


class Adagrad(SGD):
    """``torch.optim.Adagrad``: a sum of squares a table; step counts beside them if fused, else on the host."""

    def __init__(
        self, library: Ghosts, parameters: Sequence[Ghost], lr: float, *, fused: bool, foreach: bool = False
    ) -> None:
        del foreach
        super().__init__(library, parameters, lr, fused=fused)
        on_host = Ghosts("cuda")  # its ledger is nobody's: the host's memory is not the device's
        for parameter, state in self.state.items():
            counts = library if fused else on_host
            state["step"] = counts.zeros((), device=counts.device)
            state["sum"] = library.zeros_like(parameter)


class Adam(SGD):
    """``torch.optim.Adam``, fused: what it keeps it would make in its first step; the trainer makes it before."""
