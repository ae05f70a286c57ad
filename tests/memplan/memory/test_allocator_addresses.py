"""Rarer rules of the replay, worked by hand: ranges that the driver places, and what goes back to it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from memplan.memory.cuda import Block, CachingAllocator, OutOfDeviceMemory, replay
from memplan.memory.ledger import Ledger
from memplan.prediction.estimate import replayed_peak
from memplan.workload.alloc_conf import AllocatorSettings

MIB = 2**20
GIB = 2**30
RANGE = 120 * MIB
"""Addresses of a range on a device of 100 MiB: an eighth more, in whole pages of 20 MiB."""


class Driver:
    """Gives the addresses that it is told to give, and notes what comes back."""

    def __init__(self, *places: int) -> None:
        self.places = list(places)
        self.asked: list[int] = []
        self.returned: list[tuple[int, int]] = []

    def take(self, n_bytes: int) -> int:
        self.asked.append(n_bytes)
        return self.places[len(self.asked) - 1]

    def give_back(self, address: int, n_bytes: int) -> None:
        self.returned.append((address, n_bytes))


def on(driver: Driver | None, conf: str = "", capacity: int | None = None) -> CachingAllocator:
    settings = AllocatorSettings.parse(f"expandable_segments:True{conf}")
    return CachingAllocator(settings, capacity, 100 * MIB, driver)


def allocate(allocator: CachingAllocator, mib: int) -> Block:
    block = allocator.allocate(mib * MIB)
    assert block is not None
    return block


@pytest.mark.parametrize(("places", "grows"), [((5 * GIB, 2 * GIB), 1), ((2 * GIB, 5 * GIB), 0), (None, 0)])
def test_of_two_ranges_with_room_the_one_at_the_lower_address_grows(places: Sequence[int] | None, grows: int) -> None:
    """70 of 80 MiB in use in either, 40 more without memory behind: 30 are asked for."""
    driver = None if places is None else Driver(*places)
    allocator = on(driver)
    ranges = [allocate(allocator, 70).segment for _ in range(2)]
    assert ranges[0] != ranges[1]
    assert driver is None or driver.asked == [RANGE, RANGE]
    assert allocate(allocator, 30).segment == ranges[grows]
    assert allocator.reserved_bytes == 180 * MIB


@pytest.mark.parametrize(("mib", "range_mib"), [(100, 120), (160, 180), (161, 200), (176, 200), (1, 20)])
def test_a_range_has_an_eighth_more_addresses_than_the_device_has_memory_in_whole_pages(
    mib: int, range_mib: int
) -> None:
    driver = Driver(GIB)
    settings = AllocatorSettings.parse("expandable_segments:True")
    CachingAllocator(settings, None, mib * MIB, driver).allocate(2 * MIB)
    assert driver.asked == [range_mib * MIB]


def test_a_range_without_memory_goes_back_with_the_addresses_that_the_driver_gave() -> None:
    driver = Driver(5 * GIB, 2 * GIB, 7 * GIB)
    allocator = on(driver)
    first, second = (allocate(allocator, 70) for _ in range(2))
    allocator.free(second)
    allocator.empty_cache()
    assert driver.returned == [(2 * GIB, RANGE)]
    allocator.free(first)
    allocator.empty_cache()
    assert driver.returned == [(2 * GIB, RANGE), (5 * GIB, RANGE)]
    assert allocator.reserved_bytes == 0
    allocate(allocator, 70)  # neither is grown again
    assert driver.asked == [RANGE] * 3


def test_oversize_blocks_of_an_expandable_segment_stay_until_every_page_goes() -> None:
    """60 cached and 20 in use of 100 MiB; 61 more find no stretch, and a second range needs 80: whole pages go back."""
    allocator = on(None, ",max_split_size_mb:32", 100 * MIB)
    cached, kept = allocate(allocator, 60), allocate(allocator, 20)
    allocator.free(cached)
    found = allocate(allocator, 61)
    assert allocator.reserved_bytes == 100 * MIB
    allocator.free(kept)
    allocator.free(found)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0
    assert allocate(allocator, 100).size == 100 * MIB


def test_an_empty_request_takes_nothing() -> None:
    for conf in ("", "expandable_segments:True"):
        allocator = CachingAllocator(AllocatorSettings.parse(conf))
        assert allocator.allocate(0) is None
        allocator.free(None)
        assert allocator.reserved_bytes == allocator.peak_reserved_bytes == allocator.peak_allocated_bytes == 0


def test_a_ledger_s_return_of_the_cache_is_replayed() -> None:
    ledger = Ledger("cuda")
    ledger.free(ledger.new("gone", 30 * MIB, dtype="uint8"))
    before = replay(ledger.events)
    ledger.release_cache()
    after = replay(ledger.events)
    assert (before.reserved_bytes, after.reserved_bytes) == (30 * MIB, 0)
    assert before.peak_reserved_bytes == after.peak_reserved_bytes == 30 * MIB


def test_what_the_share_of_the_device_refuses_is_told_as_more_than_the_share() -> None:
    """45 of 60 mapped MiB in use, then 33: as a segment 34, and 94 pass the share of 85; as pages 80 would do."""
    settings = AllocatorSettings.parse("expandable_segments:True,per_process_memory_fraction:0.85")
    ledger = Ledger("cuda")
    ledger.new("first", 45 * MIB, dtype="uint8")
    ledger.new("second", 33 * MIB, dtype="uint8")
    with pytest.raises(OutOfDeviceMemory, match=r"34603008 bytes do not fit beside 47185920 in 89128960"):
        replay(ledger.events, settings, total_bytes=100 * MIB)
    whole = settings._replace(memory_fraction=1.0)
    assert replay(ledger.events, whole, total_bytes=100 * MIB).reserved_bytes == 80 * MIB
    peak = replayed_peak(ledger, settings, 100 * MIB, outside_bytes=7)
    assert (peak.allocated_bytes, peak.reserved_bytes, peak.device_bytes) == (78 * MIB, 85 * MIB + 1, 85 * MIB + 8)
