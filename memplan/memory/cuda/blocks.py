"""Stretches of device memory and the two pools that keep the free ones: small (up to 1 MiB) and large."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Block:
    """A stretch of a segment; ``previous`` and ``following`` are its neighbours in the segment."""

    address: int
    """Rising from segment to segment by their age, as PyTorch orders them, wherever the driver put them."""
    size: int
    pool: Pool
    segment: int
    """Where its segment begins."""
    shift: int = 0
    """What the driver's addresses of its segment are above these."""
    is_free: bool = True
    is_mapped: bool = True
    """False for the part of an expandable segment that has no memory behind it."""
    previous: Block | None = None
    following: Block | None = None
    put_at: int = 0
    """The pool's count of searches when the block was put into it."""

    @property
    def is_alone(self) -> bool:
        """Whether the block is its whole segment."""
        return self.previous is None and self.following is None

    def split(self, size: int) -> Block:
        """Cut the block down to ``size``; return the rest, its new neighbour."""
        after = self.following
        begin, left = self.address + size, self.size - size
        rest = Block(begin, left, self.pool, self.segment, self.shift, True, self.is_mapped, self, after)
        if after is not None:
            after.previous = rest
        self.following, self.size = rest, size
        return rest

    def _swallow(self, after: Block) -> None:
        self.size += after.size
        self.following = after.following
        if after.following is not None:
            after.following.previous = self


class Pool:
    """The free blocks of a pool by size and address, and the unmapped stretches by the driver's addresses."""

    __slots__ = ("free", "is_small", "page", "searches", "unmapped")

    def __init__(self, *, is_small: bool, page: int) -> None:
        self.is_small = is_small
        self.page = page
        """What an expandable segment grows by, and the segment that serves a request which is not large."""
        self.free: list[tuple[int, int, Block]] = []
        self.unmapped: list[tuple[int, Block]] = []
        self.searches = 0
        """Counted where garbage is collected: the age of a free block is the searches since it was put here."""

    def put(self, block: Block) -> None:
        """Take in a free block that is mapped."""
        block.put_at = self.searches
        insort(self.free, (block.size, block.address, block))

    def put_unmapped(self, block: Block) -> None:
        """Take in a stretch without memory."""
        insort(self.unmapped, (block.address + block.shift, block))

    def remove(self, block: Block) -> None:
        """Take a block out of the list that it is in."""
        if block.is_mapped:
            del self.free[bisect_left(self.free, (block.size, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address + block.shift,))]

    def first_of(self, size: int) -> int:
        """Return the place of the smallest free block of at least ``size``, of the oldest segment among equals."""
        return bisect_left(self.free, (size, -1))

    def merged(self, block: Block) -> Block:
        """Return a free block that is in no list, merged with the free neighbours of its kind."""
        before = block.previous
        if before is not None and before.is_free and before.is_mapped == block.is_mapped:
            self.remove(before)
            before._swallow(block)
            block = before
        after = block.following
        if after is not None and after.is_free and after.is_mapped == block.is_mapped:
            self.remove(after)
            block._swallow(after)
        return block
