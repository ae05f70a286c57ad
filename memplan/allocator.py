"""PyTorch's CUDA caching allocator, replayed over a ledger: what tensors ask for becomes allocated and reserved bytes.

The rules are those of PyTorch's CUDACachingAllocator.cpp with its default settings: a request is rounded up to 512 B;
up to 1 MiB comes from the small pool, whose segments are 2 MiB; a larger one below 10 MiB takes a 20 MiB segment, from
10 MiB on its size rounded up to 2 MiB; the best-fitting free block of the pool is taken (lowest address among equals)
and split where at least 512 B (small pool) or more than 1 MiB (large pool) remain; neighbours merge when freed;
segments are never returned while the run fits. Compared with hand-worked cases so far, not yet with a GPU.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

from memplan.ledger import Allocation, Event

MIB = 2**20
ROUNDING = 512
SMALL_LIMIT = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_LIMIT = 10 * MIB
LARGE_SEGMENT = 20 * MIB
SEGMENT_ROUNDING = 2 * MIB


@dataclass(eq=False, slots=True)
class Block:
    """A stretch of a segment; ``previous`` and ``following`` are its neighbours in the segment."""

    address: int
    size: int
    is_small: bool
    is_free: bool = True
    previous: Block | None = None
    following: Block | None = None

    def key(self) -> tuple[int, int]:
        """Return the order in which free blocks are looked for: by size, then by address."""
        return self.size, self.address


class CachingAllocator:
    """The allocator's state. Sizes in bytes."""

    def __init__(self) -> None:
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._next_address = 0

    def allocate(self, n_bytes: int) -> Block | None:
        """Return a block for a request; None for an empty one, which takes no memory."""
        if n_bytes == 0:
            return None
        size = -(-n_bytes // ROUNDING) * ROUNDING
        is_small = size <= SMALL_LIMIT
        block = self._take(size, is_small) or self._new_segment(size, is_small)
        remaining = block.size - size
        if remaining >= ROUNDING if is_small else remaining > SMALL_LIMIT:
            rest = Block(block.address + size, remaining, is_small, previous=block, following=block.following)
            if block.following is not None:
                block.following.previous = rest
            block.following, block.size = rest, size
            self._put(rest)
        block.is_free = False
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def free(self, block: Block | None) -> None:
        """Return a block to its pool, merged with free neighbours."""
        if block is None:
            return
        self.allocated_bytes -= block.size
        block.is_free = True
        if block.previous is not None and block.previous.is_free:
            before = block.previous
            self._remove(before)
            before.size += block.size
            before.following = block.following
            if block.following is not None:
                block.following.previous = before
            block = before
        if block.following is not None and block.following.is_free:
            after = block.following
            self._remove(after)
            block.size += after.size
            block.following = after.following
            if after.following is not None:
                after.following.previous = block
        self._put(block)

    def _take(self, size: int, is_small: bool) -> Block | None:
        pool = self._free[is_small]
        at = bisect_left(pool, (size, -1))
        if at == len(pool):
            return None
        return pool.pop(at)[2]

    def _new_segment(self, size: int, is_small: bool) -> Block:
        if is_small:
            segment = SMALL_SEGMENT
        elif size < LARGE_LIMIT:
            segment = LARGE_SEGMENT
        else:
            segment = -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING
        self.reserved_bytes += segment
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        block = Block(self._next_address, segment, is_small)
        self._next_address += segment
        return block

    def _put(self, block: Block) -> None:
        insort(self._free[block.is_small], (*block.key(), block))

    def _remove(self, block: Block) -> None:
        pool = self._free[block.is_small]
        del pool[bisect_left(pool, block.key())]


def replay(events: Iterable[Event]) -> CachingAllocator:
    """Return the allocator after the events of a ledger."""
    allocator = CachingAllocator()
    blocks: dict[Allocation, Block | None] = {}
    for event in events:
        if event.is_birth:
            blocks[event.allocation] = allocator.allocate(event.allocation.n_bytes)
        else:
            allocator.free(blocks.pop(event.allocation))
    return allocator
