"""The replay against cases worked by hand from the documented rules of PyTorch's CUDA caching allocator."""

from __future__ import annotations

import itertools
import random

import pytest

from memplan.catalog.datasets import find_dataset
from memplan.memory.cuda import Block, CachingAllocator, OutOfDeviceMemory, replay
from memplan.memory.cuda.environment import from_environment
from memplan.memory.ledger import Ledger
from memplan.prediction.estimate import peak_of
from memplan.prediction.rehearsal import rehearsal, run
from memplan.workload import build_workload
from memplan.workload.alloc_conf import AllocatorSettings
from tests.support.cli import invoke

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


SETTINGS = [AllocatorSettings.parse(text) for text in ("", "max_split_size_mb:21", "expandable_segments:True")]


@pytest.mark.parametrize("settings", SETTINGS)
def test_random_traffic_keeps_the_books(settings: AllocatorSettings) -> None:
    """Blocks in use never overlap, and allocated never exceeds reserved; returning the cache keeps what is in use."""
    draw = random.Random(7)
    allocator = CachingAllocator(settings)
    in_use = []
    for _ in range(3000):
        if in_use and draw.random() < 0.48:
            allocator.free(in_use.pop(draw.randrange(len(in_use))))
        else:
            size = draw.choice([1, 300, 700 * KIB, 3 * MIB, 11 * MIB, 31 * MIB]) + draw.randrange(4096)
            block = allocator.allocate(size)
            assert block is not None
            assert block.size >= size
            in_use.append(block)
        if draw.random() < 0.02:
            allocator.empty_cache()
        assert allocator.allocated_bytes == sum(block.size for block in in_use) <= allocator.reserved_bytes
    spans = sorted((block.address, block.address + block.size) for block in in_use)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    for block in in_use:
        allocator.free(block)
    allocator.empty_cache()
    assert allocator.allocated_bytes == allocator.reserved_bytes == 0


def test_a_ledger_is_replayed_in_order_and_empty_tensors_take_nothing() -> None:
    ledger = Ledger()
    kept = ledger.new("kept", 1000)
    ledger.free(ledger.new("temporary", 3 * MIB))  # 12 MiB of float32
    ledger.free(ledger.new("nothing", 0))
    ledger.free(kept)
    allocator = replay(ledger.events)
    assert allocator.peak_allocated_bytes == 4096 + 12 * MIB
    assert allocator.peak_reserved_bytes == 2 * MIB + 12 * MIB
    assert allocator.allocated_bytes == 0


def allocate(allocator: CachingAllocator, mib: int) -> Block:
    block = allocator.allocate(mib * MIB)
    assert block is not None
    return block


def test_max_split_size_keeps_large_blocks_for_large_requests() -> None:
    """PyTorch's documentation: blocks larger than max_split_size_mb are not split, so they serve no smaller request."""
    plain, limited = CachingAllocator(), CachingAllocator(AllocatorSettings.parse("max_split_size_mb:128"))
    for allocator in (plain, limited):
        allocator.free(allocate(allocator, 200))
        allocate(allocator, 30)
    assert plain.reserved_bytes == 200 * MIB  # 30 MiB were cut from the cached 200
    assert limited.reserved_bytes == 230 * MIB


def test_an_oversize_block_serves_a_request_within_20_mib_and_stays_whole() -> None:
    allocator = CachingAllocator(AllocatorSettings.parse("max_split_size_mb:128"))
    cached = [allocate(allocator, 160), allocate(allocator, 180)]
    for block in cached:
        allocator.free(block)
    allocate(allocator, 150)  # 160 < 150 + 20: taken, and not split
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (160 * MIB, 340 * MIB)
    allocate(allocator, 150)  # 180 is 20 more than 160 but not less than 150 + 20: a segment of its own
    assert allocator.reserved_bytes == 490 * MIB


def test_cached_segments_are_returned_before_the_driver_s_no_is_final() -> None:
    allocator = CachingAllocator(capacity_bytes=100 * MIB)
    allocator.free(allocate(allocator, 60))
    allocate(allocator, 70)
    assert allocator.reserved_bytes == 70 * MIB
    with pytest.raises(OutOfDeviceMemory):
        allocate(allocator, 40)
    assert allocator.peak_reserved_bytes == 70 * MIB


def test_with_max_split_size_only_oversize_blocks_that_are_needed_are_returned() -> None:
    allocator = CachingAllocator(AllocatorSettings.parse("max_split_size_mb:128"), capacity_bytes=400 * MIB)
    cached = [allocate(allocator, 150), allocate(allocator, 200)]
    for block in cached:
        allocator.free(block)
    allocate(allocator, 170)  # 200 would waste 30: it is returned, the 150 stay cached
    assert allocator.reserved_bytes == (150 + 170) * MIB
    allocate(allocator, 150)
    assert allocator.reserved_bytes == (150 + 170) * MIB


