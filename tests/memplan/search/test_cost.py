"""The cost model, one rate at a time: what is left is a count of operations, bytes or launches, made here by hand."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from memplan.device.rates import Rates
from memplan.search.cost import evaluation_seconds, seconds_per_epoch
from memplan.workload import Shape, Workload, build_workload

# 200 examples an epoch: 4 steps of 60, the last one short, of 3 micro-batches of 25 each; 30 entities in chunks of 12.
SHAPE = Shape(n_entities=30, n_relations=2, n_timestamps=7, n_facts=100)
SIZES: dict[str, Any] = {"rank": 5, "batch_size": 60, "micro_batch_size": 25, "eval_batch_size": 80}
STEPS, MICRO_BATCHES, CHUNKS = 4, 12, 3
SCORES = 200 * 30
NO_TIME = Rates(inf, inf, inf, 0.0, inf, inf)


def workload(shape: Shape = SHAPE, chunk_size: int = 12, **settings: Any) -> Workload:
    chunks = {} if settings.get("scoring") == "materialized" else {"chunk_size": chunk_size, "eval_chunk_size": 12}
    return build_workload(shape, **{"model": "TNTPairRE", **SIZES, **chunks, **settings})


@pytest.mark.parametrize(
    ("settings", "forwards", "terms"),
    [
        ({"scoring": "fused"}, 2, (5, 0, 0)),
        ({"scoring": "fused", "chunk_size": 30}, 1, (5, 0, 0)),
        ({"scoring": "fused", "score": "l2"}, 2, (0, 4 * 5, 8 * 5)),
        ({"scoring": "fused", "score": "dot"}, 2, (0, 2 * 5, 4 * 5)),
        ({"scoring": "chunked", "score": "dot"}, 3, (0, 2 * 5, 4 * 5)),
        ({"scoring": "fused", "model": "TNTComplEx"}, 2, (0, 2 * 10, 4 * 10)),
        ({"scoring": "materialized", "score": "dot"}, 1, (0, 2 * 5, 4 * 5)),
    ],
)
def test_terms_and_flops_of_an_epoch_and_of_a_ranking(
    settings: dict[str, Any], forwards: int, terms: tuple[int, int, int]
) -> None:
    """A score again for each chunk but where all are kept; the chunked scoring once more in its backward."""
    made = workload(**settings)
    l1, flops_forward, flops_backward = terms
    assert seconds_per_epoch(made, NO_TIME._replace(l1_terms_per_second=0.5)) == 2 * SCORES * forwards * l1
    assert seconds_per_epoch(made, NO_TIME._replace(l1_gradient_terms_per_second=0.5)) == 2 * SCORES * l1
    flops = NO_TIME._replace(flops_per_second=0.5)
    assert seconds_per_epoch(made, flops) == 2 * SCORES * (forwards * flops_forward + flops_backward)
    passes = 1 if settings["scoring"] == "materialized" else 2
    assert evaluation_seconds(made, flops) == 2 * SCORES * passes * flops_forward
    assert evaluation_seconds(made, NO_TIME._replace(l1_terms_per_second=0.5)) == 2 * SCORES * passes * l1
    assert evaluation_seconds(made, NO_TIME._replace(l1_gradient_terms_per_second=0.5)) == 0


@pytest.mark.parametrize(
    ("settings", "forwards", "item_bytes"),
    [
        ({"scoring": "chunked"}, 3, 4),
        ({"scoring": "chunked", "chunk_size": 30}, 2, 4),
        ({"scoring": "materialized"}, 1, 4),
        ({"scoring": "materialized", "score": "l2"}, 1, 4),
        ({"scoring": "materialized", "precision": "bf16"}, 1, 4),
        ({"scoring": "materialized", "precision": "bf16", "device": "cuda"}, 1, 2),
        ({"scoring": "materialized", "device": "cuda"}, 1, 4),
    ],
)
def test_bytes_of_a_distance_in_plain_pytorch(settings: dict[str, Any], forwards: int, item_bytes: int) -> None:
    """Three tensors of a score's five dimensions forward and four backward, each written once and read once."""
    made = workload(**settings)
    tensors = SCORES * 5 * item_bytes * (3 * forwards + 4)
    assert seconds_per_epoch(made, NO_TIME._replace(fresh_bytes_per_second=0.5)) == 2 * tensors
    traffic = NO_TIME._replace(bytes_per_second=0.5)
    assert seconds_per_epoch(made, traffic) == 2 * (tensors + bytes_besides(5))
    passes = 1 if settings["scoring"] == "materialized" else 2
    in_ranking = SCORES * passes * 5 * item_bytes * 3
    assert evaluation_seconds(made, NO_TIME._replace(fresh_bytes_per_second=0.5)) == 2 * in_ranking
    assert evaluation_seconds(made, traffic) == 2 * (in_ranking + SCORES * passes * 24)


