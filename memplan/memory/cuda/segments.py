"""Segments as the allocator takes them by default: each one piece of memory, kept until it is returned whole."""

from __future__ import annotations

from memplan.memory.cuda.blocks import Block, Pool
from memplan.memory.cuda.device import Device
from memplan.workload.alloc_conf import AllocatorSettings

MIB = 2**20
SMALL_LIMIT = MIB
LARGE_LIMIT = 10 * MIB
SEGMENT_ROUNDING = 2 * MIB
ROUNDING = 512
NO_LIMIT = 2**63


def segment_bytes(pool: Pool, size: int) -> int:
    """Return the size of the segment that is taken for a request of ``size`` rounded bytes."""
    if pool.is_small or size < LARGE_LIMIT:
        return pool.page
    return -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING


class Segments:
    """Where blocks come from when no free one fits, and what can be returned to the driver."""

    def __init__(self, settings: AllocatorSettings, device: Device) -> None:
        self.device = device
        self.largest_split = settings.max_split_size_bytes or NO_LIMIT
        self.largest_waste = settings.max_non_split_rounding_bytes or settings.large_segment_bytes
        self.returns_oversize = settings.max_split_size_bytes is not None and not settings.expandable_segments
        self.garbage_threshold = settings.garbage_collection_threshold

    def take(self, pool: Pool, size: int) -> Block | None:
        """Take the best-fitting free block out of the pool, if the settings let it serve the request."""
        free = pool.free
        at = pool.first_of(size)
        if at == len(free) or not self.may_serve(free[at][0], size):
            return None
        return free.pop(at)[2]

    def may_serve(self, block_size: int, size: int) -> bool:
        """Return whether ``max_split_size`` lets a block of that size serve a request."""
        if size < self.largest_split:
            return block_size < self.largest_split
        return block_size < size + self.largest_waste

    def splits(self, block: Block, size: int) -> bool:
        """Return whether what is left of a block becomes a block of its own."""
        remaining = block.size - size
        if block.pool.is_small:
            return remaining >= ROUNDING
        return remaining > SMALL_LIMIT and size < self.largest_split

    def new_block(self, pool: Pool, size: int) -> Block | None:
        """Return a block of new memory, in no list; None where the driver has none."""
        n_bytes = segment_bytes(pool, size)
        if not self.device.allows(n_bytes) or not self.device.take(n_bytes):
            return None
        begin = self.device.begin(n_bytes)
        return Block(begin, n_bytes, pool, begin)

    def return_oversize(self, pool: Pool, size: int) -> bool:
        """With ``max_split_size``, return the smallest oversize block that is large enough, else the largest ones.

        Returns whether as much as is wanted went back.
        """
        if not self.returns_oversize:
            return False
        wanted = max(size, self.largest_split)
        at = pool.first_of(wanted)
        if at < len(pool.free):
            self._return(pool.free[at][2])
            return True
        total = 0
        while total < wanted and pool.free and pool.free[-1][0] >= self.largest_split:
            total += pool.free[-1][0]
            self._return(pool.free[-1][2])
        return total >= wanted

    def collect_garbage(self, pool: Pool) -> None:
        """Return cached segments of the large pool that were long unused, where more than the threshold is reserved.

        Those of at least the mean age go first, whatever their size; then again, until the excess has gone.
        """
        assert self.device.allowed_bytes is not None
        excess = self.device.reserved_bytes - int(self.garbage_threshold * self.device.allowed_bytes)
        cached = [block for _, _, block in pool.free if block.is_alone]
        ages = {block: pool.searches - block.put_at for block in cached}
        while excess > 0 and ages:
            mean = sum(ages.values()) / len(ages)
            for block in [block for block, age in ages.items() if age >= mean]:
                del ages[block]
                excess -= block.size
                self._return(block)

    def empty(self, pool: Pool) -> None:
        """Return every segment that holds no block in use."""
        for _, _, block in [entry for entry in pool.free if entry[2].is_alone]:
            self._return(block)

    def _return(self, block: Block) -> None:
        block.pool.remove(block)
        self.device.give_back(block.size)
