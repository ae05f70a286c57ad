"""The work of a step on the CPU: counts made here by hand, and what any layout of a step must have in common."""

from __future__ import annotations

from typing import Any

import pytest

from memplan.device.rates import StepRates, cpu_rates
from memplan.search.cost import evaluation_seconds, seconds_per_epoch
from memplan.search.work import SCORES_A_THREAD, SIZES, TILE, ranking_work, step_work
from memplan.workload import SCORINGS, TRAITS, Shape, Workload, build_workload
from tkbc.scoring.l1_cpu import TILE as TILE_OF_THE_KERNEL
from tkbc.scoring.l1_numba import SCORES_A_THREAD as SCORES_A_THREAD_OF_THE_KERNEL

SHAPE = Shape(n_entities=1000, n_relations=2, n_timestamps=7, n_facts=100)


def workload(shape: Shape = SHAPE, **settings: Any) -> Workload:
    given = {"model": "TNTPairRE", "scoring": "fused", "rank": 8, "batch_size": 60, **settings}
    return build_workload(shape, **given)


def test_the_kernel_s_terms_scores_and_passes_over_the_candidates() -> None:
    """60 queries in micro-batches of 25, 25 and 10, against 1000 entities in chunks of 300, 300, 300 and 100."""
    found = step_work(workload(micro_batch_size=25, chunk_size=300))
    # Forward twice but for the last chunk of 100, whose scores are kept; two queries a pass, one of 25 left over.
    assert found["term forward"] == 58 * 8 * (2 * 1000 - 100)
    assert found["term forward, one query alone"] == 2 * 8 * (2 * 1000 - 100)
    assert found["term backward"] == (24 + 24 + 8) * 8 * 1000
    assert found["term backward, one query alone"] == (1 + 1 + 2) * 8 * 1000
    assert found["packing forward"] == 3 * 8 * (2 * 1000 - 100)
    assert found["packing backward"] == 3 * 8 * 1000
    assert found["kernel forward"] == 3 * (4 + 3)
    assert found["kernel backward"] == 3 * 4
    assert found["exp of a score"] == 2 * 60 * 1000
    assert found["micro-batch"] == 3
    assert found["step"] == 1


def test_all_at_once_is_scored_once() -> None:
    found = step_work(workload(chunk_size=1000))
    assert found["term forward"] == 60 * 1000 * 8
    assert found["exp of a score"] == 60 * 1000
    # A micro-batch of a step of 50: the same candidates, fewer queries.
    assert step_work(workload(), 50)["term forward"] == 50 * 1000 * 8


@pytest.mark.parametrize(("threads", "span"), [(1, 2000), (2, 1000), (3, 667), (8, 667)])
def test_threads_share_the_candidates(threads: int, span: int) -> None:
    """No thread gets less than a tile: three of 720 hold 2000 entities."""
    found = step_work(workload(SHAPE.model_copy(update={"n_entities": 2000}), threads=threads))
    assert found["term forward"] == 60 * span * 8


def test_the_tile_is_the_kernel_s() -> None:
    assert (TILE, SCORES_A_THREAD) == (TILE_OF_THE_KERNEL, SCORES_A_THREAD_OF_THE_KERNEL)


@pytest.mark.parametrize(("score", "forward", "backward"), [("dot", 1, 2), ("l2", 2, 4)])
def test_products(score: str, forward: int, backward: int) -> None:
    """The gradients have rank columns, which are computed 32 at a time."""
    found = step_work(workload(score=score, rank=40))
    assert found["multiply-add forward"] == forward * 60 * 1000 * 40
    assert found["multiply-add backward"] == backward * 60 * 1000 * 64
    again = step_work(workload(score=score, rank=40, chunk_size=500))
    assert again["multiply-add forward"] == 2 * found["multiply-add forward"]


def test_a_pass_over_a_larger_tensor_takes_longer() -> None:
    """60 × 1000 numbers a rank: at rank 8 between 1 and 4 MiB, at rank 200 beyond, and new memory from the system."""
    small, large = (step_work(workload(scoring="chunked", rank=rank)) for rank in (8, 200))
    kind = "pass over fp32 numbers forward"

    def sizes(work: dict[str, float]) -> set[str]:
        return {size for size in SIZES if work.get(f"{kind}, beyond {size}")}

    assert sizes(small) == {"256 KiB", "1 MiB"}
    assert sizes(large) == set(SIZES)
    # 1.92 MB is all of the way from 256 KiB to 1 MiB, and 0.87 of a doubling, of two, from there to 4 MiB.
    assert small[f"{kind}, beyond 256 KiB"] == small[kind] == 4 * 60 * 1000 * 8
    assert small[f"{kind}, beyond 1 MiB"] == pytest.approx(small[kind] * 0.8727 / 2, rel=1e-3)
    assert "fresh number" not in small
    assert large["fresh number"] > 0


@pytest.mark.parametrize("model", list(TRAITS))
@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_kind_has_its_seconds_and_more_work_takes_longer(model: str, scoring: str) -> None:
    for score in TRAITS[model].scores:
        made = workload(model=model, score=score, scoring=scoring)
        assert 0 < seconds_per_epoch(made, cpu_rates()) < 60
        assert 0 < evaluation_seconds(made, cpu_rates()) < 60
        wider = workload(model=model, score=score, scoring=scoring, rank=64)
        assert seconds_per_epoch(wider, cpu_rates()) > seconds_per_epoch(made, cpu_rates())


def test_an_epoch_is_its_steps_the_last_one_shorter() -> None:
    """200 examples: three steps of 60 and one of 20."""
    rates = StepRates({"step": 100.0, "term backward": 1.0}, 0.1)
    assert seconds_per_epoch(workload(), rates) == 4 * 100 + 200 * 1000 * 8


def test_ranking_scores_every_candidate_and_learns_nothing() -> None:
    """200 queries in batches of 50; in chunks every score is needed twice."""
    one = ranking_work(workload(eval_batch_size=50))
    two = ranking_work(workload(eval_batch_size=50, eval_chunk_size=500))
    assert one["term forward"] == 200 * 1000 * 8
    assert two["term forward"] == 2 * one["term forward"]
    assert not any("backward" in kind for kind in one)
