"""Rules, their weights and ranks with them, against loops over facts and float64 autograd of the whole softmax."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from memplan.catalog.folders import SPLITS
from memplan.errors import MemplanError, NotFiniteError
from memplan.prediction.estimate import estimate
from memplan.workload import SCORINGS, ModelName, Scoring, Shape, build_workload
from tests.conftest import random_graph
from tests.support.models_cases import MODEL_NAMES
from tkbc.data import Dataset
from tkbc.data.dataset import NO_TIME, with_reciprocals
from tkbc.measure.meter import CpuMeter
from tkbc.models import MODELS, Batch, Model
from tkbc.ranking import fitting, rivals
from tkbc.ranking import rules as mining
from tkbc.ranking.evaluation import count_rivals
from tkbc.ranking.fitting import RIDGE, SCALES, fit
from tkbc.ranking.prediction import Question, predict
from tkbc.ranking.rules import Rules
from tkbc.ranking.weights import FittedRules, RuleWeights, read_weights
from tkbc.scoring import make_score
from tkbc.scoring.reference import FORMULAS

# Few entities and many facts over many days: pairs with several facts, near and far, are the rule.
SHAPE = Shape(n_entities=7, n_relations=3, n_timestamps=60, n_facts=400)
GAPS = [{0}, {1}, {2, 3}, set(range(4, 8)), set(range(8, 16)), set(range(16, 32))]


def graph_of(*, intervals: bool = False, no_time: bool = False) -> Dataset:
    graph = random_graph(SHAPE.model_copy(update={"intervals": intervals}), n_valid=30, n_test=25)
    return replace(graph, timestamps=(*graph.timestamps[:-1], NO_TIME)) if no_time else graph


def events_of(graph: Dataset) -> list[tuple[int, ...]]:
    """Training facts and their reciprocals with begin and end, without those that have no time."""
    found = [
        (h, r, t, when[0], when[-1]) for h, r, t, *when in with_reciprocals(graph.train, SHAPE.n_relations).tolist()
    ]
    return [event for event in found if not (graph.has_no_time and event[3] == SHAPE.n_timestamps - 1)]


def class_between(one: tuple[int, int], other: tuple[int, int]) -> int | None:
    gap = max(0, one[0] - other[1], other[0] - one[1])
    return next((at for at, gaps in enumerate(GAPS) if gap in gaps), None)


def naive_confidences(graph: Dataset) -> dict[tuple[int, int, int], float]:
    events = events_of(graph)
    counts: Counter[tuple[int, int, int]] = Counter()
    for (i, a), (j, b) in product(enumerate(events), enumerate(events)):
        if i != j and (a[0], a[2]) == (b[0], b[2]):
            gap = class_between((a[3], a[4]), (b[3], b[4]))
            if gap is not None:
                counts[gap, a[1], b[1]] += 1
    n_facts = Counter(event[1] for event in events)
    return {key: count / (n_facts[key[1]] + 20) for key, count in counts.items()}


def naive_features(
    graph: Dataset, confidence: dict[tuple[int, int, int], float], query: tuple[int, int, int]
) -> dict[int, list[float]]:
    """The features of every candidate of (head, relation, ?, time) that has evidence."""
    head, relation, time = query
    said: dict[int, list[float]] = defaultdict(lambda: [0.0] * 6)
    same: dict[int, list[float]] = defaultdict(lambda: [0.0] * 6)
    for h, r, t, begin, end in events_of(graph):
        gap = class_between((begin, end), (time, time)) if h == head else None
        if gap is not None and not (graph.has_no_time and time == SHAPE.n_timestamps - 1):
            said[t][gap] += confidence.get((gap, r, relation), 0.0)
            same[t][gap] += r == relation
    return {
        t: [*(math.log(1 + 100 * x) for x in said[t]), *(math.log(1 + x) for x in same[t]),
            math.log(1 + 100 * sum(said[t])), 1.0]
        for t in said
    }  # fmt: skip


@pytest.mark.parametrize(("intervals", "no_time"), [(False, False), (False, True), (True, False)])
def test_confidences_are_those_of_a_loop_over_all_pairs(intervals: bool, no_time: bool) -> None:
    graph = graph_of(intervals=intervals, no_time=no_time)
    rules = Rules.of(graph)
    codes = {(g, a, b): (g * 6 + a) * 6 + b for g, a, b in product(range(6), range(6), range(6))}
    expected = {codes[key]: value for key, value in naive_confidences(graph).items()}
    assert rules.codes.tolist() == sorted(expected)
    assert rules.confidences == pytest.approx([expected[code] for code in sorted(expected)])


@pytest.mark.parametrize("piece", [1, 50, 2**22])
@pytest.mark.parametrize(("intervals", "no_time"), [(False, False), (False, True), (True, False)])
def test_evidence_is_that_of_a_loop_over_facts(
    monkeypatch: pytest.MonkeyPatch, piece: int, intervals: bool, no_time: bool
) -> None:
    monkeypatch.setattr(mining, "LARGEST_PIECE", piece)
    graph = graph_of(intervals=intervals, no_time=no_time)
    queries = with_reciprocals(graph.queries("test"), SHAPE.n_relations)
    found = Rules.of(graph).evidence(queries)
    confidence = naive_confidences(graph)
    expected = [
        (row, tail, features)
        for row, (h, r, _, time) in enumerate(queries.tolist())
        for tail, features in sorted(naive_features(graph, confidence, (h, r, time)).items())
    ]
    assert list(zip(found.row.tolist(), found.tail.tolist(), strict=True)) == [pair[:2] for pair in expected]
    assert found.features == pytest.approx(np.array([features for *_, features in expected]))


@pytest.mark.parametrize("intervals", [False, True])
def test_the_strongest_fact_is_the_most_confident_near_one(intervals: bool) -> None:
    graph = graph_of(intervals=intervals)
    graph = replace(graph, train=graph.train[::7])  # few enough that some answers have no fact near
    rules, confidence = Rules.of(graph), naive_confidences(graph)
    answers = set()
    for head, relation, _, time in with_reciprocals(graph.queries("test"), SHAPE.n_relations).tolist():
        for tail in range(SHAPE.n_entities):
            found = rules.strongest(head, relation, tail, time)
            said = [
                confidence.get((gap, r, relation), 0.0)
                for h, r, t, begin, end in events_of(graph)
                if (h, t) == (head, tail) and (gap := class_between((begin, end), (time, time))) is not None
            ]
            answers.add(found is None)
            if found is None:
                assert max(said, default=0.0) == 0.0
            else:
                assert found.confidence == pytest.approx(max(said))
                assert (head, found.relation, tail, found.begin, found.end) in events_of(graph)
    assert answers == {True, False}


def test_a_graph_whose_facts_have_no_time_has_no_rules() -> None:
    graph = random_graph(SHAPE.model_copy(update={"n_timestamps": 1}))
    rules = Rules.of(replace(graph, timestamps=(NO_TIME,)))
    assert len(rules.codes) == 0
    assert rules.evidence(graph.queries("test")).features.shape == (0, 14)


def model_and_scores(graph: Dataset, name: ModelName, queries: np.ndarray) -> tuple[Model, torch.Tensor]:
    """A model whose scores are whole numbers, exact in float32, and all of them in float64."""
    model = MODELS[name](build_workload(graph.shape, model=name, rank=2, rules=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=torch.Generator().manual_seed(4)))
        query = model.encode(Batch(*torch.from_numpy(queries.T.copy()))).query
        return model, FORMULAS[model.workload.score](query, model.entity).double()


def dense(rules: Rules, queries: np.ndarray) -> torch.Tensor:
    """The features of all candidates, (b, N, 14); 0 where there is no evidence."""
    evidence = rules.evidence(queries)
    found = torch.zeros((len(queries), SHAPE.n_entities, 14), dtype=torch.float64)
    found[evidence.row, evidence.tail] = torch.from_numpy(evidence.features)
    return found


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize(("batch", "chunk"), [(60, 7), (11, 3), (60, 1)])
def test_the_weights_are_the_likeliest(name: ModelName, batch: int, chunk: int) -> None:
    """Loss and gradient of the whole softmax in float64 at the found weights, and no other scale's is lower."""
    graph = graph_of()
    queries = with_reciprocals(graph.valid, SHAPE.n_relations)
    model, scores = model_and_scores(graph, name, queries)
    rules = Rules.of(graph)
    x = dense(rules, queries)
    row, tail = graph.filter_index.lookup(queries)
    others = tail != queries[row, 2]
    x[row[others], tail[others]] = 0.0  # other true answers are asked nothing
    sizes = {"eval_batch_size": batch, "eval_chunk_size": chunk}
    workload = model.workload.model_copy(update=sizes)
    found = fit(model, make_score(workload.score, "fused", "cpu", 1), rules, graph.valid, graph.filter_index, workload)
    assert found.n_queries == len(queries)
    labels = torch.from_numpy(queries[:, 2]).long()

    def loss(theta: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(scale * scores + x @ theta, labels)

    theta = torch.tensor(found.weights, dtype=torch.float64, requires_grad=True)
    assert loss(theta, found.scale).item() == pytest.approx(found.loss, rel=1e-5)
    total = loss(theta, found.scale) + RIDGE * theta.square().sum()
    (gradient,) = torch.autograd.grad(total, theta)
    assert gradient.abs().max() < 1e-4
    zero = torch.zeros(14, dtype=torch.float64)
    assert found.loss_alone == pytest.approx(min(loss(zero, scale).item() for scale in SCALES), rel=1e-5)
    assert found.loss < found.loss_alone
    nearby = [scale for scale in SCALES if scale != found.scale]
    assert all(loss(theta.detach(), scale) > found.loss - 0.02 for scale in nearby)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("batch", "chunk", "piece"), [(60, 7, 8192), (11, 3, 5), (60, 1, 1)])
