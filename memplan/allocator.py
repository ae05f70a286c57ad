"""PyTorch's CUDA caching allocator, replayed over a ledger: what it hands out and what it reserves from the driver.

The rules are those of PyTorch's c10/cuda/CUDACachingAllocator.cpp:

- A request is rounded up to 512 B. Up to 1 MiB it is served by the small pool, else by the large one.
- The best-fitting free block of the pool is taken (lowest address among equals) and split where at least 512 B (small
  pool, or expandable segments) or more than 1 MiB (large pool) remain. Neighbours merge when freed.
- Where none fits, a segment is taken from the driver: 2 MiB for the small pool; 20 MiB for a request under 10 MiB;
  else the size rounded up to 2 MiB.
- ``max_split_size``: a block of at least that size is never split, serves no smaller request, and serves a larger one
  only where less than 20 MiB are wasted.
- ``expandable_segments``: a pool is one range of addresses that grows by pages of 2 MiB (small) or 20 MiB (large),
  mapped where free space ends; of two blocks that fit, the one that cannot grow is taken.
- Where the driver has no more, segments without a block in use are returned (with ``max_split_size``: oversize blocks
  first) and the request is tried once more.

One stream is assumed, and no ``roundup_power2_divisions`` or garbage collection.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

from memplan.alloc_conf import DEFAULT, AllocatorSettings
from memplan.ledger import Allocation, Event

MIB = 2**20
ROUNDING = 512
SMALL_LIMIT = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_LIMIT = 10 * MIB
LARGE_SEGMENT = 20 * MIB
SEGMENT_ROUNDING = 2 * MIB
ADDRESSES = LARGE_SEGMENT * 2**34
"""Room for one expandable segment: more than any device has, and a whole number of pages."""


class OutOfDeviceMemory(Exception):  # noqa: N818 - what the driver says, not a mistake of the caller
    """The driver has no memory left for a segment, even after cached ones were returned."""


@dataclass(eq=False, slots=True)
class Block:
    """A stretch of a segment; ``previous`` and ``following`` are its neighbours in the segment."""

    address: int
    size: int
    is_small: bool
    is_free: bool = True
    is_mapped: bool = True
    """False for the part of an expandable segment that has no memory behind it."""
    previous: Block | None = None
    following: Block | None = None


class CachingAllocator:
    """The allocator's state; sizes in bytes. ``capacity_bytes`` bounds what it can reserve; None: no bound."""

    def __init__(self, settings: AllocatorSettings = DEFAULT, capacity_bytes: int | None = None) -> None:
        self.settings = settings
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.peak_reserved_bytes = 0
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._next_address = 0
        self._unmapped: dict[bool, list[Block]] = {True: [], False: []}
        """By address: the stretches of a pool's expandable segment that are not mapped."""
        if settings.expandable_segments:
            for is_small in (True, False):
                self._unmapped[is_small] = [Block(self._next_address, ADDRESSES, is_small, is_mapped=False)]
                self._next_address += ADDRESSES

    def allocate(self, n_bytes: int) -> Block | None:
        """Return a block for a request; None for an empty one, which takes no memory.

        Raises:
            OutOfDeviceMemory: there is none, even after cached segments were returned.
        """
        if n_bytes == 0:
            return None
        size = -(-n_bytes // ROUNDING) * ROUNDING
        is_small = size <= SMALL_LIMIT
        block = self._take(size, is_small) or self._new_block(size, is_small)
        if block is None and self._return_oversize(size, is_small):
            block = self._new_block(size, is_small)
        if block is None:
            self.empty_cache()
            block = self._new_block(size, is_small)
        if block is None:
            raise OutOfDeviceMemory(f"{size} bytes do not fit beside {self.allocated_bytes} in {self.capacity_bytes}")
        if self._splits(block, size):
            self._put(self._split(block, size))
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
        self._put(self._merge(block))

    def empty_cache(self) -> None:
        """Return to the driver every segment, or every whole page of an expandable one, that holds no block in use."""
        for is_small, pool in self._free.items():
            for *_, block in list(pool):
                if self.settings.expandable_segments:
                    self._unmap(block)
                elif block.previous is None and block.following is None:
                    self._remove(block)
                    self.reserved_bytes -= block.size
            self._unmapped[is_small].sort(key=lambda block: block.address)

    def _take(self, size: int, is_small: bool) -> Block | None:
        """Take the best-fitting free block, if the settings let it serve the request."""
        pool = self._free[is_small]
        at = bisect_left(pool, (size, -1))
        if at == len(pool):
            return None
        block = pool[at][2]
        if _can_grow(block) and at + 1 < len(pool):
            at += 1
            block = pool[at][2]
        largest = self.settings.max_split_size_bytes
        if largest is not None:
            if size < largest <= block.size:
                return None
            if size >= largest and block.size >= size + LARGE_SEGMENT:
                return None
        del pool[at]
        return block

    def _splits(self, block: Block, size: int) -> bool:
        remaining = block.size - size
        if block.is_small or self.settings.expandable_segments:
            return remaining >= ROUNDING
        largest = self.settings.max_split_size_bytes
        return remaining > SMALL_LIMIT and (largest is None or size < largest)

    def _new_block(self, size: int, is_small: bool) -> Block | None:
        """Return a block of new memory, out of every list; None where the driver has none."""
        if self.settings.expandable_segments:
            return self._grow(size, is_small)
        if is_small:
            segment = SMALL_SEGMENT
        elif size < LARGE_LIMIT:
            segment = LARGE_SEGMENT
        else:
            segment = -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING
        if not self._reserve(segment):
            return None
        block = Block(self._next_address, segment, is_small)
        self._next_address += segment
        return block

    def _reserve(self, n_bytes: int) -> bool:
        if self.capacity_bytes is not None and self.reserved_bytes + n_bytes > self.capacity_bytes:
            return False
        self.reserved_bytes += n_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return True

    def _return_oversize(self, size: int, is_small: bool) -> bool:
        """With ``max_split_size``, return one cached block that is large enough, or several; return whether it did."""
        largest = self.settings.max_split_size_bytes
        if largest is None or self.settings.expandable_segments:
            return False
        pool, wanted = self._free[is_small], max(size, largest)
        at = bisect_left(pool, (wanted, -1))
        if at < len(pool):
            chosen = [pool[at][2]]
        else:
            chosen, total = [], 0
            for block_size, _, block in reversed(pool):
                if total >= wanted or block_size < largest:
                    break
                chosen.append(block)
                total += block_size
            if total < wanted:
                chosen = []
        for block in chosen:
            self._remove(block)
            self.reserved_bytes -= block.size
        return bool(chosen)

    def _grow(self, size: int, is_small: bool) -> Block | None:
        """Map pages at the first stretch that has room for ``size``, with the free block before it."""
        page = SMALL_SEGMENT if is_small else LARGE_SEGMENT
        for unmapped in self._unmapped[is_small]:
            before = unmapped.previous
            free_before = before.size if before is not None and before.is_free else 0
            if free_before + unmapped.size < size:
                continue
            mapped = -(-(size - free_before) // page) * page
            if not self._reserve(mapped):
                return None
            if mapped < unmapped.size:
                rest = self._split(unmapped, mapped)
                rest.is_mapped = False
                self._unmapped[is_small].append(rest)
            self._unmapped[is_small].remove(unmapped)
            self._unmapped[is_small].sort(key=lambda block: block.address)
            unmapped.is_mapped = True
            return self._merge(unmapped)
        return None

    def _unmap(self, block: Block) -> None:
        """Unmap the whole pages inside a free block of an expandable segment."""
        page = SMALL_SEGMENT if block.is_small else LARGE_SEGMENT
        first = -(-block.address // page) * page
        last = (block.address + block.size) // page * page
        if last <= first:
            return
        self._remove(block)
        if first > block.address:
            pages = self._split(block, first - block.address)
            self._put(block)
            block = pages
        if block.address + block.size > last:
            self._put(self._split(block, last - block.address))
        self.reserved_bytes -= block.size
        block.is_mapped = False
        self._unmapped[block.is_small].append(self._merge(block))

    def _split(self, block: Block, size: int) -> Block:
        """Cut a block down to ``size``; return the rest, its new neighbour."""
        rest = Block(block.address + size, block.size - size, block.is_small, True, block.is_mapped, block)
        rest.following = block.following
        if rest.following is not None:
            rest.following.previous = rest
        block.following, block.size = rest, size
        return rest

    def _merge(self, block: Block) -> Block:
        """Return a free block that is in no list, merged with the free neighbours of its kind."""
        before = block.previous
        if before is not None and before.is_free and before.is_mapped == block.is_mapped:
            self._remove(before)
            _join(before, block)
            block = before
        after = block.following
        if after is not None and after.is_free and after.is_mapped == block.is_mapped:
            self._remove(after)
            _join(block, after)
        return block

    def _put(self, block: Block) -> None:
        insort(self._free[block.is_small], (block.size, block.address, block))

    def _remove(self, block: Block) -> None:
        if not block.is_mapped:
            self._unmapped[block.is_small].remove(block)
            return
        pool = self._free[block.is_small]
        del pool[bisect_left(pool, (block.size, block.address))]


def _can_grow(block: Block) -> bool:
    return block.following is not None and not block.following.is_mapped


def _join(block: Block, after: Block) -> None:
    block.size += after.size
    block.following = after.following
    if after.following is not None:
        after.following.previous = block


def replay(
    events: Iterable[Event],
    settings: AllocatorSettings = DEFAULT,
    capacity_bytes: int | None = None,
) -> CachingAllocator:
    """Return the allocator after the events of a ledger.

    Raises:
        OutOfDeviceMemory: they do not fit ``capacity_bytes``.
    """
    allocator = CachingAllocator(settings, capacity_bytes)
    blocks: dict[Allocation, Block | None] = {}
    for allocation, is_birth in events:
        if allocation is None:
            allocator.empty_cache()
        elif is_birth:
            blocks[allocation] = allocator.allocate(allocation.n_bytes)
        else:
            allocator.free(blocks.pop(allocation))
    return allocator
