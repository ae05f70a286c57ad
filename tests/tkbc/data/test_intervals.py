"""Facts that hold over intervals: the filter by overlap, ranks and known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memplan.catalog.folders import SPLITS
from memplan.workload import ModelName, Score, Scoring, build_workload
from tests.conftest import random_graph
from tests.support.intervals import SHAPE, TIMED
from tests.support.models_cases import SCORED
from tkbc.data import Dataset
from tkbc.data.dataset import index_of, with_reciprocals
from tkbc.data.intervals import IntervalIndex
from tkbc.data.reading import read_folder
from tkbc.models import MODELS, Batch, Model
from tkbc.ranking.evaluation import count_rivals
from tkbc.ranking.prediction import Question, known_answers
from tkbc.scoring import make_score
from tkbc.scoring.reference import FORMULAS

pytestmark = pytest.mark.usefixtures("one_thread")


# Open at either end and at both, closed, points, overlapping and touching each other, one tail twice.
LINES = {
    "train": ["a r b 1990 2000", "a r c 1995 -", "a r d - 1992", "a r e 1995 1995", "a r b 1998 2005", "a r g - -"],
    "valid": ["a r f 1992 1998", "a r h 2000 2000", "b s a 1991 1995"],
    "test": ["a r i 1995 2001", "a r j - 1995", "a r k 2005 -", "b s c 1995 1995", "b s d - -", "c r b 2001 2005"],
}


def write_years(folder: Path, lines: dict[str, list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, facts in lines.items():
        rows = []
        for fact in facts:
            *triple, begin, end = fact.split()
            rows.append("\t".join([*triple, *(f"{'####' if year == '-' else year}-##-##" for year in (begin, end))]))
        (folder / split).write_text("\n".join(rows), encoding="utf-8")
    return folder


def true_tails(head: str, relation: str, year: int) -> set[str]:
    """The tails that the lines say to be true in a year, read straight from them; a relation ending in ~ is turned."""
    found = set()
    for fact in (fact for split in LINES.values() for fact in split):
        h, r, t, begin, end = fact.split()
        if relation.endswith("~"):
            h, r, t = t, f"{r}~", h
        begun, ended = begin == "-" or int(begin) <= year, end != "-" and int(end) < year
        if (h, r) == (head, relation) and begun and not ended:
            found.add(t)
    return found


def test_the_filter_equals_a_naive_reference_with_open_closed_point_and_overlapping_facts(tmp_path: Path) -> None:
    graph = read_folder(write_years(tmp_path / "graph", LINES), "small")
    relations = [*graph.relations, *(f"{name}~" for name in graph.relations)]
    asked = [
        (head, relation, year)
        for head in graph.entities
        for relation in relations
        for year in map(int, graph.timestamps)
    ]
    queries = np.array(
        [
            (graph.entities.index(head), relations.index(relation), 0, graph.timestamps.index(str(year)))
            for head, relation, year in asked
        ],
        dtype=np.int32,
    )
    row, tail = graph.filter_index.lookup(queries)
    found: list[set[str]] = [set() for _ in asked]
    for i, t in zip(row, tail, strict=True):
        assert graph.entities[t] not in found[i], "a tail twice"
        found[i].add(graph.entities[t])
    assert found == [true_tails(*query) for query in asked]
    at_1995 = found[asked.index(("a", "r", 1995))]
    assert at_1995 == {"b", "c", "e", "f", "g", "i", "j"}, "facts that end, begin or lie on the date included"
    assert found[asked.index(("a", "r", 2005))] == {"b", "c", "g", "k"}


@given(data=st.data())
def test_the_filter_equals_a_naive_reference_on_any_facts(data: st.DataObject) -> None:
    n_times = data.draw(st.integers(1, 6))
    fact = st.tuples(*(st.integers(0, n) for n in (3, 1, 3, n_times - 1, n_times - 1)))
    facts = np.array(data.draw(st.lists(fact, min_size=1, max_size=40)), dtype=np.int32)
    facts[:, 3:].sort(axis=1)
    query = st.tuples(*(st.integers(0, n) for n in (5, 2, 5, n_times + 1)))
    queries = np.array(data.draw(st.lists(query, max_size=20)), dtype=np.int32).reshape(-1, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tkbc.data.intervals.LARGEST_PIECE", data.draw(st.sampled_from([1, 5, 2**22])))
        row, tail = IntervalIndex.build(facts, 2).lookup(queries)
    expected = [
        (i, t)
        for i, (h, r, _, time) in enumerate(queries)
        for t in sorted({t for h_, r_, t, begin, end in facts if (h_, r_) == (h, r) and begin <= time <= end})
        if r < 2
    ]
    in_range = queries[row, 1] < 2  # relation 2 does not exist: its key is the next head's
    assert sorted(zip(row[in_range].tolist(), tail[in_range].tolist(), strict=True)) == expected
    assert (np.diff(row) >= 0).all()


def naive_rivals(model: Model, graph: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """How many score higher and how many tie, each query on its own, the filter found by walking over all facts."""
    n_relations = len(graph.relations)
    everything = [fact for split in SPLITS for fact in with_reciprocals(graph.split(split), n_relations).tolist()]
    counts = []
    for h, r, t, time in with_reciprocals(graph.queries("test"), n_relations).tolist():
        ids = (torch.tensor([i], dtype=torch.int32) for i in (h, r, t, time))
        with torch.no_grad():
            scores = FORMULAS[model.workload.score](model.encode(Batch(*ids)).query, model.entity)[0]
        others = {t_ for h_, r_, t_, begin, end in everything if (h_, r_) == (h, r) and begin <= time <= end} - {t}
        rivals = [e for e in range(len(graph.entities)) if e != t and e not in others]
        counts.append((sum(scores[e] > scores[t] for e in rivals), sum(scores[e] == scores[t] for e in rivals)))
    return np.array(counts, dtype=float).T


@pytest.mark.parametrize(("name", "score"), SCORED)
@pytest.mark.parametrize(
    ("scoring", "batch", "chunk"), [("fused", 100, 23), ("chunked", 7, 5), ("materialized", 3, 23)]
)
def test_ranks_equal_the_naive_reference(
    name: ModelName, score: Score, scoring: Scoring, batch: int, chunk: int
) -> None:
    graph = random_graph(SHAPE, n_test=25)
    shape = SHAPE.model_copy(update={"intervals": (name, score) in TIMED})
    sizes = {"chunk_size": chunk, "eval_batch_size": batch, "eval_chunk_size": chunk}
    workload = build_workload(shape, model=name, rank=2, score=score, scoring=scoring, **sizes)
    model = MODELS[name](workload)
    with torch.no_grad():
        for parameter in model.parameters():  # whole numbers: scores are exact, and many of them tie
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=torch.Generator().manual_seed(4)))
    kernel = make_score(score, scoring, "cpu", 1)
    found = count_rivals(model, kernel, graph.queries("test"), graph.filter_index, workload)
    assert np.array_equal(found, naive_rivals(model, graph))


def test_a_graph_of_long_intervals_is_stored_once_a_fact() -> None:
    """A hundred thousand facts over all of 10,000 timestamps: expanded they would be a billion."""
    n = 100_000
    facts = np.stack([np.arange(n) % 50, np.zeros(n), np.arange(n) % 997, np.zeros(n), np.full(n, 9_999)], axis=1)
    index = index_of(facts.astype(np.int32), 1)
    assert isinstance(index, IntervalIndex)
    assert sum(array.nbytes for array in (index.groups, index.begins, index.ends, index.tails)) < 5e6
    row, _ = index.lookup(np.array([[3, 0, 0, 5_000]], dtype=np.int32))
    assert len(row) == len({i % 997 for i in range(3, n, 50)})


def test_known_answers_hold_at_the_question_s_time() -> None:
    """Open, closed, point and overlapping facts; of those that do not hold, the end nearer to the question."""
    names = (("a", "b", "c", "d"), ("r",), tuple("0123456"))
    train = np.array([[0, 0, 1, 2, 4], [0, 0, 1, 4, 5], [0, 0, 2, 0, 6], [0, 0, 3, 3, 3], [1, 0, 3, 0, 6]], np.int32)
    test = np.array([[0, 0, 3, 5, 6], [0, 0, 1, 0, 0]], np.int32)
    graph = Dataset("small", *names, train, test[:1], test)
    every_fact = {"train": train.tolist(), "valid": test[:1].tolist(), "test": test.tolist()}
    for time in range(7):
        splits: dict[int, list[str]] = {}
        others: dict[int, set[int]] = {}
        for split, facts in every_fact.items():
            for head, _, tail, begin, end in facts:
                if head == 0 and begin <= time <= end:
                    splits.setdefault(tail, [])
                    splits[tail] += [split] if split not in splits[tail] else []
                elif head == 0:
                    others.setdefault(tail, set()).add(min(begin, end, key=lambda t: abs(t - time)))
        known = known_answers(graph, Question(0, 0, time, asks_tail=True))
        assert known.keys() == splits.keys() | others.keys()
        for tail, found in known.items():
            assert list(found.splits) == splits.get(tail, [])
            assert list(found.other_times) == sorted(others.get(tail, ()))