def test_ranks_are_those_of_raised_scores(
    monkeypatch: pytest.MonkeyPatch, name: ModelName, scoring: Scoring, batch: int, chunk: int, piece: int
) -> None:
    """Whole numbers are added for candidates whose facts are of a day before or after, so that many scores tie."""
    monkeypatch.setattr(rivals, "PIECE", piece)
    graph = graph_of()
    queries = with_reciprocals(graph.test, SHAPE.n_relations)
    model, scores = model_and_scores(graph, name, queries)
    rules = Rules.of(graph)
    once = 1 / math.log(2)
    weights = RuleWeights(scale=0.5, weights=(*[0.0] * 7, once, *[0.0] * 6), n_queries=1, loss=1, loss_alone=1)
    row, tail, values = FittedRules(rules, weights).said(queries)
    raised = scores.float()
    raised[row, tail] += torch.from_numpy(values)
    everything = {
        tuple(f) for split in SPLITS for f in with_reciprocals(graph.split(split), SHAPE.n_relations).tolist()
    }
    expected = []
    for row, (h, r, t, time) in zip(raised.tolist(), queries.tolist(), strict=True):
        open_ = [e for e in range(SHAPE.n_entities) if e != t and (h, r, e, time) not in everything]
        expected.append((sum(row[e] > row[t] for e in open_), sum(row[e] == row[t] for e in open_)))
    chunk = SHAPE.n_entities if scoring == "materialized" else chunk
    workload = model.workload.model_copy(
        update={"scoring": scoring, "chunk_size": chunk, "eval_batch_size": batch, "eval_chunk_size": chunk}
    )
    score = make_score(workload.score, scoring, "cpu", 1)
    fitted = FittedRules(rules, weights)
    found = count_rivals(model, score, graph.test, graph.filter_index, workload, fitted=fitted)
    assert np.array_equal(np.array(expected, dtype=float).T, found)
    without = count_rivals(model, score, graph.test, graph.filter_index, workload)
    assert not np.array_equal(without.higher, found.higher)


