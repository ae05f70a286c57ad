"""placeholder"""

from __future__ import annotations

from collections.abc import Iterable

from memplan.alloc_conf import DEFAULT, AllocatorSettings
from memplan.allocator.blocks import Block
from memplan.allocator.caching import CachingAllocator
from memplan.allocator.device import OutOfDeviceMemory
from memplan.allocator.expandable import Addresses
from memplan.ledger import Allocation, Event

__all__ = ["Addresses", "Block", "CachingAllocator", "OutOfDeviceMemory", "replay"]


def replay(
    events: Iterable[Event],
    settings: AllocatorSettings = DEFAULT,
    capacity_bytes: int | None = None,
    total_bytes: int | None = None,
    addresses: Addresses | None = None,
) -> CachingAllocator:
    """Return the allocator after the events of a ledger.

    Raises:
        OutOfDeviceMemory: they do not fit ``capacity_bytes``.
    """
    allocator = CachingAllocator(settings, capacity_bytes, total_bytes, addresses)
    blocks: dict[Allocation, Block | None] = {}
    for allocation, is_birth in events:
        if allocation is None:
            allocator.empty_cache()
        elif is_birth:
            blocks[allocation] = allocator.allocate(allocation.n_bytes)
        else:
            allocator.free(blocks.pop(allocation))
    return allocator
