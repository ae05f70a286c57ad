"""Answers, neighbours and exports of small trained runs, against naive formulas in float64 and the raw files."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.unfair import mrr_by_bias
from memplan.errors import MemplanError, UsageError
from memplan.workload import ModelName, Precision, Score, build_workload
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke, read_json
from tests.support.slow import mostly_slow
from tests.support.training import SHAPE, make_plan
from tests.support.using import Trained, train_one
from tkbc import load
from tkbc.data import load_dataset
from tkbc.data.dataset import NO_TIME
from tkbc.models import Batch
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import TrainSettings, train
from tkbc.use.names import find_name, find_time, moments
from tkbc.use.trained import load_trained

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS: list[tuple[ModelName, Score]] = [
    ("TNTPairRE", "l1"),
    ("TPairRE", "l2"),
    ("PairRE", "dot"),
    ("TNTComplEx", "dot"),
    ("TComplEx", "dot"),
    ("ComplEx", "dot"),
]
# Entities whose names stand in the way of sloppy matching, printing and reading.


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_one(tmp_path_factory.mktemp("using"), *request.param)


def naive_scores(trained: Trained, entity: int, relation: int, time: int) -> np.ndarray:
    """The score of every entity after (entity, relation, ?, time), from the papers' formulas."""
    tables = trained.tables
    if trained.score == "dot" and "relation" in tables:
        half = tables["entity"].shape[1] // 2
        of = {name: table[:, :half] + 1j * table[:, half:] for name, table in tables.items()}
        rho = of["relation"][relation]
        if "time" in of:
            rho = rho * of["time"][time]
        if "relation_static" in of:
            rho = rho + of["relation_static"][relation]
        return np.real((of["entity"][entity] * rho) @ np.conj(of["entity"]).T)
    vectors = []
    for side in ("relation_head", "relation_tail"):
        vector = np.zeros(tables["entity"].shape[1])
        if side in tables:
            vector = vector + tables[side][relation]
        if f"{side}_temporal" in tables:
            vector = vector + tables[f"{side}_temporal"][relation] * tables["time"][time]
        vectors.append(vector)
    ours, theirs = tables["entity"][entity] * vectors[0], tables["entity"] * vectors[1]
    if trained.score == "dot":
        return theirs @ ours
    distances = np.abs(ours - theirs)
    return -(distances if trained.score == "l1" else distances**2).sum(1)


