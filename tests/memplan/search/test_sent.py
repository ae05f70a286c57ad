"""What a mesh is said to send, against what processes of one really summed, and seconds counted by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from memplan.device.links import Link
from memplan.search.sent import Sent, sending_seconds, sent_per_step
from memplan.workload import Shape, Workload, build_workload
from tests.support.collectives import all_reduces_of_a_step

SHAPE = Shape(n_entities=53, n_relations=5, n_timestamps=7, n_facts=60)
INTERVALS = SHAPE.model_copy(update={"intervals": True})


def workload(shape: Shape = SHAPE, **settings: Any) -> Workload:
    sizes = {"rank": 6, "batch_size": 50, "micro_batch_size": 13, "chunk_size": 9, "scoring": "chunked"}
    return build_workload(shape, **{"model": "TNTPairRE", **sizes, **settings})


def summed(sent: list[Sent]) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for kind in sent:
        calls, n_bytes = found.get(kind.n_processes, (0, 0))
        found[kind.n_processes] = calls + kind.calls, n_bytes + kind.n_bytes
    return found


@pytest.mark.slow
def test_what_is_said_to_be_sent_is_what_is_sent(tmp_path: Path) -> None:
    """Every score, a complex model, regularizers, times predicted, half precision; shards, replicas and both."""
    made = [
        workload(shards=4),
        workload(INTERVALS, shards=4, model="TNTComplEx", emb_reg=0.1),
        workload(shards=2, replicas=2, score="l2", precision="bf16", time_reg=0.1, unit_norm=True),
        workload(shards=2, replicas=2, score="dot", emb_reg=0.1, n3_parts=True, optimizer="adam"),
        workload(INTERVALS, shards=1, replicas=4, emb_reg=0.1),
    ]
    for one, calls in zip(made, all_reduces_of_a_step(made, tmp_path), strict=True):
        # Whether to stop is asked by a run, not by a step.
        said = summed([kind for kind in sent_per_step(one) if kind.what != "whether to stop"])
        n_calls, n_bytes = Counter(n for n, _ in calls), Counter[int]()
        for n, size in calls:
            n_bytes[n] += size
        assert said == {n: (n_calls[n], n_bytes[n]) for n in n_calls}, one


def test_nothing_that_is_sent_between_shards_grows_with_the_entities() -> None:
    larger = SHAPE.model_copy(update={"n_entities": 53_000})
    sent = {s.n_entities: sent_per_step(workload(s, shards=4, emb_reg=0.1)) for s in (SHAPE, larger)}
    assert sent[53] == sent[53_000]
    assert sent_per_step(workload()) == []


def test_seconds_are_bytes_around_a_ring_and_calls() -> None:
    """50 examples of 6 numbers, 5 micro-batches, 4 shards: 18 · 50 + 3 · 50 numbers and three flags, in 32 calls."""
    made = workload(shards=4, micro_batch_size=10)
    assert made.steps_per_epoch == 3
    n_bytes = 4 * (3 * 6 * 50 + 3 * 50 + 3)
    assert sending_seconds(made, Link(1.0, 0.0)) == 3 * (2 * 3 * n_bytes // 4)
    assert sending_seconds(made, Link(float("inf"), 2.0)) == 3 * 2.0 * (5 * (1 + 3 + 2) + 2)