def bytes_besides(width: int) -> int:
    """24 bytes a score; the entities' gradients once to and fro a micro-batch, all tables eight times a step."""
    table = 30 * width * 4
    return SCORES * 24 + MICRO_BATCHES * 2 * table + STEPS * 8 * table


@pytest.mark.parametrize(("model", "width"), [("TNTPairRE", 5), ("TNTComplEx", 10)])
def test_bytes_of_softmax_and_tables(model: str, width: int) -> None:
    traffic = NO_TIME._replace(bytes_per_second=0.25)
    made = workload(scoring="fused", model=model)
    assert seconds_per_epoch(made, traffic) == 4 * bytes_besides(width)
    assert evaluation_seconds(made, traffic) == 4 * SCORES * 2 * 24


@pytest.mark.parametrize(
    ("settings", "chunks", "forwards"),
    [
        ({"scoring": "fused"}, 3, 2),
        ({"scoring": "fused", "chunk_size": 15}, 2, 2),
        ({"scoring": "fused", "chunk_size": 30}, 1, 1),
        ({"scoring": "chunked", "chunk_size": 29}, 2, 3),
    ],
)
def test_operations_that_are_started(settings: dict[str, Any], chunks: int, forwards: int) -> None:
    """30 a step, 60 a micro-batch and 20 a chunk; 200 queries in batches of 80 and chunks of 12, twice over."""
    launches = NO_TIME._replace(launch_seconds=2.0)
    expected = STEPS * 30 + MICRO_BATCHES * (60 + chunks * 20 * forwards)
    assert seconds_per_epoch(workload(**settings), launches) == 2 * expected
    assert evaluation_seconds(workload(**settings), launches) == 2 * 3 * (60 + 3 * 20 * 2)


def test_where_the_time_is_predicted_too_its_scores_and_chunks_count() -> None:
    """7 timestamps in chunks of 4 beside 30 entities in chunks of 4: 2 and 8."""
    shape = SHAPE.model_copy(update={"intervals": True})
    made = workload(shape, chunk_size=4, scoring="fused")
    assert seconds_per_epoch(made, NO_TIME._replace(l1_gradient_terms_per_second=1.0)) == 200 * 37 * 5
    launches = STEPS * 30 + MICRO_BATCHES * (60 + (8 + 2) * 20 * 2)
    assert seconds_per_epoch(made, NO_TIME._replace(launch_seconds=1.0)) == launches
    without = workload(shape, chunk_size=4, scoring="fused", model="PairRE")
    assert seconds_per_epoch(without, NO_TIME._replace(l1_gradient_terms_per_second=1.0)) == 200 * 30 * 5


def test_a_cost_is_the_sum_over_all_rates() -> None:
    rates = Rates(1e9, 2e9, 3e8, 4e-6, 5e9, 6e8)
    made = workload(scoring="fused")
    for cost in (seconds_per_epoch, evaluation_seconds):
        parts = [cost(made, NO_TIME._replace(**{name: getattr(rates, name)})) for name in Rates._fields]
        assert cost(made, rates) == pytest.approx(sum(parts), rel=1e-12)


def test_a_process_computes_its_rows_for_its_examples() -> None:
    """30 rows by 3, 200 examples by 2; chunks of 12 are then all the rows."""
    terms = NO_TIME._replace(l1_gradient_terms_per_second=1.0)
    assert seconds_per_epoch(workload(shards=3, replicas=2, scoring="fused"), terms) == 100 * 10 * 5
    traffic = NO_TIME._replace(bytes_per_second=1.0)
    table = 10 * 5 * 4
    expected = 200 * 10 * 24 + MICRO_BATCHES * 2 * table + STEPS * 8 * table
    assert seconds_per_epoch(workload(shards=3, scoring="fused"), traffic) == expected
    assert evaluation_seconds(workload(shards=3, scoring="fused"), traffic) == 200 * 10 * 24


def test_with_negatives_an_epoch_takes_no_longer_for_more_entities() -> None:
    """8 drawn of 30 entities in chunks of 3: three, recomputed; 8 + 2 · 60 used rows of 5 floats in place of 30."""
    made = workload(chunk_size=3, scoring="fused", negatives=8)
    many = workload(SHAPE.model_copy(update={"n_entities": 10**6}), chunk_size=3, scoring="fused", negatives=8)
    rates = Rates(1e9, 1e9, 1e9, 1e-6, 1e9, 1e9)
    assert seconds_per_epoch(made, rates) == seconds_per_epoch(many, rates)
    assert seconds_per_epoch(made, NO_TIME._replace(l1_terms_per_second=0.5)) == 2 * 200 * 8 * 2 * 5
    traffic = 2 * (200 * 8 * 24 + (2 * MICRO_BATCHES + 8 * STEPS) * 4 * 5 * (8 + 2 * 60))
    assert seconds_per_epoch(made, NO_TIME._replace(bytes_per_second=0.5)) == traffic
    assert evaluation_seconds(many, rates) > 1000 * evaluation_seconds(made, rates)