def test_predictions_go_by_raised_scores() -> None:
    graph = graph_of()
    h, r, _, time = graph.test[0].tolist()
    queries = np.array([[h, r, 0, time]], dtype=np.int32)
    model, scores = model_and_scores(graph, "TNTPairRE", queries)
    rules = Rules.of(graph)
    weights = RuleWeights(scale=0.7, weights=(0.5,) * 14, n_queries=1, loss=1, loss_alone=1)
    found = predict(model, graph, Question(h, r, time, asks_tail=True), 7, FittedRules(rules, weights))
    raised = scores[0] + dense(rules, queries)[0].sum(1) * 0.5 / 0.7
    assert [answer.score for answer in found] == pytest.approx(sorted(raised.tolist(), reverse=True), rel=1e-6)
    likely = {answer.entity: answer.probability for answer in found}
    assert [likely[e] for e in range(7)] == pytest.approx(torch.softmax(0.7 * raised, 0).tolist(), rel=1e-5)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("batch", "chunk"), [(50, 300), (7, 300), (50, 11), (1, 64)])
def test_memory_is_that_planned_for_ranking(scoring: Scoring, batch: int, chunk: int) -> None:
    """By PyTorch's own allocations: ranking with rules to the byte; fitting takes no more."""
    shape = Shape(n_entities=300, n_relations=2, n_timestamps=40, n_facts=200)
    chunk = shape.n_entities if scoring == "materialized" else chunk
    sizes = {"chunk_size": chunk, "eval_batch_size": batch, "eval_chunk_size": chunk}
    workload = build_workload(shape, model="TNTPairRE", rank=6, batch_size=16, scoring=scoring, rules=True, **sizes)
    graph = random_graph(shape, n_valid=60, n_test=50)
    model = MODELS["TNTPairRE"](workload)
    score, rules, known = make_score("l1", scoring, "cpu", 1), Rules.of(graph), graph.filter_index
    meter = CpuMeter()
    with meter.recording(list(model.parameters())):
        with meter.phase("fitting"):
            weights = fit(model, score, rules, graph.valid, known, workload)
        with meter.phase("ranking"):
            count_rivals(model, score, graph.test, known, workload, fitted=FittedRules(rules, weights))
    own = sum(4 * p.numel() for p in model.parameters())
    others = estimate(workload)
    planned = next(phase.peak_bytes for phase in others.phases if phase.name == "evaluation")
    set_up = next(phase.peak_bytes for phase in others.phases if phase.name == "setup")
    fitting_bytes, ranking = (meter.peaks[phase].requested_bytes - own for phase in ("fitting", "ranking"))
    assert ranking == planned - set_up
    assert fitting_bytes <= ranking


