"""The allocator itself: which pool serves a request, in which order memory is looked for, and what is counted."""

from __future__ import annotations

from memplan.memory.cuda.blocks import Block, Pool
from memplan.memory.cuda.device import Device, OutOfDeviceMemory
from memplan.memory.cuda.expandable import Addresses, ExpandableSegments
from memplan.memory.cuda.segments import SMALL_LIMIT, Segments
from memplan.workload.alloc_conf import DEFAULT, AllocatorSettings

SMALL_SEGMENT = 2 * 2**20


class CachingAllocator:
    """The allocator's state; sizes in bytes.

    ``capacity_bytes``: what the driver can give; None: no bound. ``total_bytes``: the device's memory, which bounds an
    expandable segment's addresses and of which a memory fraction is a part; None: the capacity.
    """

    def __init__(
        self,
        settings: AllocatorSettings = DEFAULT,
        capacity_bytes: int | None = None,
        total_bytes: int | None = None,
        addresses: Addresses | None = None,
    ) -> None:
        total_bytes = capacity_bytes if total_bytes is None else total_bytes
        self.settings = settings
        self.device = Device(capacity_bytes, settings.allowed_bytes(total_bytes))
        self.allocated_bytes = 0
        self.peak_allocated_bytes = 0
        self._small = Pool(is_small=True, page=SMALL_SEGMENT)
        self._large = Pool(is_small=False, page=settings.large_segment_bytes)
        self._collects = self.device.allowed_bytes is not None and settings.garbage_collection_threshold > 0
        self._segments: Segments
        if settings.expandable_segments:
            self._segments = ExpandableSegments(settings, self.device, total_bytes, addresses)
        else:
            self._segments = Segments(settings, self.device)

    @property
    def reserved_bytes(self) -> int:
        """What the driver has given and not got back."""
        return self.device.reserved_bytes

    @property
    def peak_reserved_bytes(self) -> int:
        """The most that was reserved."""
        return self.device.peak_reserved_bytes

    def allocate(self, n_bytes: int) -> Block | None:
        """Return a block for a request; None for an empty one, which takes no memory.

        Raises:
            OutOfDeviceMemory: there is none, even after cached segments were returned.
        """
        if n_bytes == 0:
            return None
        size = self.settings.rounded(n_bytes)
        pool = self._small if size <= SMALL_LIMIT else self._large
        if self._collects:
            pool.searches += 1
        segments = self._segments
        block = segments.take(pool, size) or self._new_block(pool, size)
        if block.size > size and segments.splits(block, size):
            pool.put(block.split(size))
        block.is_free = False
        self.allocated_bytes += block.size
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return block

    def free(self, block: Block | None) -> None:
        """Return a block to its pool, merged with free neighbours."""
        if block is None:
            return
        self.allocated_bytes -= block.size
        block.is_free = True
        pool = block.pool
        pool.put(pool.merged(block))

    def empty_cache(self) -> None:
        """Return to the driver every segment, or every whole page of an expandable one, that holds no block in use."""
        self._segments.empty(self._large)
        self._segments.empty(self._small)

    def _new_block(self, pool: Pool, size: int) -> Block:
        """Return a block of new memory, after what can be returned was, in PyTorch's order."""
        segments = self._segments
        if self._collects:
            segments.collect_garbage(self._large)
        block = segments.new_block(pool, size)
        if block is None and segments.return_oversize(pool, size):
            block = segments.new_block(pool, size)
        if block is None:
            self.empty_cache()
            block = segments.new_block(pool, size)
        if block is None:
            limits = [n for n in (self.device.capacity_bytes, self.device.allowed_bytes) if n is not None]
            raise OutOfDeviceMemory(f"{size} bytes do not fit beside {self.allocated_bytes} in {min(limits)}")
        return block
