"""The search for a layout where memory does not follow sizes as it should, and what a smaller plan may change."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.plan import Alternative
from memplan.prediction.estimate import estimate
from memplan.search.cost import evaluation_seconds, seconds_per_epoch
from memplan.search.planner import LARGEST_EVALUATION, Search, plan
from memplan.search.replan import Part, replan
from memplan.search.side import SMALLEST_CHUNK, Layout, Side, chunk_choices, halvings
from memplan.workload import Shape, Workload

SHAPE = Shape(n_entities=1000, n_relations=3, n_timestamps=6, n_facts=600)
BUDGET = 2**30


def search(**settings: Any) -> Search:
    target = Target("cpu", "CPU", BUDGET, "test", cpu_rates(), 0)
    return Search(SHAPE, target, None, {"model": "TNTPairRE", "rank": 4, "batch_size": 8, **settings})


def side(bytes_of: Callable[[Layout], int], seconds_of: Callable[[Layout], float], budget_bytes: int) -> Side:
    """A side whose layouts take what the test says: the layout stands in for its workload."""
    same: Any = lambda layout: layout  # noqa: E731
    sizes = {"batches": halvings(8), "chunks": chunk_choices(1000)}
    of: dict[str, Any] = {"workload_of": same, "bytes_of": bytes_of, "seconds_of": seconds_of}
    return Side(**sizes, **of, budget_bytes=budget_bytes)


def test_a_layout_that_does_not_fit_is_never_taken_though_larger_ones_do() -> None:
    """A caching allocator can reserve more for a smaller layout: here with chunks of 512 for anything above 2 at once.

    The staircase, which looks at batches from the smallest up once, has found 8 to fit with all entities at once.
    """

    def bytes_of(layout: Layout) -> int:
        return BUDGET + 1 if layout.chunk < 1000 and layout.batch > 2 else BUDGET

    # The cost model's preference turned round: the smaller layout of a staircase's step first.
    found = side(bytes_of, lambda layout: 10 * layout.chunk - layout.batch, BUDGET)
    layouts = list(found._fitting())
    assert Layout(8, found.chunks[-1]) in layouts, "the staircase alone takes it for one that fits"
    assert found.fastest() == (2, found.chunks[-1])


@pytest.mark.parametrize("budget", [0, 130, 131, 600, 1002, 1003, 1004, 4000, 8024, 10**9])
def test_every_layout_that_fits_is_found_where_memory_follows_sizes(budget: int) -> None:
    found = side(lambda layout: layout.batch * layout.chunk + 3 * layout.batch, lambda _: 1.0, budget)
    expected = {(b, c) for b in found.batches for c in found.chunks if b * c + 3 * b <= budget}
    assert set(found._fitting()) == expected


@pytest.mark.parametrize(
    ("size", "smallest"), [(1, 1), (10, 1), (1000, 1), (7128, 128), (128, 128), (129, 128), (3, 3)]
)
def test_halvings_end_at_the_smallest_and_never_skip_more_than_half(size: int, smallest: int) -> None:
    found = halvings(size, smallest)
    assert (found[0], found[-1]) == (size, smallest)
    for larger, smaller in pairwise(found):
        assert smaller == max(smallest, (larger + 1) // 2)


def test_no_more_than_the_largest_useful_number_of_queries_is_looked_at() -> None:
    found = search()
    assert found.evaluation.batches[0] == LARGEST_EVALUATION == 1024
    assert found.training.chunks == found.evaluation.chunks == [1000, 512, 256, 128]
    target = found.target
    assert Search(SHAPE, target, 1023, {"model": "TNTPairRE"}).evaluation.batches[0] == 1023
    assert Search(SHAPE, target, 5000, {"model": "TNTPairRE"}).evaluation.batches[0] == 1024
    few = Shape(n_entities=128, n_relations=3, n_timestamps=6, n_facts=600)
    assert Search(few, target, None, {"model": "TNTPairRE"}).training.chunks == [128]
    more = few.model_copy(update={"n_entities": 129})
    assert Search(more, target, None, {"model": "TNTPairRE"}).training.chunks == [129, 128]


@pytest.mark.parametrize("part", ["training", "evaluation"])
@pytest.mark.parametrize("budget_share", [1.0, 0.6])
def test_a_smaller_plan_is_the_fastest_of_all_that_take_less(part: Part, budget_share: float) -> None:
    """Every halving of both sizes is looked at here; what a part takes is the peak of its own phases."""
    target = Target("cpu", "CPU", BUDGET, "test", cpu_rates(), 0)
    made = plan(SHAPE, target, model="TNTPairRE", rank=16, batch_size=500, n_queries=900, emb_reg=0.1)
    is_training = part == "training"
    names = ("micro_batch_size", "chunk_size") if is_training else ("eval_batch_size", "eval_chunk_size")

    def peak(workload: Workload) -> int:
        phases = {phase.name: phase.peak_bytes for phase in estimate(workload).phases}
        return max(n for name, n in phases.items() if (name == "evaluation") != is_training or name == "setup")

    def seconds(workload: Workload) -> float:
        return (seconds_per_epoch if is_training else evaluation_seconds)(workload, target.rates)

    budget = round(budget_share * peak(made.workload))
    limit = min(budget, peak(made.workload) - 1)
    sizes = itertools.product(
        halvings(getattr(made.workload, names[0])), halvings(getattr(made.workload, names[1]), SMALLEST_CHUNK)
    )
    smaller = [made.workload.model_copy(update=dict(zip(names, pair, strict=True))) for pair in sizes]
    fastest = min(seconds(workload) for workload in smaller if peak(workload) <= limit)
    found = replan(made, target._replace(budget_bytes=budget), part).workload
    assert found in smaller
    assert peak(found) <= limit
    assert seconds(found) == fastest


def layout_of(alternative: Alternative) -> tuple[int, int, str]:
    return alternative.micro_batch_size, alternative.chunk_size, alternative.scoring


def test_an_alternative_that_takes_the_budget_to_the_last_byte_fits() -> None:
    target = Target("cpu", "CPU", BUDGET, "test", cpu_rates(), 0)
    asked: dict[str, Any] = {"model": "TNTPairRE", "rank": 4, "batch_size": 500, "n_queries": 900}
    ample = plan(SHAPE, target, **asked)
    larger = [other for other in ample.alternatives if other.device_bytes > ample.peak.device_bytes]
    assert larger
    for other in larger:
        for budget, end in ((other.device_bytes, "; fits"), (other.device_bytes - 1, "and 1 B over the budget")):
            again = plan(SHAPE, target._replace(budget_bytes=budget), **asked)
            assert again.workload == ample.workload
            (same,) = [one for one in again.alternatives if layout_of(one) == layout_of(other)]
            assert same.reason.endswith(end)


def test_one_byte_less_than_a_plan_takes_gives_another() -> None:
    target = Target("cpu", "CPU", BUDGET, "test", cpu_rates(), 0)
    asked: dict[str, Any] = {"model": "TNTPairRE", "rank": 4, "batch_size": 500, "n_queries": 900}
    ample = plan(SHAPE, target, **asked)
    exact = plan(SHAPE, target._replace(budget_bytes=ample.peak.device_bytes), **asked)
    assert exact.workload == ample.workload
    less = plan(SHAPE, target._replace(budget_bytes=ample.peak.device_bytes - 1), **asked)
    assert less.workload != ample.workload
    assert less.peak.device_bytes < ample.peak.device_bytes
    smallest = plan(SHAPE, target._replace(budget_bytes=ample.smallest_budget_bytes), **asked)
    assert smallest.peak.device_bytes == ample.smallest_budget_bytes
