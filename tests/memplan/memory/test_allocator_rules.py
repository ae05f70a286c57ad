"""The replay's rarer rules: cases worked by hand, and traffic of which PyTorch's own allocator was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memplan.memory.cuda import Block, CachingAllocator, OutOfDeviceMemory
from memplan.workload.alloc_conf import AllocatorSettings

MIB = 2**20
RECORDED = json.loads((Path(__file__).parents[2] / "support" / "recorded_allocator.json").read_text(encoding="utf-8"))


def allocator_with(conf: str, capacity: int | None = None, total: int | None = None) -> CachingAllocator:
    """Return an allocator with options; capacity and total in MiB."""
    n_bytes = [None if mib is None else mib * MIB for mib in (capacity, total)]
    return CachingAllocator(AllocatorSettings.parse(conf), *n_bytes)


def allocate(allocator: CachingAllocator, mib: int) -> Block:
    block = allocator.allocate(mib * MIB)
    assert block is not None
    return block


def reserved(allocator: CachingAllocator) -> int:
    return allocator.reserved_bytes // MIB


@pytest.mark.parametrize(
    ("conf", "n_bytes", "rounded"),
    [
        # A quarter of the way from 4 to 8 MiB is 1 MiB.
        ("roundup_power2_divisions:4", 5 * MIB + 1, 6 * MIB),
        ("roundup_power2_divisions:4", 7 * MIB + 1, 8 * MIB),
        ("roundup_power2_divisions:4", 4 * MIB, 4 * MIB),
        # Up to 4 × 512 B only whole 512 B; beyond, a quarter of the way from 2,048 to 4,096 B is 512 B.
        ("roundup_power2_divisions:4", 1500, 1536),
        ("roundup_power2_divisions:4", 2049, 2560),
        ("roundup_power2_divisions:4", 3_000_000, 3 * MIB),
        ("roundup_power2_divisions:1", 5 * MIB + 1, 5 * MIB + 512),
        # By interval: halves from 512 MiB on, quarters from 1 GiB, eighths of everything above.
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 100 * MIB + 1, 100 * MIB + 512),
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 300 * MIB, 300 * MIB),
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 600 * MIB, 768 * MIB),
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 1100 * MIB, 1280 * MIB),
        ("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 2100 * MIB, 2304 * MIB),
        # What lies below the first of a list takes its divisions; an interval in between that is not named has none.
        ("roundup_power2_divisions:[4:2,16:8]", 3 * MIB + 1, 4 * MIB),
        ("roundup_power2_divisions:[4:2,16:8]", 9 * MIB + 1, 9 * MIB + 512),
        ("roundup_power2_divisions:[4:2,16:8]", 17 * MIB, 18 * MIB),
        ("", 5 * MIB + 1, 5 * MIB + 512),
    ],
)
def test_requests_are_rounded_up_to_a_part_of_the_way_to_the_next_power_of_two(
    conf: str, n_bytes: int, rounded: int
) -> None:
    assert AllocatorSettings.parse(conf).rounded(n_bytes) == rounded


def test_of_equal_blocks_the_older_segment_s_is_taken() -> None:
    allocator = CachingAllocator()
    older, newer = allocate(allocator, 30), allocate(allocator, 30)
    allocator.free(newer)
    allocator.free(older)
    assert allocate(allocator, 30) is older


def test_best_fit_counts_the_unmapped_stretch_behind_a_block() -> None:
    allocator = allocator_with("expandable_segments:True")
    first, _, last = allocate(allocator, 60), allocate(allocator, 20), allocate(allocator, 20)
    allocator.free(first)
    allocator.empty_cache()  # 60 MiB without memory, then 40 in use
    allocate(allocator, 10)  # 10 in use, 10 free, 40 without memory, 40 in use
    allocator.free(last)  # … 20 in use, 20 free, and the rest of the segment without memory
    assert reserved(allocator) == 60
    # Both free blocks can grow: the one of 10 to 50 MiB, the one of 20 without bound. The first is the better fit.
    assert allocate(allocator, 9).address == first.address + 10 * MIB


def test_what_max_split_refuses_is_taken_where_it_is_the_place_to_grow() -> None:
    allocator = allocator_with("expandable_segments:True,max_split_size_mb:32")
    whole = allocate(allocator, 60)
    allocator.free(whole)
    # 60 MiB are too large to be split for 20; but they lie before unmapped space, with room enough as they are.
    assert allocate(allocator, 20).address == whole.address
    assert reserved(allocator) == 60


def gap_free_gap(capacity: int | None) -> CachingAllocator:
    """Return an allocator with 40 MiB without memory, 20 free ones, and no memory behind: of a segment of 20 MiB pages.

    40 + 10 + 50 MiB fill five pages; the first and the last go and are unmapped, pages 0, 1, 3 and 4; then goes the 10.
    """
    allocator = allocator_with("expandable_segments:True", capacity, 1000)
    first, middle, last = allocate(allocator, 40), allocate(allocator, 10), allocate(allocator, 50)
    allocator.free(first)
    allocator.free(last)
    allocator.empty_cache()
    allocator.free(middle)
    assert reserved(allocator) == 20
    return allocator


def test_growth_goes_over_free_blocks_and_fills_gaps_first() -> None:
    allocator = gap_free_gap(None)
    allocate(allocator, 70)  # the gap of 40, the free 20, and one page more
    assert (reserved(allocator), allocator.peak_reserved_bytes) == (80, 100 * MIB)
    allocate(allocator, 10)  # what is left of it
    assert reserved(allocator) == 80


def test_out_of_memory_leaves_the_pages_that_hold_the_end_of_a_block() -> None:
    allocator = gap_free_gap(100)
    kept = allocate(allocator, 70)
    with pytest.raises(OutOfDeviceMemory):
        allocate(allocator, 31)  # 10 are free behind: 21 more are two pages, 120 MiB in all
    assert reserved(allocator) == 80
    allocator.free(kept)
    allocator.empty_cache()
    assert reserved(allocator) == 0


def test_a_segment_has_an_eighth_more_addresses_than_the_device_has_memory_then_a_second_begins() -> None:
    allocator = allocator_with("expandable_segments:True", 100, 100)  # 112.5 MiB of addresses are six pages: 120 MiB
    first, kept, last = allocate(allocator, 40), allocate(allocator, 20), allocate(allocator, 40)
    allocator.free(first)
    allocator.free(last)
    # Free or without memory are 40 MiB before what is kept and 60 behind: none has room for 62.
    found = allocate(allocator, 62)
    assert found.segment != kept.segment
    assert reserved(allocator) == 20 + 80


def test_without_a_capacity_more_than_the_device_has_is_told() -> None:
    allocator = allocator_with("expandable_segments:True", None, 100)
    allocate(allocator, 50)
    allocate(allocator, 500)  # of 120 MiB of addresses 60 are left: a second segment with as many as are needed
    allocate(allocator, 100)
    assert reserved(allocator) == 60 + 500 + 100


def test_a_share_of_the_memory_bounds_what_is_reserved() -> None:
    allocator = allocator_with("per_process_memory_fraction:0.1", None, 1000)  # 100 MiB
    allocator.free(allocate(allocator, 60))
    allocate(allocator, 70)  # the cached 60 went back
    assert reserved(allocator) == 70
    with pytest.raises(OutOfDeviceMemory):
        allocate(allocator, 40)


def test_an_expandable_segment_s_pages_may_pass_the_share() -> None:
    """What is compared is the segment that would be taken without expandable segments: 32 MiB for 31."""
    allocator = allocator_with("per_process_memory_fraction:0.35,expandable_segments:True", None, 100)
    allocate(allocator, 31)
    assert reserved(allocator) == 40


def test_garbage_is_what_was_unused_for_at_least_the_mean_time() -> None:
    """Half of half of 400 MiB: beyond 100 reserved. The age of a cached block is the large pool's requests since."""
    allocator = allocator_with("garbage_collection_threshold:0.5,per_process_memory_fraction:0.5", None, 400)
    older, newer, _ = allocate(allocator, 40), allocate(allocator, 50), allocate(allocator, 3)
    assert reserved(allocator) == 40 + 50 + 20
    allocator.free(older)
    allocator.free(allocate(allocator, 17))  # what is left of the 20
    allocator.free(newer)
    allocate(allocator, 60)
    # Ages: 40 MiB two requests, 50 MiB one; the mean is 1.5, so the 40 go, and 10 were enough. The 17 are a part.
    assert reserved(allocator) == 50 + 20 + 60


