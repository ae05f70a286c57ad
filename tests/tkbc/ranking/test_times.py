"""The average precision of times against a naive reference: formulas in float64, one threshold after another."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from memplan.errors import NotFiniteError
from memplan.prediction.estimate import estimate
from memplan.workload import SCORINGS, ModelName, Score, Scoring, Shape, Workload, build_workload
from tests.conftest import random_graph
from tests.support.intervals import TIMED
from tests.support.models_cases import formula
from tkbc.data import Dataset
from tkbc.data.dataset import NO_TIME
from tkbc.measure.meter import CpuMeter
from tkbc.models import MODELS, Model
from tkbc.ranking.evaluation import count_rivals
from tkbc.ranking.times import SORTING_SCORES, average_precision, facts_at_once, time_precisions
from tkbc.scoring import make_score

SHAPE = Shape(n_entities=23, n_relations=2, n_timestamps=7, n_facts=60, intervals=True)


def naive(scores: list[float], right: list[bool]) -> float:
    """The area under the steps of precision over recall, a threshold at each distinct score."""
    found, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [is_right for score, is_right in zip(scores, right, strict=True) if score >= threshold]
        reached = sum(taken) / sum(right)
        found += (reached - recall) * sum(taken) / len(taken)
        recall = reached
    return found


def test_it_is_the_area_under_the_steps_ties_included() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(-3, 3, (200, 9)).astype(np.float32)
    right = random.random((200, 9)) < random.random((200, 1))
    right[np.arange(200), random.integers(0, 9, 200)] = True
    expected = np.array([naive(row.tolist(), which.tolist()) for row, which in zip(scores, right, strict=True)])
    assert average_precision(scores, right) == pytest.approx(expected)
    single = right.sum(1) == 1
    assert single.any()
    assert average_precision(scores[single], right[single]) == pytest.approx(expected[single])


def test_by_hand() -> None:
    scores = np.array([[3, 2, 2, 1, 0], [5, 4, 3, 2, 1], [0, 0, 0, 0, 0]], dtype=np.float32)
    right = np.array([[0, 1, 0, 0, 0], [1, 0, 1, 1, 0], [0, 1, 1, 0, 0]], dtype=bool)
    # One right one that ties with another, third at worst; three at places 1, 3 and 4; nothing told apart.
    assert average_precision(scores, right) == pytest.approx([1 / 3, (1 + 2 / 3 + 3 / 4) / 3, 2 / 5])


def test_sorting_takes_no_more_than_is_counted() -> None:
    scores = np.random.default_rng(0).random((300, 200), dtype=np.float32)
    right = scores > 0.7
    tracemalloc.start()
    try:
        average_precision(scores, right)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scores.nbytes + right.nbytes + peak < SORTING_SCORES * scores.nbytes


def expected_of(model: Model, graph: Dataset, n_times: int) -> list[float]:
    found = []
    for head, relation, tail, *when in graph.test.tolist():
        begin, end = when[0], when[-1]
        if (begin, end) == (0, n_times - 1) or begin >= n_times:
            found.append(math.nan)
            continue
        at = torch.arange(n_times)
        scores = formula(model, *(torch.full_like(at, i) for i in (head, relation, tail)), at).tolist()
        found.append(naive(scores, [begin <= time <= end for time in range(n_times)]))
    return found


def model_of(workload: Workload) -> Model:
    """Whole numbers: scores are exact in float32 and many tie."""
    model = MODELS[workload.model](workload)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randint(-2, 3, parameter.shape, generator=torch.Generator().manual_seed(4)))
    return model


@pytest.mark.parametrize(("name", "score"), TIMED)
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("batch", "chunk"), [(60, 23), (7, 23), (1, 23), (5, 3)])
def test_precisions_equal_the_naive_reference(
    name: ModelName, score: Score, scoring: Scoring, batch: int, chunk: int
) -> None:
    """Over intervals, some open at one end and some at both, in batches of every size."""
    chunk = SHAPE.n_entities if scoring == "materialized" else chunk
    graph = random_graph(SHAPE, n_test=40)
    facts = graph.test.copy()
    facts[3:6, 3:], facts[7, 3], facts[8, 4] = (0, 6), 0, 6
    graph = replace(graph, test=facts)
    sizes = {"chunk_size": chunk, "eval_batch_size": batch, "eval_chunk_size": chunk}
    model = model_of(build_workload(SHAPE, model=name, score=score, rank=3, scoring=scoring, **sizes))
    found = time_precisions(model, make_score(score, scoring, "cpu", 1), graph, graph.test)
    expected = expected_of(model, graph, SHAPE.n_timestamps)
    assert np.flatnonzero(np.isnan(expected)).tolist() == [3, 4, 5]
    assert found == pytest.approx(expected, nan_ok=True)


def test_facts_at_one_time_are_found_among_the_times_alone() -> None:
    """The last timestamp is that of facts without time: it is no candidate, whatever its score."""
    shape = SHAPE.model_copy(update={"intervals": False})
    graph = random_graph(shape, n_test=40)
    dated = replace(graph, timestamps=(*graph.timestamps[:-1], NO_TIME))
    model = model_of(build_workload(shape, model="TNTPairRE", rank=3))
    model.table("time").data[-1] = 100.0
    found = time_precisions(model, make_score("l1", "fused", "cpu", 1), dated, dated.test)
    assert 0 < np.isnan(found).sum() < 40
    assert found == pytest.approx(expected_of(model, dated, SHAPE.n_timestamps - 1), nan_ok=True)
    among_all = time_precisions(model, make_score("l1", "fused", "cpu", 1), graph, graph.test)
    assert among_all == pytest.approx(expected_of(model, graph, SHAPE.n_timestamps))


def test_scores_that_are_no_numbers_are_an_error() -> None:
    graph = random_graph(SHAPE)
    model = model_of(build_workload(SHAPE, model="TNTPairRE", rank=3))
    model.table("time").data[2] = math.nan
    with pytest.raises(NotFiniteError, match="not finite"):
        time_precisions(model, make_score("l1", "fused", "cpu", 1), graph, graph.test)


@pytest.mark.parametrize(("name", "score"), TIMED)
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("batch", "chunk", "n_timestamps"), [(16, 300, 40), (2, 300, 40), (16, 10, 600), (1, 300, 40)])
def test_it_takes_no_more_memory_than_was_planned_for_ranking(
    name: ModelName, score: Score, scoring: Scoring, batch: int, chunk: int, n_timestamps: int
) -> None:
    """By PyTorch's own allocations: below the planned peak, and below those of a batch of ranking where that has two
    queries and as many scores as there are timestamps."""
    shape = Shape(n_entities=300, n_relations=2, n_timestamps=n_timestamps, n_facts=60, intervals=True)
    chunk = shape.n_entities if scoring == "materialized" else chunk
    sizes = {"chunk_size": chunk, "eval_batch_size": batch, "eval_chunk_size": chunk}
    workload = build_workload(shape, model=name, score=score, rank=6, batch_size=16, scoring=scoring, **sizes)
    graph = random_graph(shape, n_test=40)
    model, scorer = model_of(workload), make_score(score, scoring, "cpu", 1)
    meter = CpuMeter()
    with meter.recording(list(model.parameters())):
        with meter.phase("ranking"):
            count_rivals(model, scorer, graph.test[:batch, :4], graph.filter_index, workload)
        with meter.phase("times"):
            time_precisions(model, scorer, graph, graph.test)
    ranking, times = (meter.peaks[phase].requested_bytes for phase in ("ranking", "times"))
    planned = next(phase.peak_bytes for phase in estimate(workload).phases if phase.name == "evaluation")
    assert times <= planned
    if batch > 1:
        assert facts_at_once(model) <= batch // 2
        assert times <= ranking