def test_scores_that_are_no_numbers_are_an_error() -> None:
    graph = graph_of()
    model, _ = model_and_scores(graph, "TNTPairRE", with_reciprocals(graph.valid, SHAPE.n_relations))
    model.entity[2] = math.nan
    with pytest.raises(NotFiniteError, match="not finite"):
        fit(model, make_score("l1", "fused", "cpu", 1), Rules.of(graph), graph.valid, graph.filter_index,
            model.workload)  # fmt: skip


def test_no_more_queries_and_pairs_than_are_needed_are_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of()
    model, _ = model_and_scores(graph, "TNTPairRE", with_reciprocals(graph.valid, SHAPE.n_relations))
    workload = model.workload.model_copy(update={"eval_batch_size": 5})

    def n_queries() -> int:
        score = make_score("l1", "fused", "cpu", 1)
        return fit(model, score, Rules.of(graph), graph.valid, graph.filter_index, workload).n_queries

    monkeypatch.setattr(fitting, "MOST_QUERIES", 23)
    assert n_queries() == 23
    monkeypatch.setattr(fitting, "MOST_PAIRS", 10)
    assert n_queries() == 5


def test_weights_that_cannot_be_read_are_an_error_with_the_way_out(tmp_path: Path) -> None:
    assert read_weights(tmp_path) is None
    weights = RuleWeights(scale=0.7, weights=tuple(range(14)), n_queries=3, loss=1.5, loss_alone=2)
    (tmp_path / "rules.json").write_text(weights.model_dump_json())
    assert read_weights(tmp_path) == weights
    (tmp_path / "rules.json").write_text('{"scale": 1, "weights": [1, 2]}')
    with pytest.raises(MemplanError, match=r"rules\.json: cannot be read"):
        read_weights(tmp_path)
