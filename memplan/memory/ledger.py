"""Named allocations and frees along a run; the peak, per phase and overall, and who is alive at it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

from memplan.workload import DeviceType

DType = Literal["float32", "float64", "bfloat16", "float16", "int32", "int64", "bool", "uint8"]
ITEM_BYTES: dict[DType, int] = {
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
    "uint8": 1,
}
Kind = Literal["parameters", "optimizer", "gradients", "data", "scores", "temporaries"]
KINDS: tuple[Kind, ...] = ("parameters", "optimizer", "gradients", "data", "scores", "temporaries")
"""What a tensor is for: what lives as long as the run first, what a step makes and drops last."""


class Allocation:
    """A tensor of the run. Two allocations are the same only if they are the same object."""

    __slots__ = ("dtype", "kind", "n_bytes", "name", "phase", "shape")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: DType, n_bytes: int, kind: Kind, phase: str) -> None:
        """``kind``: what it is for; ``phase``: that in which it is born."""
        self.name, self.shape, self.dtype = name, shape, dtype
        self.n_bytes, self.kind, self.phase = n_bytes, kind, phase

    def __repr__(self) -> str:
        return f"Allocation({self.name!r}, {self.shape}, {self.dtype}, {self.n_bytes} B, {self.kind}, {self.phase!r})"


class Event(NamedTuple):
    """An allocation's birth or death; without an allocation, the return of cached segments to the driver."""

    allocation: Allocation | None
    is_birth: bool = False


_event: Callable[[tuple[Allocation | None, bool]], Event] = partial(tuple.__new__, Event)
"""``Event`` without its constructor's time: a search records tens of thousands."""


class Ledger:
    """A run as a sequence of allocations and frees, in the order in which they happen.

    Bytes are requested bytes: shape times item size, before any allocator's rounding.
    """

    def __init__(self, device: DeviceType = "cpu") -> None:
        self.device = device
        self.events: list[Event] = []
        self.phase_peaks: dict[str, int] = {}
        """Highest live bytes during each phase, in order of first appearance."""
        self.peak_bytes = 0
        self._live_bytes = 0
        self._peak_at = 0
        self.now = ""
        """The phase under way."""

    def new(self, name: str, *shape: int, dtype: DType = "float32", kind: Kind = "temporaries") -> Allocation:
        """Record the birth of a tensor."""
        return self.born(Allocation(name, shape, dtype, math.prod(shape) * ITEM_BYTES[dtype], kind, self.now))

    def born(self, allocation: Allocation) -> Allocation:
        """Record the birth of a tensor that is described already."""
        self._live_bytes += allocation.n_bytes
        self.events.append(_event((allocation, True)))
        if self._live_bytes > self.phase_peaks.get(self.now, -1):
            self.phase_peaks[self.now] = self._live_bytes
            if self._live_bytes > self.peak_bytes:
                self.peak_bytes, self._peak_at = self._live_bytes, len(self.events)
        return allocation

    def free(self, *allocations: Allocation) -> None:
        """Record the death of tensors."""
        for allocation in allocations:
            self._live_bytes -= allocation.n_bytes
            self.events.append(_event((allocation, False)))

    def repeat(self, events: Iterable[Event]) -> None:
        """Record events again that a part of the run had when it came before."""
        now = self.now
        for allocation, is_birth in events:
            if allocation is None:
                self.release_cache()
            elif is_birth:
                self.now = allocation.phase
                self.born(allocation)
            else:
                self.free(allocation)
        self.now = now

    @property
    def live_bytes(self) -> int:
        """Bytes alive now."""
        return self._live_bytes

    def release_cache(self) -> None:
        """Record that the caching allocator returns its unused segments to the driver (CUDA; nothing on the CPU)."""
        self.events.append(Event(None))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute what happens inside to a phase."""
        outer, self.now = self.now, name
        self.phase_peaks[name] = max(self.phase_peaks.get(name, 0), self._live_bytes)
        yield
        self.now = outer

    def copy(self) -> Ledger:
        """Return a ledger that goes on from here by itself."""
        other = Ledger(self.device)
        other.events = self.events.copy()
        other.phase_peaks = self.phase_peaks.copy()
        other.peak_bytes, other._live_bytes, other._peak_at = self.peak_bytes, self._live_bytes, self._peak_at
        return other

    def alive_at_peak(self) -> list[Allocation]:
        """Return the tensors alive when the peak was reached, largest first, equals in order of birth."""
        alive: dict[Allocation, None] = {}
        for allocation, is_birth in self.events[: self._peak_at]:
            if allocation is None:
                continue
            if is_birth:
                alive[allocation] = None
            else:
                del alive[allocation]
        return sorted((a for a in alive if a.n_bytes), key=lambda allocation: -allocation.n_bytes)
