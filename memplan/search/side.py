"""One side of a search, training or evaluation: its layouts, what each takes, and the fastest that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from memplan.workload import MAX_KERNEL_ELEMENTS, Workload

SMALLEST_CHUNK = 128


class Layout(NamedTuple):
    """Sizes that change memory and time, and no result."""

    batch: int
    """Queries at once: b, or the evaluation's batch."""
    chunk: int
    """Entities at once: C, or the evaluation's chunk."""

    @property
    def is_addressable(self) -> bool:
        """Whether a kernel can address the buffer of its scores."""
        return self.batch * self.chunk <= MAX_KERNEL_ELEMENTS


@dataclass
class Side:
    """The layouts of training or of evaluation.

    Memory grows with both sizes: exactly so where tensors' own bytes count, nearly so for what a caching allocator
    reserves. A staircase over both therefore finds every layout that fits in as many looks as both have sizes together,
    each layout is looked at once more before it is taken, and where the smallest does not fit, none is taken. So a
    larger budget can only add layouts.
    """

    batches: list[int]
    """Largest first."""
    chunks: list[int]
    """Largest first."""
    workload_of: Callable[[Layout], Workload]
    bytes_of: Callable[[Workload], int]
    """What a layout's workload takes on the device, in bytes."""
    seconds_of: Callable[[Workload], float]
    budget_bytes: int
    _bytes: dict[Layout, int] = field(default_factory=dict)

    @property
    def smallest(self) -> Layout:
        """The layout that takes least."""
        return Layout(self.batches[-1], self.chunks[-1])

    def device_bytes(self, layout: Layout) -> int:
        """Return what a layout takes on the device; each is computed once."""
        if layout not in self._bytes:
            self._bytes[layout] = self.bytes_of(self.workload_of(layout))
        return self._bytes[layout]

    def fits(self, layout: Layout) -> bool:
        """Return whether a layout can run within the budget."""
        return layout.is_addressable and self.device_bytes(layout) <= self.budget_bytes

    def layouts(self) -> list[Layout]:
        """Return every layout that can be addressed, whether it fits or not."""
        every = (Layout(batch, chunk) for chunk in self.chunks for batch in self.batches)
        return [layout for layout in every if layout.is_addressable]

    def by_preference(self, layouts: Iterator[Layout] | list[Layout]) -> list[Layout]:
        """Return layouts sorted: the faster first; among equals the one that takes less memory."""
        return sorted(layouts, key=lambda layout: (self.seconds_of(self.workload_of(layout)), *layout))

    def fastest(self) -> Layout:
        """Return the fastest layout that fits; the smallest is known to fit."""
        fastest = self.by_preference(self.layouts())[0]
        if self.fits(fastest):  # as it mostly does: no other need be looked at
            return fastest
        return next(layout for layout in self.by_preference(self._fitting()) if self.fits(layout))

    def _fitting(self) -> Iterator[Layout]:
        """Yield the layouts under the staircase: chunks from the largest down, batches from the smallest up."""
        ascending = self.batches[::-1]
        n_fitting = 0
        for chunk in self.chunks:
            while n_fitting < len(ascending) and self.fits(Layout(ascending[n_fitting], chunk)):
                n_fitting += 1
            for batch in ascending[:n_fitting]:
                yield Layout(batch, chunk)


def halvings(size: int, smallest: int = 1) -> list[int]:
    """Return ``size`` and what follows by halving, rounded up, down to ``smallest``: 10 gives 10, 5, 3, 2, 1."""
    sizes = [size]
    while sizes[-1] > smallest:
        sizes.append(max(smallest, -(-sizes[-1] // 2)))
    return sizes


def chunk_choices(n_entities: int) -> list[int]:
    """Return all entities at once, then powers of two below."""
    powers = [2**k for k in range(SMALLEST_CHUNK.bit_length() - 1, n_entities.bit_length() + 1) if 2**k < n_entities]
    return [n_entities, *reversed(powers)]