def test_an_expandable_segment_grows_by_pages_where_its_free_space_ends() -> None:
    allocator = CachingAllocator(AllocatorSettings.parse("expandable_segments:True"))
    first = allocate(allocator, 30)
    assert allocator.reserved_bytes == 40 * MIB  # two pages of 20 MiB, 10 MiB free at the end
    allocate(allocator, 15)
    assert allocator.reserved_bytes == 60 * MIB  # 10 + 5 of a third page
    allocator.free(first)
    allocate(allocator, 25)  # in the hole of 30
    assert allocator.reserved_bytes == 60 * MIB
    allocator.allocate(100)  # the small pool is another segment, of 2 MiB pages
    assert allocator.reserved_bytes == 62 * MIB


def test_of_two_blocks_that_fit_the_one_that_cannot_grow_is_taken() -> None:
    allocator = CachingAllocator(AllocatorSettings.parse("expandable_segments:True"))
    hole, _ = allocate(allocator, 12), allocate(allocator, 18)  # 10 MiB free at the end
    allocator.free(hole)
    taken = allocate(allocator, 9)  # 10 MiB fit better, but that block is the one that can grow
    assert taken.address == hole.address
    assert allocate(allocator, 25).size == 25 * MIB  # 10 + 15 of a new page
    assert allocator.reserved_bytes == 60 * MIB


def test_returning_the_cache_unmaps_whole_pages_and_holes_are_mapped_again() -> None:
    allocator = CachingAllocator(AllocatorSettings.parse("expandable_segments:True"))
    first, _ = allocate(allocator, 30), allocate(allocator, 30)
    allocator.free(first)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 40 * MIB  # the page that holds the end of the hole stays
    block = allocate(allocator, 20)
    assert block.address == first.address
    assert allocator.reserved_bytes == 60 * MIB


@pytest.mark.parametrize("scoring", ["materialized", "chunked", "fused"])
@pytest.mark.parametrize("conf", ["", "max_split_size_mb:128", "expandable_segments:True"])
def test_later_epochs_and_evaluations_reserve_no_more_than_the_first(scoring: str, conf: str) -> None:
    """Training, evaluation and training again, with the cache returned between them: why one epoch stands for all."""
    workload = build_workload(
        find_dataset("ICEWS14").shape, model="TNTPairRE", scoring=scoring, batch_size=700, micro_batch_size=300,
        emb_reg=0.1, time_reg=0.1, device="cuda", alloc_conf=conf,
    )  # fmt: skip
    rehearsed = rehearsal(workload)
    once = rehearsed.run(workload)
    again = once.copy()
    again.events += 2 * once.events[len(rehearsed.set_up.events) :]
    assert peak_of(again, workload, 0) == peak_of(once, workload, 0)
    settings = AllocatorSettings.parse(conf)
    assert replay(again.events, settings).reserved_bytes == replay(run(workload).events, settings).reserved_bytes


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_training_and_evaluation_alone_bound_the_whole(conf: str) -> None:
    """What the search relies on when it looks at each by itself."""
    for micro_batch, chunk in ((1000, 7128), (125, 7128), (63, 1024), (8, 128)):
        workload = build_workload(
            find_dataset("ICEWS14").shape, model="TNTComplEx", rank=156, micro_batch_size=micro_batch, chunk_size=chunk,
            eval_batch_size=300, eval_chunk_size=5000, device="cuda", alloc_conf=conf,
        )  # fmt: skip
        parts = [run(workload, evaluation=False), run(workload, training=False)]
        whole = peak_of(run(workload), workload, 0)
        assert whole.reserved_bytes == max(peak_of(part, workload, 0).reserved_bytes for part in parts)
        assert whole.requested_bytes <= whole.allocated_bytes <= whole.reserved_bytes


def test_what_the_guide_s_allocator_option_really_changes() -> None:
    """max_split_size_mb:128 changes no tensor's size; where tensors are large it makes the allocator hold more."""

    def reserved(scoring: str, conf: str) -> tuple[int, int]:
        workload = build_workload(
            find_dataset("ICEWS14").shape, model="TNTPairRE", scoring=scoring, device="cuda", alloc_conf=conf
        )
        peak = peak_of(run(workload), workload, 0)
        return peak.requested_bytes, peak.reserved_bytes

    for scoring in ("materialized", "fused"):
        plain, limited = reserved(scoring, ""), reserved(scoring, "max_split_size_mb:128")
        assert limited[0] == plain[0]
        assert limited[1] >= plain[1]


def test_options_of_the_environment_that_are_not_modelled_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync,max_split_size_mb:128")
    assert from_environment() == "max_split_size_mb:128"
    shown = invoke("estimate", "--device", "T4")
    assert (shown.exit_code, shown.stderr.split(" of ")[0]) == (0, "backend")
    for quiet in (["--device", "cpu"], ["--device", "T4", "--alloc-conf", ""]):
        assert not invoke("estimate", *quiet).stderr
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    assert from_environment() == ""
    assert not invoke("estimate", "--device", "T4").stderr
