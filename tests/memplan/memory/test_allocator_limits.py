"""The allocator's limits, from both sides and by one byte or one block: PyTorch's c10/cuda/CUDACachingAllocator.cpp."""

from __future__ import annotations

import pytest

from memplan.memory.cuda import CachingAllocator, OutOfDeviceMemory
from memplan.workload.alloc_conf import AllocatorSettings

MIB = 2**20
ROUNDING = 512


def allocator_of(conf: str = "", capacity_bytes: int | None = None) -> CachingAllocator:
    return CachingAllocator(AllocatorSettings.parse(conf), capacity_bytes)


def reserved_for(*n_bytes: int, conf: str = "") -> int:
    """What is reserved once each request is served, none of them freed."""
    allocator = allocator_of(conf)
    for size in n_bytes:
        allocator.allocate(size)
    return allocator.reserved_bytes


@pytest.mark.parametrize(
    ("n_bytes", "reserved"),
    [
        (1, 2 * MIB),
        (MIB - ROUNDING, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - ROUNDING, 20 * MIB),
        (10 * MIB - ROUNDING + 1, 10 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (12 * MIB - ROUNDING + 1, 12 * MIB),
        (12 * MIB, 12 * MIB),
        (12 * MIB + 1, 14 * MIB),
    ],
)
def test_what_a_request_reserves_changes_at_1_mib_at_10_mib_and_at_every_second_mib(
    n_bytes: int, reserved: int
) -> None:
    assert reserved_for(n_bytes) == reserved


@pytest.mark.parametrize(("n_bytes", "allocated"), [(1, 512), (512, 512), (513, 1024), (1024, 1024)])
def test_requests_are_rounded_up_to_512_bytes(n_bytes: int, allocated: int) -> None:
    allocator = allocator_of()
    allocator.allocate(n_bytes)
    assert allocator.allocated_bytes == allocator.peak_allocated_bytes == allocated


def test_the_small_pool_splits_down_to_512_bytes() -> None:
    small = 2 * MIB - MIB - ROUNDING  # beside 1 MiB it leaves one block of 512 bytes
    assert reserved_for(MIB, small, ROUNDING) == 2 * MIB
    assert reserved_for(MIB, MIB, ROUNDING) == 4 * MIB


@pytest.mark.parametrize(
    ("rest", "is_split"), [(MIB - ROUNDING, False), (MIB, False), (MIB + ROUNDING, True), (2 * MIB, True)]
)
def test_what_remains_of_a_large_block_stays_with_it_up_to_1_mib(rest: int, is_split: bool) -> None:
    allocator = allocator_of()
    allocator.free(allocator.allocate(20 * MIB))
    allocator.allocate(20 * MIB - rest)
    assert allocator.allocated_bytes == (20 * MIB - rest if is_split else 20 * MIB)
    assert allocator.reserved_bytes == 20 * MIB


@pytest.mark.parametrize("rest", [0, ROUNDING])
def test_an_expandable_block_is_split_down_to_512_bytes(rest: int) -> None:
    allocator = allocator_of("expandable_segments:True")
    allocator.allocate(20 * MIB - rest)
    assert allocator.allocated_bytes == 20 * MIB - rest
    assert allocator.reserved_bytes == 20 * MIB


@pytest.mark.parametrize(
    ("cached", "reserved"),
    [(62 * MIB, 62 * MIB), (62 * MIB + ROUNDING, 64 * MIB + 32 * MIB), (64 * MIB, 96 * MIB), (66 * MIB, 98 * MIB)],
)
def test_a_block_of_the_split_size_serves_nothing_smaller(cached: int, reserved: int) -> None:
    allocator = allocator_of("max_split_size_mb:64")
    allocator.free(allocator.allocate(cached))
    allocator.allocate(32 * MIB)
    assert allocator.reserved_bytes == reserved


@pytest.mark.parametrize(
    ("more", "is_reused"),
    [(20 * MIB - 2 * MIB, True), (20 * MIB - ROUNDING, True), (20 * MIB, False), (22 * MIB, False)],
)
def test_an_oversize_block_serves_what_wastes_under_20_mib(more: int, is_reused: bool) -> None:
    allocator = allocator_of("max_split_size_mb:64")
    allocator.free(allocator.allocate(100 * MIB))
    allocator.allocate(100 * MIB - more)
    assert (allocator.reserved_bytes == 100 * MIB) == is_reused
    assert allocator.allocated_bytes == (100 * MIB if is_reused else 100 * MIB - more)


@pytest.mark.parametrize(("asked", "allocated"), [(64 * MIB, 80 * MIB), (64 * MIB - ROUNDING, 64 * MIB)])
def test_a_request_of_the_split_size_is_given_a_whole_block(asked: int, allocated: int) -> None:
    """Of 80 cached MiB; what is smaller is given a segment of its own."""
    allocator = allocator_of("max_split_size_mb:64")
    allocator.free(allocator.allocate(80 * MIB))
    allocator.allocate(asked)
    assert allocator.allocated_bytes == allocated
    assert allocator.reserved_bytes == (80 if allocated == 80 * MIB else 144) * MIB


@pytest.mark.parametrize(("capacity", "fits"), [(20 * MIB - 1, False), (20 * MIB, True)])
def test_the_last_byte_of_the_device_can_be_reserved(capacity: int, fits: bool) -> None:
    allocator = allocator_of(capacity_bytes=capacity)
    if fits:
        assert allocator.allocate(5 * MIB) is not None
        assert allocator.reserved_bytes == capacity
    else:
        with pytest.raises(OutOfDeviceMemory):
            allocator.allocate(5 * MIB)
        assert allocator.reserved_bytes == 0


@pytest.mark.parametrize(("second", "reserved"), [(19 * MIB, 20 * MIB), (20 * MIB, 20 * MIB), (20 * MIB + 1, 40 * MIB)])
def test_an_expandable_segment_grows_by_a_page_where_a_byte_more_is_asked_for(second: int, reserved: int) -> None:
    allocator = allocator_of("expandable_segments:True")
    allocator.allocate(second)
    assert allocator.reserved_bytes == reserved


@pytest.mark.parametrize(("n_bytes", "reserved"), [(MIB, 2 * MIB), (MIB + 1, 20 * MIB)])
def test_an_expandable_small_segment_grows_by_2_mib(n_bytes: int, reserved: int) -> None:
    assert reserved_for(n_bytes, conf="expandable_segments:True") == reserved
    assert reserved_for(MIB, MIB, ROUNDING, conf="expandable_segments:True") == 4 * MIB


def test_of_the_cache_whole_segments_alone_go_back() -> None:
    allocator = allocator_of()
    kept = allocator.allocate(ROUNDING)
    gone = [allocator.allocate(size) for size in (5 * MIB, 30 * MIB)]
    for block in gone:
        allocator.free(block)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 2 * MIB
    allocator.free(kept)
    allocator.empty_cache()
    assert (allocator.reserved_bytes, allocator.allocated_bytes) == (0, 0)
    assert allocator.peak_reserved_bytes == 52 * MIB


def test_of_several_oversize_blocks_the_fewest_that_suffice_go_back() -> None:
    """96 MiB of 128 are cached in three blocks; 64 MiB more are asked for: two blocks have to go, not three."""
    allocator = allocator_of("max_split_size_mb:21", capacity_bytes=128 * MIB)
    blocks = [allocator.allocate(32 * MIB) for _ in range(3)]
    for block in blocks:
        allocator.free(block)
    allocator.allocate(64 * MIB)
    assert allocator.reserved_bytes == 96 * MIB
