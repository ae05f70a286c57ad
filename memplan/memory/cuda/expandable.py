"""Expandable segments: ranges of addresses behind which memory is mapped page by page, and unmapped again."""

from __future__ import annotations

from typing import Protocol

from memplan.memory.cuda.blocks import Block, Pool
from memplan.memory.cuda.device import Device
from memplan.memory.cuda.segments import ROUNDING, Segments, segment_bytes
from memplan.workload.alloc_conf import AllocatorSettings

BOUNDLESS = 2**60
"""Addresses of a segment on a device whose memory is not known."""


class Addresses(Protocol):
    """Where the driver puts the addresses of expandable segments: of two that can grow, the lower one does."""

    def take(self, n_bytes: int) -> int:
        """Return where a new segment of that size begins."""
        ...

    def give_back(self, address: int, n_bytes: int) -> None:
        """Take back the addresses of a segment."""
        ...


class ExpandableSegments(Segments):
    """The same as ``Segments`` with ``expandable_segments``.

    ``total_bytes``: the device's memory, where known. ``addresses``: the driver's; None: each segment's above those
    before it.
    """

    def __init__(
        self, settings: AllocatorSettings, device: Device, total_bytes: int | None, addresses: Addresses | None
    ) -> None:
        super().__init__(settings, device)
        self.addresses = addresses
        self.address_bytes = BOUNDLESS if total_bytes is None else total_bytes + total_bytes // 8

    def take(self, pool: Pool, size: int) -> Block | None:
        """Take the free block that fits best, counting to its size the unmapped stretch behind it.

        Blocks are looked at from the smallest that fits, as long as the next one is the better.
        """
        free = pool.free
        at = pool.first_of(size)
        if at == len(free):
            return None
        room = _room(free[at][2])
        while at + 1 < len(free) and (next_room := _room(free[at + 1][2])) < room:
            at, room = at + 1, next_room
        if not self.may_serve(free[at][0], size):
            return None
        return free.pop(at)[2]

    def splits(self, block: Block, size: int) -> bool:
        """Return whether what is left of a block becomes a block of its own."""
        return block.size - size >= ROUNDING

    def new_block(self, pool: Pool, size: int) -> Block | None:
        """Map pages until the first stretch that has room for ``size`` is a block; None where the driver has none.

        What was mapped before the driver said no stays mapped.
        """
        if not self.device.allows(segment_bytes(pool, size)):
            return None
        block: Block | None = self._stretch(pool, size)
        assert block is not None
        if not block.is_mapped:
            block = self._map(block, min(block.size, size))
        while block is not None and block.size < size:
            assert block.following is not None
            block = self._map(block.following, min(block.following.size, size - block.size))
        if block is not None:
            pool.remove(block)
        return block

    def empty(self, pool: Pool) -> None:
        """Unmap every whole page that holds no block in use; a segment without memory is given up."""
        for _, _, block in list(pool.free):
            self._unmap(block)

    def _stretch(self, pool: Pool, size: int) -> Block:
        """Return the first block of the lowest free stretch, mapped or not, with room for ``size``: else a segment's.

        A stretch begins with an unmapped block, or the free one before it.
        """
        for _, unmapped in pool.unmapped:
            before = unmapped.previous
            first = before if before is not None and before.is_free else unmapped
            room = 0
            after: Block | None = first
            while room < size and after is not None and after.is_free:
                room, after = room + after.size, after.following
            if room >= size:
                return first
        # Where no capacity bounds it, what is too large for the device is to be told all the same.
        wanted = size if self.device.capacity_bytes is None else 0
        n_bytes = -(-max(self.address_bytes, wanted) // pool.page) * pool.page
        begin = self.device.begin(n_bytes)
        shift = 0 if self.addresses is None else self.addresses.take(n_bytes) - begin
        segment = Block(begin, n_bytes, pool, begin, shift, is_mapped=False)
        pool.put_unmapped(segment)
        return segment

    def _map(self, block: Block, size: int) -> Block | None:
        """Put memory behind the first pages of an unmapped block; return the free block that they become part of."""
        pool = block.pool
        n_bytes = -(-size // pool.page) * pool.page
        if not self.device.take(n_bytes):
            return None
        pool.remove(block)
        if n_bytes < block.size:
            pool.put_unmapped(block.split(n_bytes))
        block.is_mapped = True
        block = pool.merged(block)
        pool.put(block)
        return block

    def _unmap(self, block: Block) -> None:
        """Take the memory from the whole pages inside a free block."""
        pool, page = block.pool, block.pool.page
        first = block.segment - (block.segment - block.address) // page * page
        last = block.segment + (block.address + block.size - block.segment) // page * page
        if last <= first:
            return
        pool.remove(block)
        if first > block.address:
            pages = block.split(first - block.address)
            pool.put(block)
            block = pages
        if block.address + block.size > last:
            pool.put(block.split(last - block.address))
        self.device.give_back(block.size)
        block.is_mapped = False
        block = pool.merged(block)
        if not block.is_alone:
            pool.put_unmapped(block)
        elif self.addresses is not None:
            self.addresses.give_back(block.address + block.shift, block.size)


def _room(block: Block) -> int:
    after = block.following
    return block.size if after is None or after.is_mapped else block.size + after.size