def test_large_segments_and_waste_have_sizes_of_their_own() -> None:
    allocator = allocator_with("large_segment_size_mb:40")
    allocate(allocator, 5)
    assert reserved(allocator) == 40
    allocator = allocator_with("large_segment_size_mb:40,expandable_segments:True")
    allocate(allocator, 41)
    assert reserved(allocator) == 80
    for conf, expected in (("", 160 + 120), (",max_non_split_rounding_mb:50", 160), (",large_segment_size_mb:50", 160)):
        allocator = allocator_with("max_split_size_mb:60" + conf)
        allocator.free(allocate(allocator, 160))
        allocate(allocator, 120)  # of 160, 40 would be wasted: more than 20, less than 50
        assert reserved(allocator) == expected


@pytest.mark.parametrize("row", RECORDED["rows"], ids=lambda row: f"{row['conf']}-{row['traffic']}")
def test_the_replay_does_what_pytorch_s_allocator_did(row: dict[str, Any]) -> None:
    """At every step that changed what is reserved, or failed; recorded on the stand-in device."""
    settings = AllocatorSettings.parse(row["conf"])
    allocator = CachingAllocator(settings, row["capacity_bytes"], RECORDED["total_bytes"])
    blocks: dict[int, Block | None] = {}
    asked, reserved_bytes, seen = 0, 0, []
    for number, step in enumerate(RECORDED["traffic"][row["traffic"]]):
        failed = False
        if step > 0:
            asked += 1
            try:
                blocks[asked] = allocator.allocate(step)
            except OutOfDeviceMemory:
                failed = True
        elif step < 0:
            allocator.free(blocks.pop(-step, None))
        else:
            allocator.empty_cache()
        if failed or allocator.reserved_bytes != reserved_bytes:
            reserved_bytes = allocator.reserved_bytes
            seen.append([number, allocator.allocated_bytes, reserved_bytes, int(failed)])
    assert seen == row["seen"]
