"""Named allocations and frees along a run; the peak, per phase and overall, and who is alive at it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from memplan.workload import DeviceType

DType = Literal["float32", "float64", "int32", "int64", "bool", "uint8"]
ITEM_BYTES: dict[DType, int] = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "bool": 1, "uint8": 1}


@dataclass(frozen=True, eq=False, slots=True)
class Allocation:
    """A tensor of the run. Two allocations are the same only if they are the same object."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Event:
    """An allocation's birth or death."""

    allocation: Allocation
    is_birth: bool


class Ledger:
    """A run told as a sequence of allocations and frees, in the order in which they happen.

    Bytes are requested bytes: shape times item size, before any allocator's rounding. Empty tensors are left out.
    """

    def __init__(self, device: DeviceType = "cpu") -> None:
        self.device = device
        self.events: list[Event] = []
        self.phase_peaks: dict[str, int] = {}
        """Highest live bytes during each phase, in order of first appearance."""
        self.peak_bytes = 0
        self._live_bytes = 0
        self._peak_at = 0
        self._phases: list[str] = []

    def new(self, name: str, *shape: int, dtype: DType = "float32") -> Allocation:
        """Record the birth of a tensor."""
        allocation = Allocation(name, shape, dtype, math.prod(shape) * ITEM_BYTES[dtype])
        self._live_bytes += allocation.n_bytes
        self.events.append(Event(allocation, is_birth=True))
        self._touch_phases()
        if self._live_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_at = self._live_bytes, len(self.events)
        return allocation

    def free(self, *allocations: Allocation) -> None:
        """Record the death of tensors."""
        for allocation in allocations:
            self._live_bytes -= allocation.n_bytes
            self.events.append(Event(allocation, is_birth=False))

    @contextmanager
    def temporary(self, name: str, *shape: int, dtype: DType = "float32") -> Iterator[Allocation]:
        """Record a tensor that lives as long as the ``with`` block."""
        allocation = self.new(name, *shape, dtype=dtype)
        try:
            yield allocation
        finally:
            self.free(allocation)

    def passing(self, name: str, *shape: int, dtype: DType = "float32") -> None:
        """Record a tensor that is born and dies with nothing in between."""
        self.free(self.new(name, *shape, dtype=dtype))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute what happens inside to a phase."""
        self._phases.append(name)
        self._touch_phases()
        yield
        self._phases.pop()

    def alive_at_peak(self) -> list[Allocation]:
        """Return the tensors alive when the peak was reached, largest first, equals in order of birth."""
        alive: dict[Allocation, None] = {}
        for event in self.events[: self._peak_at]:
            if event.is_birth:
                alive[event.allocation] = None
            else:
                del alive[event.allocation]
        return sorted((a for a in alive if a.n_bytes), key=lambda allocation: -allocation.n_bytes)

    def _touch_phases(self) -> None:
        for phase in self._phases:
            self.phase_peaks[phase] = max(self.phase_peaks.get(phase, 0), self._live_bytes)
