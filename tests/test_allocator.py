"""The replay against cases worked by hand from the documented rules of PyTorch's CUDA caching allocator."""

from __future__ import annotations

import itertools
import random

from memplan.allocator import CachingAllocator, replay
from memplan.ledger import Ledger

KIB, MIB = 2**10, 2**20


def test_small_requests_round_to_512_bytes_and_share_a_2_mib_segment() -> None:
    allocator = CachingAllocator()
    allocator.allocate(1)
    allocator.allocate(513)
    assert allocator.allocated_bytes == 512 + 1024
    assert allocator.reserved_bytes == 2 * MIB


def test_a_third_1_mib_block_needs_a_second_small_segment() -> None:
    allocator = CachingAllocator()
    for _ in range(3):
        allocator.allocate(MIB)
    assert allocator.reserved_bytes == 4 * MIB


def test_medium_requests_share_a_20_mib_segment_and_large_ones_round_to_2_mib() -> None:
    allocator = CachingAllocator()
    allocator.allocate(6 * MIB)
    allocator.allocate(9 * MIB)  # 14 MiB were left of the first segment
    assert allocator.reserved_bytes == 20 * MIB
    allocator.allocate(9 * MIB)  # 5 MiB are left: a new segment
    assert allocator.reserved_bytes == 40 * MIB
    allocator.allocate(33 * MIB + 1)
    assert allocator.reserved_bytes == 40 * MIB + 34 * MIB


def test_a_large_block_is_split_only_where_more_than_1_mib_remains() -> None:
    allocator = CachingAllocator()
    block = allocator.allocate(20 * MIB)
    allocator.free(block)
    whole = allocator.allocate(19 * MIB)  # 1 MiB would remain: not more than 1 MiB, so the block stays whole
    assert allocator.allocated_bytes == 20 * MIB
    allocator.free(whole)
    allocator.allocate(19 * MIB - 512)  # 1 MiB + 512 B remain: split
    assert allocator.allocated_bytes == 19 * MIB - 512
    assert allocator.reserved_bytes == 20 * MIB


def test_the_best_fitting_free_block_is_taken() -> None:
    allocator = CachingAllocator()
    large, small = allocator.allocate(60 * MIB), allocator.allocate(30 * MIB)
    allocator.free(large)
    allocator.free(small)
    allocator.allocate(30 * MIB)
    allocator.allocate(60 * MIB)
    assert allocator.reserved_bytes == 90 * MIB


def test_freed_neighbours_merge() -> None:
    allocator = CachingAllocator()
    parts = [allocator.allocate(5 * MIB) for _ in range(4)]
    assert allocator.reserved_bytes == 20 * MIB
    for part in (parts[0], parts[2], parts[1], parts[3]):
        allocator.free(part)
    allocator.allocate(20 * MIB)  # fits only if all four became one again
    assert allocator.reserved_bytes == 20 * MIB


def test_a_small_tensor_in_a_large_block_forces_another_segment() -> None:
    """Fragmentation: the freed 40 MiB block serves 12 MiB, so the next 40 MiB need a segment of their own."""
    allocator = CachingAllocator()
    allocator.free(allocator.allocate(40 * MIB))
    allocator.allocate(12 * MIB)
    allocator.allocate(40 * MIB)
    assert allocator.reserved_bytes == 80 * MIB
    assert allocator.peak_allocated_bytes == 52 * MIB


def test_random_traffic_keeps_the_books() -> None:
    """Blocks in use never overlap, and allocated never exceeds reserved."""
    draw = random.Random(7)
    allocator = CachingAllocator()
    in_use = []
    for _ in range(3000):
        if in_use and draw.random() < 0.48:
            allocator.free(in_use.pop(draw.randrange(len(in_use))))
        else:
            size = draw.choice([1, 300, 700 * KIB, 3 * MIB, 11 * MIB]) + draw.randrange(4096)
            block = allocator.allocate(size)
            assert block is not None
            assert block.size >= size
            in_use.append(block)
        assert allocator.allocated_bytes == sum(block.size for block in in_use) <= allocator.reserved_bytes
    spans = sorted((block.address, block.address + block.size) for block in in_use)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))


def test_a_ledger_is_replayed_in_order_and_empty_tensors_take_nothing() -> None:
    ledger = Ledger()
    kept = ledger.new("kept", 1000)
    ledger.passing("temporary", 3 * MIB)  # 12 MiB of float32
    ledger.passing("nothing", 0)
    ledger.free(kept)
    allocator = replay(ledger.events)
    assert allocator.peak_allocated_bytes == 4096 + 12 * MIB
    assert allocator.peak_reserved_bytes == 2 * MIB + 12 * MIB
    assert allocator.allocated_bytes == 0