def raw_facts(data: Path) -> dict[tuple[str, str, str], dict[str, set[str]]]:
    """Time → splits of each (head, relation, tail), from the files."""
    found: dict[tuple[str, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split in ("train", "valid", "test"):
        for line in (data / split).read_text(encoding="utf-8").splitlines():
            head, relation, tail, time = line.split("\t")
            found[head, relation, tail][time].add(split)
    return found


@pytest.mark.parametrize("asked", ["tail", "head"])
def test_answers_are_those_of_the_naive_formula_and_known_ones_those_of_the_files(trained: Trained, asked: str) -> None:
    graph, given = trained.graph, "head" if asked == "tail" else "tail"
    head, relation, tail, time = graph.test[0]
    entity = head if asked == "tail" else tail
    name, when = graph.entities[entity], graph.timestamps[time]
    query = ["predict", str(trained.run), f"--{given}", name, "--relation", graph.relations[relation]]
    found = read_json(*query, "--time", when, "--top", "1000")
    assert (found[given], found[asked], found["time"]) == (name, None, when)
    answers = found["answers"]
    scores = naive_scores(trained, entity, relation + (SHAPE.n_relations if asked == "head" else 0), time)
    order = np.argsort(-scores)
    assert [answer["entity"] for answer in answers] == [graph.entities[e] for e in order]
    assert [answer["place"] for answer in answers] == list(range(1, SHAPE.n_entities + 1))
    assert [answer["score"] for answer in answers] == pytest.approx(scores[order], rel=1e-4, abs=1e-6)
    weights = np.exp(scores[order])
    assert [answer["probability"] for answer in answers] == pytest.approx(weights / weights.sum(), rel=1e-4)
    facts = raw_facts(trained.data)
    assert any(answer["known_in"] for answer in answers)
    for answer in answers:
        triple = (name, graph.relations[relation], answer["entity"])
        by_time = facts.get(triple if asked == "tail" else triple[::-1], {})
        assert set(answer["known_in"]) == by_time.get(when, set())
        others = sorted(set(by_time) - {when})
        assert answer["other_times"] == len(others)
        near = answer["nearest_other_time"]
        days = {other: abs(int(other[-2:]) - int(when[-2:])) for other in others}
        assert near is None if not others else days[near] == min(days.values())


def test_the_times_of_a_fact_are_scored_as_prediction_scores_it_at_each(trained: Trained) -> None:
    graph = trained.graph
    head, relation, tail, _ = graph.test[0]
    fact = [
        "predict", str(trained.run), "--head", graph.entities[head], "--relation", graph.relations[relation],
        "--tail", graph.entities[tail], "--when",
    ]  # fmt: skip
    if "time" not in trained.tables:
        fails(2, f"{trained.model} scores a fact alike at all times: ask a model that knows time", *fact)
        return
    found = read_json(*fact, "--top", "1000")
    assert (found["head"], found["tail"]) == (graph.entities[head], graph.entities[tail])
    scores = np.array([naive_scores(trained, head, relation, time)[tail] for time in range(len(graph.timestamps))])
    order = np.argsort(-scores)
    times = found["times"]
    assert [row["time"] for row in times] == [graph.timestamps[time] for time in order]
    assert [row["place"] for row in times] == list(range(1, len(order) + 1))
    assert [row["score"] for row in times] == pytest.approx(scores[order], rel=1e-4, abs=1e-6)
    weights = np.exp(scores[order])
    assert [row["probability"] for row in times] == pytest.approx(weights / weights.sum(), rel=1e-4)
    known = raw_facts(trained.data)[graph.entities[head], graph.relations[relation], graph.entities[tail]]
    assert {row["time"]: set(row["known_in"]) for row in times if row["known_in"]} == known
    likeliest = times[0]
    asked = ["--relation", graph.relations[relation], "--time", likeliest["time"], "--top", "1000"]
    answers = read_json("predict", str(trained.run), "--head", graph.entities[head], *asked)["answers"]
    (same,) = [answer for answer in answers if answer["entity"] == graph.entities[tail]]
    assert same["score"] == pytest.approx(likeliest["score"], rel=1e-6)


@pytest.mark.parametrize(("model", "score"), [("TPairRE", "dot"), ("ContinuousPairRE", "l1")])
def test_times_are_told_where_no_single_query_has_them_all(tmp_path: Path, model: ModelName, score: Score) -> None:
    """A dot score quadratic in time, and a time that is a number and no row."""
    trained = train_one(tmp_path, model, score, max_epochs=1)
    head, relation, tail, _ = trained.graph.train[0]
    names = trained.graph.entities
    loaded = load(trained.run)
    for moment in loaded.when(names[head], trained.graph.relations[relation], names[tail], top=3):
        answers = loaded.predict(
            head=names[head], relation=trained.graph.relations[relation], time=moment.time, top=len(names)
        )
        (same,) = [answer for answer in answers if answer.entity == names[tail]]
        assert moment.score == pytest.approx(same.score, rel=1e-6)
        assert moment.known_in == same.known_in
    question = ["predict", str(trained.run), "--head", names[head], "--relation", trained.graph.relations[relation]]
    fails(2, f"{model} answers for a time: add --time", *question)


def test_over_intervals_a_fact_is_known_at_every_time_of_them() -> None:
    from tkbc.data import Dataset
    from tkbc.ranking.times import known_times

    train = np.array([[0, 0, 1, 2, 4], [0, 0, 1, 7, 7], [1, 0, 0, 0, 9]], dtype=np.int32)
    test = np.array([[0, 0, 1, 4, 5], [0, 1, 1, 0, 9]], dtype=np.int32)
    data = Dataset("d", ("a", "b"), ("r", "s"), tuple(map(str, range(10))), train, test[1:], test)
    expected = {2: ("train",), 3: ("train",), 4: ("train", "test"), 5: ("test",), 7: ("train",)}
    assert known_times(data, 0, 0, 1) == expected


@pytest.mark.parametrize("precision", mostly_slow(["bf16", "fp16"]))
@pytest.mark.parametrize(("model", "score"), [("TNTPairRE", "l1"), ("TPairRE", "l2"), ("TNTComplEx", "dot")])
def test_a_run_in_half_precision_answers_and_ranks_in_it(
    tmp_path: Path, model: ModelName, score: Score, precision: Precision
) -> None:
    """As it was ranked when it was trained, and as a product of its rounded inputs in float64 has it."""
    trained = train_one(tmp_path, model, score, precision=precision, init_scale=0.7)
    reported = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    assert read_json("evaluate", str(trained.run))["both"] == reported[-1]["test"]["both"]
    head, relation, _, time = trained.graph.test[0]
    found = answers_by_name(trained, head, relation, time)
    names = trained.graph.entities
    rounded, whole = (expected_scores(trained, head, relation, time, p) for p in (precision, "fp32"))
    scores = np.array([found[name] for name in names])
    assert np.abs(scores - rounded).max() < 1e-5 < np.abs(whole - rounded).max()


def answers_by_name(trained: Trained, head: int, relation: int, time: int) -> dict[str, float]:
    """The score of every tail, as ``memplan predict`` tells it."""
    graph = trained.graph
    query = ["predict", str(trained.run), "--head", graph.entities[head], "--relation", graph.relations[relation]]
    found = read_json(*query, "--time", graph.timestamps[time], "--top", "1000")["answers"]
    return {answer["entity"]: answer["score"] for answer in found}


def expected_scores(trained: Trained, head: int, relation: int, time: int, precision: Precision) -> np.ndarray:
    """The score of every tail in float64, of a query and entities that are rounded to ``precision`` first."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    checkpoints = Checkpoints(trained.run / "checkpoint")
    _, state = checkpoints.newest()
    model = load_trained(checkpoints.folder / state.best.checkpoint, state.plan.workload)
    ids = (torch.tensor([int(i)], dtype=torch.int32) for i in (head, relation, 0, time))
    with torch.no_grad():
        query = [part.to(dtype).double() for part in model.encode(Batch(*ids)).query]
        entities = model.entity.to(dtype).double()
    if trained.score == "dot":
        return (query[0] @ entities.T)[0].numpy()
    distances = (query[0] - query[1] * entities).abs()
    return -(distances if trained.score == "l1" else distances**2).sum(1).numpy()


def test_only_models_with_time_need_one(trained: Trained) -> None:
    graph = trained.graph
    head, relation = graph.train[0, :2]
    query = ["predict", str(trained.run), "--head", graph.entities[head], "--relation", graph.relations[relation]]
    if "time" in trained.tables:
        fails(2, r"answers for a time: add --time, one of the 8 from '2014-05-01' to '2014-05-22'", *query)
        return
    found = read_json(*query, "--top", "1000")["answers"]
    scores = [answer["score"] for answer in found]
    assert scores == [answer["score"] for answer in read_json(*query, "--time", "2014-5-4", "--top", "1000")["answers"]]
    facts = raw_facts(trained.data)
    for answer in found:  # without a time, at any
        by_time = facts.get((graph.entities[head], graph.relations[relation], answer["entity"]), {})
        assert set(answer["known_in"]) == set().union(*by_time.values())
        assert answer["other_times"] == 0


def test_neighbours_are_those_of_the_naive_cosine(trained: Trained) -> None:
    tables = trained.tables
    n = SHAPE.n_relations
    joined = np.concatenate([table for name, table in sorted(tables.items()) if "relation" in name], axis=1)[:n]
    rows = {"entity": (tables["entity"], trained.graph.entities), "relation": (joined, trained.graph.relations)}
    if "time" in tables:
        rows["time"] = (tables["time"], trained.graph.timestamps)
    else:
        fails(2, f"--of time: {trained.model} has no", "nearest", str(trained.run), "2014-05-04", "--of", "time")
    for of, (table, names) in rows.items():
        found = read_json("nearest", str(trained.run), names[2], "--of", of, "--top", "1000")["nearest"]
        cosines = table @ table[2] / np.linalg.norm(table, axis=1) / np.linalg.norm(table[2])
        order = [i for i in np.argsort(-cosines) if i != 2]
        assert [row[of] for row in found] == [names[i] for i in order]
        assert [row["cosine"] for row in found] == pytest.approx(cosines[order], abs=1e-5)


def labels_by_table(trained: Trained) -> dict[str, list[str]]:
    graph = trained.graph
    both = [*graph.relations, *(f"{name} (reciprocal)" for name in graph.relations)]
    own = {"entity": list(graph.entities), "time": list(graph.timestamps)}
    return {name: own.get(name, both) for name in trained.tables}


def test_an_npz_export_gives_every_table_and_label_back(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "tables.npz"
    result = invoke("export", str(trained.run), str(file))
    assert result.exit_code == 0, result.output
    assert "entity (60 rows)" in result.stdout
    with np.load(file, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        assert about["tables"].keys() == trained.tables.keys()
        for name, table in trained.tables.items():
            assert found[name].dtype == np.float32
            assert np.array_equal(found[name], table)
            assert json.loads(found[about["tables"][name]].tobytes()) == labels_by_table(trained)[name]
    complex_rows = about["row"] == "5 real parts, then 5 imaginary parts"
    assert complex_rows == ("ComplEx" in trained.model)
    assert [path.name for path in tmp_path.iterdir()] == ["tables.npz"]


def test_an_npz_export_is_as_large_as_its_names_and_keeps_every_character(tmp_path: Path) -> None:
    """A name of 60,000 characters among short ones, and names that end in NUL, which NumPy's own text drops."""
    graph = random_graph(SHAPE)
    strange = ("x" * 60_000, "nul\0", "two\0\0", "\0", " ", "日本", '"quoted"', "back\\slash", "\u2028", "\U0001f600")
    named = replace(graph, entities=(*strange, *graph.entities[len(strange) :]))
    data = write_folder(tmp_path / "data", named)
    loaded = load_dataset(str(data))
    assert set(strange) - {" "} <= set(loaded.entities)
    plan = make_plan(loaded, rank=5)
    train(plan, loaded, TrainSettings(learning_rate=0.1, max_epochs=1), tmp_path / "run")
    file = tmp_path / "tables.npz"
    result = invoke("export", str(tmp_path / "run"), str(file))
    assert result.exit_code == 0, result.output
    assert file.stat().st_size < 60_000 + 20_000
    with np.load(file, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        for name, labels in (("entity", loaded.entities), ("time", loaded.timestamps)):
            assert json.loads(found[about["tables"][name]].tobytes()) == list(labels)


def test_a_parquet_export_gives_every_table_and_label_back(trained: Trained, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "tables.parquet"
    assert invoke("export", str(trained.run), str(file)).exit_code == 0
    found = parquet.read_table(file)
    assert found.column_names == ["table", "id", "label", "embedding"]
    assert json.loads(found.schema.metadata[b"about"])["model"] == trained.model
    rows = found.to_pylist()
    for name, table in trained.tables.items():
        own = [row for row in rows if row["table"] == name]
        assert [row["id"] for row in own] == list(range(len(table)))
        assert [row["label"] for row in own] == labels_by_table(trained)[name]
        assert np.array_equal([row["embedding"] for row in own], table)
    assert len(rows) == sum(len(table) for table in trained.tables.values())


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_one(tmp_path_factory.mktemp("one"), "TNTPairRE", "l1")


def test_tables_for_a_reader_name_the_question_and_what_is_known(one: Trained) -> None:
    head, relation, tail, time = one.graph.valid[0]
    names = one.graph.entities
    result = invoke(
        "predict", str(one.run), "--tail", names[tail], "--relation", one.graph.relations[relation].upper(),
        "--time", one.graph.timestamps[time], "--top", "60",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    asked = ["?", one.graph.relations[relation], names[tail], one.graph.timestamps[time]]
    assert lines[0].split("  ") == asked
    (line,) = [line for line in lines[3:] if line[3:].strip().startswith(f"{names[head]}  ")]
    assert "valid" in line
    assert sum("%" in line for line in lines) == 60
    shown = invoke("nearest", str(one.run), "iran", "--top", "3").stdout.splitlines()
    assert shown[0] == "Iran"
    assert len(shown) == 6


def test_evaluate_by_relation_and_time_groups_what_the_run_reported(one: Trained) -> None:
    """As many queries as the test split holds, the metrics of relations as training kept them."""
    found = read_json("evaluate", str(one.run), "--by", "relation")
    kept = json.loads((one.run / "metrics.jsonl").read_text().splitlines()[-1])["by_relation"]
    assert [group["relation"] for group in found["groups"]] == [row["relation"] for row in kept]
    for group, row in zip(found["groups"], kept, strict=True):
        assert group["n_queries"] == 2 * row["n_facts"]
        assert all(group[name] == row[name] for name in ("mrr", "hits_at_1", "hits_at_3", "hits_at_10"))
        low, high = group["mrr_interval"]
        assert low < group["mrr"] < high
    by_time = read_json("evaluate", str(one.run), "--by", "time")
    counts = Counter(one.graph.timestamps[time] for time in one.graph.test[:, 3])
    assert {group["time"]: group["n_queries"] for group in by_time["groups"]} == {t: 2 * n for t, n in counts.items()}
    weighted = sum(group["n_queries"] * group["mrr"] for group in by_time["groups"])
    assert weighted / found["n_queries"] == pytest.approx(found["both"]["mrr"])
    (kind,) = read_json("evaluate", str(one.run), "--by", "kind")["groups"]
    assert (kind["kind"], kind["n_queries"]) == ("one time", 100)
    assert kind["mrr"] == pytest.approx(found["both"]["mrr"])
    assert kind["average_precision_of_times"] == pytest.approx(found["times"]["average_precision"])
    shown = invoke("evaluate", str(one.run), "--by", "relation", "--top", "2").stdout.splitlines()
    assert [line.split()[0] for line in shown[-3:-1]] == [row["relation"] for row in kept[:2]]
    rest = sum(2 * row["n_facts"] for row in kept[2:])
    assert shown[-1] == f"{len(kept) - 2} more with {rest} queries: --top {len(kept)}"


def test_evaluate_tells_how_well_times_are_found_where_the_model_has_a_query_for_them(trained: Trained) -> None:
    """The mean of 1 / place of each test fact's time in what ``predict --when`` lists; equal scores do not occur."""
    found = read_json("evaluate", str(trained.run))["times"]
    shown = invoke("evaluate", str(trained.run)).stdout
    if not build_workload(SHAPE, model=trained.model, score=trained.score).can_predict_time:
        assert found is None
        groups = read_json("evaluate", str(trained.run), "--by", "time")["groups"]
        assert {group["average_precision_of_times"] for group in groups} == {None}
        assert "average precision" not in shown
        return
    loaded, graph, places = load(trained.run), trained.graph, []
    for head, relation, tail, time in graph.test.tolist():
        moments = loaded.when(graph.entities[head], graph.relations[relation], graph.entities[tail], top=100)
        (place,) = [moment.place for moment in moments if moment.time == graph.timestamps[time]]
        places.append(place)
    assert found["average_precision"] == pytest.approx(np.mean(1 / np.array(places)))
    groups = read_json("evaluate", str(trained.run), "--by", "time")["groups"]
    for group in groups:
        own = [
            1 / place
            for place, fact in zip(places, graph.test, strict=True)
            if graph.timestamps[fact[3]] == group["time"]
        ]
        assert group["average_precision_of_times"] == pytest.approx(np.mean(own))
    assert (found["n_facts"], found["n_timestamps"]) == (len(graph.test), len(graph.timestamps))
    low, high = found["interval"]
    assert low < found["average_precision"] < high
    line = f"average precision of times {found['average_precision']:.4f}, {low:.4f}–{high:.4f} (facts 50, times 8)"
    assert line in shown.splitlines()


def test_a_term_that_only_the_target_has_is_what_raises_the_mrr(one: Trained) -> None:
    """The check of docs/results.md: without the term it is the run's own MRR, with more of it the MRR only grows."""
    loaded = load(one.run)
    without, *with_it = mrr_by_bias(loaded.model, loaded.data, "test")
    assert without == pytest.approx(read_json("evaluate", str(one.run))["both"]["mrr"], rel=1e-6)
    assert [without, *with_it] == sorted([without, *with_it])
    assert with_it[-1] > 2 * without


def test_mistakes_are_told_in_one_line_with_the_way_out(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = str(one.run), ["--relation", "r1", "--time", "2014-05-04"]
    fails(2, "say one of --head and --tail", "predict", run, *asked)
    fails(2, "say one of --head and --tail", "predict", run, *asked, "--head", "e9", "--tail", "e9")
    fails(2, "of both, --when asks for the time", "predict", run, *asked, "--head", "e9", "--tail", "e9")
    fails(2, "say --head, --relation and --tail, and no --time", "predict", run, *asked, "--head", "e9", "--when")
    fails(2, r"no entity 'Irann'; did you mean 'Iran'", "predict", run, *asked, "--head", "Irann")
    fails(2, "'south korea': could be 'South Korea' or 'South_Korea'", "nearest", run, "south korea")
    fails(2, r"no relation 'x9'|no relation 'xyz' among 4", "nearest", run, "xyz", "--of", "relation")
    late = ["predict", run, "--head", "e9", "--relation", "r1", "--time"]
    fails(2, r"among the 8 from 2014-05-01 to 2014-05-22; the nearest: 2014-05-22$", *late, "2015-01-01")
    fails(2, r"the nearest: 2014-05-04 and 2014-05-07$", *late, "2014-05-06")
    fails(2, "--of 'tail': entity, relation or time", "nearest", run, "e9", "--of", "tail")
    fails(1, "no such run; memplan runs", "predict", str(tmp_path / "absent"), *asked, "--head", "e9")
    fails(2, r"tables\.csv: an export ends in \.npz or \.parquet", "export", run, str(tmp_path / "tables.csv"))
    fails(1, r"tables\.npz: cannot be written: No such file", "export", run, str(tmp_path / "no" / "tables.npz"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(
        1, r"Parquet needs pyarrow: pip install 'memplan-tkbc\[parquet\]'", "export", run, str(tmp_path / "t.parquet")
    )
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_a_file_only_when_told_and_only_by_a_whole_one(
    one: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tables.npz"
    file.write_text("mine", encoding="utf-8")
    fails(1, r"there is a file already; write over it with --force", "export", str(one.run), str(file))

    def full_disk(opened: Any, **_: Any) -> None:
        opened.write(b"half a file")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        fails(1, "cannot be written: No space left on device", "export", str(one.run), str(file), "--force")
    assert file.read_text(encoding="utf-8") == "mine"
    assert invoke("export", str(one.run), str(file), "--force").exit_code == 0
    with np.load(file, allow_pickle=False) as found:
        assert found["entity"].shape == (60, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["tables.npz"]


def test_data_that_changed_since_are_refused(tmp_path: Path) -> None:
    trained = train_one(tmp_path, "ComplEx", "dot", max_epochs=1)
    with (trained.data / "test").open("a", encoding="utf-8") as file:
        file.write("e9\tr1\te8\t2014-05-04\n")
    fails(1, "not the data that .* was trained on", "nearest", str(trained.run), "e9")


def test_a_row_of_zeros_is_no_neighbour_and_has_none(tmp_path: Path) -> None:
    import torch

    from memplan.workload import build_workload
    from tkbc.use.trained import load_trained, nearest

    workload = build_workload(SHAPE, model="PairRE", rank=2)
    shapes = {"entity": (60, 2), "relation_head": (8, 2), "relation_tail": (8, 2)}
    tables = {name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()}
    tables["entity"][3] = 0
    save_file(tables, tmp_path / "model.safetensors")
    model = load_trained(tmp_path, workload)
    assert nearest(model, "entity", 0, 60)[-1] == (3, 0.0)
    assert [cosine for _, cosine in nearest(model, "entity", 3, 60)] == [0.0] * 59
    assert torch.equal(model.entity[3], torch.zeros(2))


def test_names_are_found_as_users_write_them() -> None:
    names = ("<Iran>", "Iraq", "Make_a_visit", "make A visit", "Zürich")
    assert find_name("entity", "iran", names) == 0
    assert find_name("entity", "ZÜRICH", names) == 4
    assert find_name("entity", "Make_a_visit", names) == 2
    with pytest.raises(UsageError, match="could be 'Make_a_visit' or 'make A visit'; say which"):
        find_name("entity", "make a visit", names)
    with pytest.raises(UsageError, match=r"no entity 'rich'; did you mean 'Zürich'\?"):
        find_name("entity", "rich", names)
    with pytest.raises(UsageError, match=r"no entity '' among 5, nor one"):
        find_name("entity", "", names)


def test_times_are_found_by_where_they_lie() -> None:
    years = ("-431", "-44", "1952", "2014", NO_TIME)
    assert find_time("-44", years) == 1
    assert find_time(NO_TIME, years) == 4
    with pytest.raises(MemplanError, match=r"among the 4 from -431 to 2014; the nearest: -431 and -44$"):
        find_time("-100", years)
    days = tuple(f"day {i}" for i in range(48))
    assert find_time("day 07", days) == 7
    with pytest.raises(MemplanError, match=r"from day 0 to day 47; the nearest: day 47$"):
        find_time("day 99", days)
    with pytest.raises(MemplanError, match="all without time"):
        find_time("2014", (NO_TIME,))


def test_how_far_times_are_apart_is_counted_in_years_or_days() -> None:
    assert moments(("100", "1950", "1951", NO_TIME)) == [100, 1950, 1951, math.inf]
    february, march, next_year = moments(("2012-02-28", "2012-03-01", "2013-02-28"))
    assert (march - february, next_year - february) == (2, 366)
    assert moments(("day 0", "day 1", "day 2")) == [0, 1, 2]


def test_of_other_times_the_one_nearest_in_years_is_named(tmp_path: Path) -> None:
    known = [("a", "r", "b", year) for year in ("100", "1951", "1953")]
    facts = [*known, ("a", "r", "c", "1950"), ("c", "r", "a", "1952")]
    (tmp_path / "data").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "data" / split).write_text("".join("\t".join(fact) + "\n" for fact in facts))
    options = ["--dataset", str(tmp_path / "data"), "--rank", "2", "--max-epochs", "1", "--device", "cpu"]
    assert invoke("train", *options, "--run-dir", str(tmp_path / "run")).exit_code == 0
    asked = ["predict", str(tmp_path / "run"), "--head", "a", "--relation", "r", "--time", "1950"]
    (found,) = [answer for answer in read_json(*asked)["answers"] if answer["entity"] == "b"]
    assert (found["other_times"], found["nearest_other_time"]) == (3, "1951")


def test_a_date_stands_for_its_year_where_times_are_years() -> None:
    years = ("-431", "360", "1986", "2014")
    for date, year in (("1986-05-17", 2), ("1986-##-##", 2), ('"2014-##-##"', 3), ("-431-##-##", 0), ("0360-01-01", 1)):
        assert find_time(date, years) == year
    with pytest.raises(MemplanError, match="no time '1985' among the 4"):
        find_time("1985-05-17", years)
    with pytest.raises(MemplanError, match="no time '1986-05-17'"):
        find_time("1986-05-17", ("1986-05-16", "1986-05-18"))
