"""PyTorch's CUDA caching allocator, replayed over a ledger: what it hands out and what it reserves from the driver.

The rules are those of PyTorch's c10/cuda/CUDACachingAllocator.cpp; release 2.14.1 was run beside the replay, on random
traffic and on ledgers (tests/cuda_standin), and they agree in every byte.

- A request is rounded up to 512 B, or with ``roundup_power2_divisions`` to a part of the way to the next power of two.
  Up to 1 MiB it is served by the small pool, else by the large one.
- The best-fitting free block of the pool is taken (the older segment's among equals, and there the lower address) and
  split where at least 512 B (small pool, or expandable segments) or more than 1 MiB (large pool) remain. Neighbours
  merge when freed.
- Where none fits, a segment is taken from the driver: 2 MiB for the small pool; 20 MiB (``large_segment_size_mb``) for
  a request under 10 MiB; else the size rounded up to 2 MiB.
- ``max_split_size_mb``: a block of at least that size is never split, serves no smaller request, and serves a larger
  one only where less than a large segment is wasted (``max_non_split_rounding_mb``).
- ``expandable_segments``: a pool is a range of addresses, 9/8 of the device's memory, behind which memory is mapped by
  pages of 2 MiB (small) or of a large segment's size (large).

  - Best fit counts to a block's size the unmapped stretch behind it: from the smallest block that fits on, the next one
    is taken as long as it is the smaller by that measure. ``max_split_size_mb`` looks at the block's own size.
  - Where none fits, the lowest stretch of free blocks with and without memory that has room is filled from its begin,
    one unmapped block after the other; it begins with an unmapped block or the free one before it. Where no stretch has
    room, a second range begins. Of two ranges the one at the lower address grows; each is taken to lie above those
    before it, which no driver promises.
  - What goes back to the driver are the whole pages inside free blocks, and a range without memory with its addresses.

- A process may reserve ``per_process_memory_fraction`` of the device's memory, rounded to the byte. What is compared is
  the segment that a request takes without expandable segments, whose pages may so pass the share by less than one.
- Where a request needs new memory, the order is: garbage collection (``garbage_collection_threshold`` and a share of
  the memory, see ``Segments.collect_garbage``); the driver is asked; with ``max_split_size_mb``, and segments that are
  not expandable, one cached oversize block that is large enough goes back, else the largest until they are enough, and
  the driver is asked again; every segment or page without a block in use goes back, the large pool's first, and the
  driver is asked for the last time. What an expandable segment mapped before a no stays until it goes back with these.

One stream is assumed, and that nothing else takes the device's memory meanwhile. Older releases take the lower
address among equal blocks of different segments, as the driver chose them.

blocks.py has blocks and pools, segments.py and expandable.py where blocks come from, device.py what the driver has
given, caching.py the order in which these are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memplan.memory.cuda.blocks import Block
from memplan.memory.cuda.caching import CachingAllocator
from memplan.memory.cuda.device import OutOfDeviceMemory
from memplan.memory.cuda.expandable import Addresses
from memplan.memory.ledger import Allocation, Event
from memplan.workload.alloc_conf import DEFAULT, AllocatorSettings

__all__ = ["Addresses", "Block", "CachingAllocator", "OutOfDeviceMemory", "replay", "reserved_over"]


def replay(
    events: Iterable[Event],
    settings: AllocatorSettings = DEFAULT,
    capacity_bytes: int | None = None,
    total_bytes: int | None = None,
    addresses: Addresses | None = None,
) -> CachingAllocator:
    """Return the allocator after the events of a ledger; the other arguments are those of ``CachingAllocator``.

    Raises:
        OutOfDeviceMemory: they do not fit ``capacity_bytes``, or the share of ``total_bytes`` that the process gets.
    """
    allocator = CachingAllocator(settings, capacity_bytes, total_bytes, addresses)
    for _ in _served(events, allocator):
        pass
    return allocator


def reserved_over(
    events: Iterable[Event], settings: AllocatorSettings = DEFAULT, total_bytes: int | None = None
) -> list[int]:
    """Return the reserved bytes after each birth or death of a ledger, as ``curve`` has its points.

    Raises:
        OutOfDeviceMemory: as ``replay``.
    """
    allocator = CachingAllocator(settings, None, total_bytes)
    served = _served(events, allocator)
    return [allocator.reserved_bytes for allocation, _ in served if allocation is not None and allocation.n_bytes]


def _served(events: Iterable[Event], allocator: CachingAllocator) -> Iterator[Event]:
    """Yield each event of a ledger once the allocator has served it."""
    blocks: dict[Allocation, Block | None] = {}
    for event in events:
        allocation, is_birth = event
        if allocation is None:
            allocator.empty_cache()
        elif is_birth:
            blocks[allocation] = allocator.allocate(allocation.n_bytes)
        else:
            allocator.free(blocks.pop(allocation))
        yield event
