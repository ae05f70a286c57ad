"""Filtered ranking against a naive reference, one query and one candidate at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from memplan.catalog.folders import SPLITS
from memplan.errors import MemplanError
from memplan.workload import SCORINGS, ModelName, Scoring, Shape, build_workload
from tests.conftest import random_graph
from tests.support.models_cases import MODEL_NAMES
from tests.support.slow import mostly_slow
from tkbc.data import Dataset
from tkbc.data.dataset import FilterIndex, with_reciprocals
from tkbc.models import MODELS, Batch, Model
from tkbc.ranking import rivals
from tkbc.ranking.evaluation import Evaluation, Metrics, count_rivals, evaluate
from tkbc.ranking.rivals import PIECE
from tkbc.scoring import make_score
from tkbc.scoring.reference import FORMULAS

# Few entities, relations and days for many facts: queries with several true tails are the rule.
SHAPE = Shape(n_entities=23, n_relations=2, n_timestamps=3, n_facts=150)


def naive_ranks(model: Model, graph: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """How many score higher and how many tie, each query on its own, the filter found by walking over all facts."""
    everything = [tuple(fact) for split in SPLITS for fact in with_reciprocals(graph.split(split), SHAPE.n_relations)]
    counts = []
    for h, r, t, time in with_reciprocals(graph.test, SHAPE.n_relations):
        ids = (torch.tensor([int(i)], dtype=torch.int32) for i in (h, r, t, time))
        with torch.no_grad():
            scores = FORMULAS[model.workload.score](model.encode(Batch(*ids)).query, model.entity)[0]
        others = {fact[2] for fact in everything if (fact[0], fact[1], fact[3]) == (h, r, time)} - {t}
        rivals = [e for e in range(SHAPE.n_entities) if e != t and e not in others]
        higher = sum(scores[e] > scores[t] for e in rivals)
        ties = sum(scores[e] == scores[t] for e in rivals)
        counts.append((float(higher), float(ties)))
    return np.array(counts).T


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("batch", "chunk"), mostly_slow([(7, 23), (100, 5), (100, 23), (3, 1)], quick=2))
def test_metrics_equal_the_naive_reference_ties_included(
    name: ModelName, scoring: Scoring, batch: int, chunk: int
) -> None:
    graph = random_graph(SHAPE, n_test=25)
    if scoring == "materialized":
        chunk = SHAPE.n_entities
    workload = build_workload(
        SHAPE, model=name, rank=2, scoring=scoring, chunk_size=chunk, eval_batch_size=batch, eval_chunk_size=chunk
    )
    model = MODELS[name](workload)
    with torch.no_grad():
        for parameter in model.parameters():  # whole numbers: scores are exact, and many of them tie
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=torch.Generator().manual_seed(4)))
    higher, ties = naive_ranks(model, graph)
    assert ties.any(), "no ties to test"
    score = make_score(workload.score, scoring, "cpu", 2)
    found = evaluate(model, score, graph.test, graph.filter_index, workload)

    def mean(ranks: np.ndarray) -> Metrics:
        return Metrics(*(np.mean(pair) for pair in zip(Metrics.of(ranks[:25]), Metrics.of(ranks[25:]), strict=True)))

    average, optimistic, pessimistic = 1 + higher + ties / 2, 1 + higher, 1 + higher + ties
    expected = Evaluation(
        mean(average), Metrics.of(average[:25]), Metrics.of(average[25:]), mean(optimistic), mean(pessimistic)
    )
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)


def test_progress_is_told_after_every_batch_and_the_first_alone_is_looked_at() -> None:
    """25 facts in batches of 7: a batch asks for tails and heads, half of its queries each."""
    graph = random_graph(SHAPE, n_test=25)
    workload = build_workload(SHAPE, model="TNTComplEx", rank=2, eval_batch_size=7)
    told: list[Any] = []

    @contextmanager
    def watched() -> Iterator[None]:
        told.append("begin")
        yield
        told.append("end")

    score = make_score(workload.score, workload.scoring, "cpu", 1)
    model = MODELS["TNTComplEx"](workload)
    evaluate(model, score, graph.test, graph.filter_index, workload, lambda *done: told.append(done), watched())
    batches = [(done, 50) for done in (*range(7, 50, 7), 50)]
    assert told == ["begin", "end", *batches]


@pytest.mark.parametrize("piece", [1, 3, 7])
@pytest.mark.parametrize("chunk", [23, 5, 1])
def test_pieces_of_the_filter_end_anywhere(monkeypatch: pytest.MonkeyPatch, piece: int, chunk: int) -> None:
    """Inside a chunk, at its end, and over several chunks that exclude nothing."""
    graph = random_graph(SHAPE, n_test=25)
    workload = build_workload(SHAPE, model="TNTComplEx", rank=2, eval_batch_size=7, eval_chunk_size=chunk)
    model = MODELS["TNTComplEx"](workload, torch.Generator().manual_seed(1))
    expected = naive_ranks(model, graph)
    monkeypatch.setattr(rivals, "PIECE", piece)
    score = make_score("dot", "fused", "cpu")
    assert np.array_equal(count_rivals(model, score, graph.test, graph.filter_index, workload), expected)


def test_more_filtered_entities_than_one_piece_holds() -> None:
    """Every entity but one is a known tail, for enough queries that the pieces' border falls inside a query."""
    n = 3000
    facts = np.stack([np.zeros(n), np.zeros(n), np.arange(n), np.zeros(n)], axis=1).astype(np.int32)
    shape = Shape(n_entities=n, n_relations=1, n_timestamps=1, n_facts=n)
    workload = build_workload(shape, model="TNTComplEx", rank=3, eval_batch_size=8)
    assert 8 * n > 2 * PIECE
    model = MODELS["TNTComplEx"](workload, torch.Generator().manual_seed(0))
    index = FilterIndex.build(with_reciprocals(facts, 1), 2)
    result = evaluate(model, make_score("dot", "fused", "cpu"), facts[:20], index, workload)
    assert result.tail.mrr == 1.0, "with all rivals filtered every tail ranks first"
    assert result.head.mrr < 1.0


def test_scores_that_are_no_numbers_are_an_error() -> None:
    graph = random_graph(SHAPE)
    workload = build_workload(SHAPE, model="TNTPairRE", rank=2)
    model = MODELS["TNTPairRE"](workload)
    model.time.data[:] = float("nan")
    with pytest.raises(MemplanError, match="not finite"):
        evaluate(model, make_score("l1", "fused", "cpu"), graph.test, graph.filter_index, workload)


def test_evaluation_leaves_the_filter_as_it_was() -> None:
    """The original's evaluation grew the shared filter lists every time it ran."""
    graph = random_graph(SHAPE)
    index = graph.filter_index
    before = index.values.copy()
    workload = build_workload(SHAPE, model="TNTComplEx", rank=2)
    model = MODELS["TNTComplEx"](workload, torch.Generator().manual_seed(0))
    runs = [evaluate(model, make_score("dot", "fused", "cpu"), graph.test, index, workload) for _ in range(2)]
    assert runs[0] == runs[1]
    assert np.array_equal(before, index.values)
    with pytest.raises(ValueError, match="read-only"):
        index.values[0] = 1
