"""The ledger of a step that runs on fake tensors: each storage's birth, size and death.

A ``TorchDispatchMode`` sees every operator below autograd. What an operator returns in a storage that was not there
before is a birth, told once the operator is done; the storage's weak reference tells its death, wherever in PyTorch the
last owner lets go. What kernels take inside is not visible there: ``memplan.trace.operators`` tells it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memplan.memory.ledger import Allocation, Kind, Ledger
from memplan.trace.engine import DEVICE, without_a_mode
from memplan.trace.known import Known
from memplan.trace.names import Names, TracedAllocation, short_name
from memplan.trace.operators import NOTHING, Inside, Scratch
from memplan.trace.result import UnlistedOperator

LIFT = torch.ops.aten.lift_fresh.default
"""Makes a fake tensor of one that Python or numpy made."""

IS_SCRATCH = "inside the operator"
"""In place of a line: the table of operators tells of this allocation, the trace did not see it."""


class TracedTensors(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Fake tensors of one trace. A copy of a model refers to the mode that it was built in, as its original does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedTensors:
        return self


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells a ledger of every storage on one device; entered inside ``TracedTensors``.

    ``device_type``: of the storages that count: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, ledger: Ledger, names: Names, inside: Inside, known: Known, device_type: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self.names = names
        self.inside = inside
        self.known = known
        self.device_type = device_type
        self._unlisted: dict[str, tuple[int, int]] = {}
        self._last: Any = None
        """The operator before this one."""
        self._alive: dict[int, tuple[weakref.ref[Any], Allocation, int]] = {}
        """By the storage's address: its weak reference, its allocation and its bytes."""

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before, self._last = self._last, func
        kwargs = kwargs or {}
        if func is DEVICE:
            return func(*args, **kwargs)
        is_lifted = func is LIFT
        for tensor in _tensors((args, kwargs)):
            if not isinstance(tensor, FakeTensor):
                if is_lifted and not tensor.untyped_storage().resizable():
                    out = self.known.run(func, args, kwargs)
                    out.untyped_storage().is_numpys = True
                    return out
                if not is_lifted:
                    self._see(tensor, from_outside=True)
        func = without_a_mode(func, before, args)
        self.names.operator = func
        out = self.known.run(func, args, kwargs)
        inside = self.inside.of(func, args, kwargs, out)
        if inside is None:
            inside = NOTHING
            self._note_unlisted(func, args, kwargs, out)
        for stage in inside.before:
            self.ledger.free(*self._take(stage))
        self._take(inside.lasting)
        taken = self._take(inside.during)
        sizes = dict(inside.results)
        for position, tensor in enumerate(_tensors(out)):
            self._see(tensor, sizes.get(position))
        self.ledger.free(*taken, *self._take(inside.after))
        return out

    def _take(self, scratch: Iterable[Scratch]) -> list[Allocation]:
        """Record the birth of what the running operator takes inside."""
        operator = short_name(self.names.operator)
        return [
            self._birth(f"{name} of {operator}", (n_bytes,), "uint8", n_bytes, "temporaries", IS_SCRATCH)
            for name, n_bytes in scratch
        ]

    def unlisted(self) -> list[UnlistedOperator]:
        """Return the operators that the table says nothing of, the one that may change the peak most first."""
        found = []
        for name, (calls, reached) in self._unlisted.items():
            found.append(UnlistedOperator(name=name, calls=calls, bound_bytes=max(0, reached - self.ledger.peak_bytes)))
        return sorted(found, key=lambda operator: (-operator.bound_bytes, operator.name))

    def _note_unlisted(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Note how high memory would be if the operator took as much inside as its operands and results together."""
        touched = {
            t.untyped_storage()._cdata: t.untyped_storage().nbytes()
            for t in _tensors((args, kwargs, out))
            if t.device.type == self.device_type
        }
        new = sum(n for key, n in touched.items() if key not in self._alive)
        reached = self.ledger.live_bytes + new + sum(touched.values())
        calls, highest = self._unlisted.get(short_name(func), (0, 0))
        self._unlisted[short_name(func)] = (calls + 1, max(highest, reached))

    def claim(self) -> None:
        """Give what a module or an optimizer owns its owner's name."""
        for tensor, name, kind in self.names.owned():
            allocation = self.allocation_of(tensor)
            if allocation is not None:
                allocation.name, allocation.kind = name, kind

    def allocation_of(self, tensor: Tensor) -> Allocation | None:
        """Return the allocation that holds a tensor's numbers; None where it is not of this trace."""
        found = self._alive.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[1]

    def _see(self, tensor: Tensor, n_bytes: int | None = None, *, from_outside: bool = False) -> None:
        """Record the birth of a tensor's storage where it is new, or its new size."""
        if tensor.device.type != self.device_type or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        if getattr(storage, "is_numpys", False) or (from_outside and not storage.resizable()):
            return  # memory that PyTorch's allocator does not know
        key, size = storage._cdata, storage.nbytes()
        known = self._alive.get(key)
        if known is not None:
            if known[2] == size:
                return
            self.ledger.free(known[1])
        place = self.names.place()
        name = "made outside the trace" if from_outside else self.names.describe(place)
        allocation = self._birth(
            name, tuple(tensor.shape), str(tensor.dtype), n_bytes or size, self.names.kind, place.line
        )
        self._alive[key] = (weakref.ref(storage, lambda _: self._die(key)), allocation, size)

    def _birth(
        self, name: str, shape: tuple[int, ...], dtype: str, n_bytes: int, kind: Kind, line: str = ""
    ) -> Allocation:
        phase = self.names.phase
        with self.ledger.phase(phase):
            return self.ledger.born(
                TracedAllocation(name, shape, dtype.removeprefix("torch."), n_bytes, kind, phase, line)
            )

    def _die(self, key: int) -> None:
        self.ledger.free(self._alive.pop(key)[1])


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
