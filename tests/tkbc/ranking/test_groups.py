"""Quality by group: a group's metrics are those of a split that holds its facts alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from memplan.workload import Shape, build_workload
from tests.conftest import random_graph
from tkbc.data import Dataset
from tkbc.data.dataset import NO_TIME
from tkbc.models import MODELS
from tkbc.ranking.evaluation import Ranks, count_rivals, evaluate
from tkbc.ranking.groups import KINDS, by_group, grouping, kinds_of_time, means_by_group
from tkbc.scoring import make_score

SHAPE = Shape(n_entities=23, n_relations=5, n_timestamps=4, n_facts=150)


@pytest.mark.parametrize("column", [1, 3], ids=["relation", "time"])
def test_a_group_is_ranked_as_a_split_of_its_facts_alone(column: int) -> None:
    graph = random_graph(SHAPE, n_test=40)
    workload = build_workload(SHAPE, model="TNTComplEx", rank=3, eval_batch_size=7)
    model = MODELS["TNTComplEx"](workload, torch.Generator().manual_seed(1))
    score = make_score(workload.score, workload.scoring, "cpu", 1)
    ranks = count_rivals(model, score, graph.test, graph.filter_index, workload)
    names = graph.relations if column == 1 else graph.timestamps
    found = by_group(ranks, graph.test[:, column], names)
    counts = Counter(names[i] for i in graph.test[:, column])
    assert {group.name: group.n_facts for group in found} == counts
    assert [group.n_facts for group in found] == sorted(counts.values(), reverse=True)
    for group in found:
        facts = graph.test[graph.test[:, column] == names.index(group.name)]
        alone = evaluate(model, score, facts, graph.filter_index, workload)
        assert group.metrics == pytest.approx(alone.both)
    whole = ranks.evaluation().both
    assert sum(group.n_facts * group.metrics.mrr for group in found) / 40 == pytest.approx(whole.mrr)


def test_by_hand() -> None:
    """Three facts, the first alone of its kind; ranks of tails 1, 2.5, 4 and of heads 2, 1, 11."""
    ranks = Ranks(np.array([0.0, 1, 3, 1, 0, 10]), np.array([0.0, 1, 0, 0, 0, 0]))
    large, small = by_group(ranks, np.array([2, 0, 0], dtype=np.int32), ("a", "nothing", "b"))
    assert large == ("a", 2, pytest.approx(((1 / 2.5 + 1 / 4 + 1 + 1 / 11) / 4, 0.25, 0.5, 0.75)))
    assert small == ("b", 1, pytest.approx(((1 + 1 / 2) / 2, 0.5, 1, 1)))


def graph_of(timestamps: tuple[str, ...], *test: tuple[int, ...]) -> Dataset:
    facts = np.array([(0, 0, 1, *times) for times in test], dtype=np.int32)
    return Dataset("by hand", ("a", "b"), ("r",), timestamps, facts, facts, facts)


def test_kinds_of_time_by_hand() -> None:
    over_intervals = graph_of(("1", "2", "3", "4"), (1, 2), (2, 2), (0, 2), (1, 3), (0, 3), (0, 0), (3, 3))
    kinds = ["interval", "one time", "open begin", "open end", "no time", "one time", "one time"]
    assert [KINDS[i] for i in kinds_of_time(over_intervals, over_intervals.test)] == kinds
    at_times = graph_of(("1", "2", NO_TIME), (0,), (2,), (1,))
    group, names = grouping(at_times, "test", "kind")
    assert [names[i] for i in group] == ["one time", "no time", "one time"]
    assert KINDS[kinds_of_time(graph_of(("1", "2"), (1,)), np.array([[0, 0, 1, 1]], dtype=np.int32))[0]] == "one time"


def test_means_leave_out_what_is_no_number() -> None:
    values, group = np.array([1, np.nan, 0.5, np.nan, 0.25]), np.array([2, 2, 0, 1, 0])
    assert means_by_group(values, group, 4) == pytest.approx([0.375, np.nan, 1, np.nan], nan_ok=True)
