"""The trainer as a library: train, load, evaluate, and what the commands say of the same run."""

from __future__ import annotations

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memplan
import tkbc
import tkbc.api
from memplan.errors import MemplanError, UsageError
from memplan.workload import Shape
from tests.conftest import random_graph, write_folder
from tests.support.cli import read_json
from tkbc import Quality, Reporter, Result, TrainedModel, evaluate, load, train
from tkbc.runs.reporter import EpochReport
from tkbc.runs.settings import TrainSettings

SHAPE = Shape(n_entities=60, n_relations=5, n_timestamps=8, n_facts=300)
SIZES: Any = {"model": "TNTPairRE", "rank": 12, "batch_size": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "graph", random_graph(SHAPE))


@pytest.fixture(scope="module")
def run(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(graph, run_folder=tmp_path_factory.mktemp("runs") / "one", max_epochs=2, valid_freq=1, **SIZES)


def test_the_example_in_the_docstring_is_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(tkbc.api)
    assert (found.attempted, found.failed) == (1, 0)
    assert (tmp_path / "first").is_dir()


def test_training_leaves_a_run_as_the_command_does(run: Result) -> None:
    assert run.epochs == 2
    assert run.memory_check is not None
    assert run.memory_check.peak.relative_error == 0
    assert {"plan.json", "metrics.jsonl", "checkpoint"} <= {path.name for path in run.run_folder.iterdir()}
    config = json.loads((run.run_folder / "config.json").read_text(encoding="utf-8"))
    assert (config["max_epochs"], config["valid_freq"]) == (2, 1)


def test_evaluation_gives_what_training_and_command_gave(run: Result) -> None:
    assert evaluate(run).metrics == run.test
    quality = evaluate(str(run.run_folder), "valid", by="relation")
    assert isinstance(quality, Quality)
    found = read_json("evaluate", str(run.run_folder), "--split", "valid", "--by", "relation")
    assert (str(quality.run), quality.checkpoint, quality.split) == (found["run"], found["checkpoint"], found["split"])
    assert quality.n_queries == found["n_queries"]
    assert quality.both.mrr == found["both"]["mrr"]
    for name, metrics in quality.metrics._asdict().items():
        assert metrics._asdict() == found[name]
        assert list(quality.intervals[name]) == found["mrr_intervals"][name]
    assert quality.times is not None
    assert list(quality.times.interval) == found["times"]["interval"]
    assert quality.times.average_precision == found["times"]["average_precision"]
    assert quality.by == found["by"]
    for group, row in zip(quality.groups, found["groups"], strict=True):
        shown = {"relation": group.name, "n_queries": 2 * group.n_facts, **group.metrics._asdict()}
        interval = None if group.n_facts == 1 else list(group.interval)
        precision = group.average_precision_of_times
        assert {**shown, "mrr_interval": interval, "average_precision_of_times": precision} == row
    assert (evaluate(run).by, evaluate(run).groups) == (None, ())
    with pytest.raises(UsageError, match="'train' is neither valid nor test"):
        evaluate(run, "train")
    with pytest.raises(UsageError, match="--by 'tail': relation, time or kind"):
        evaluate(run, by="tail")  # type: ignore[arg-type]


def test_a_loaded_model_answers_as_the_commands_do(run: Result) -> None:
    model = load(run)
    assert isinstance(model, TrainedModel)
    where = str(run.run_folder)
    answers = model.predict(tail="e3", relation="R1", time="t2", top=4)
    found = read_json("predict", where, "--tail", "e3", "--relation", "r1", "--time", "t2", "--top", "4")
    assert [{**answer._asdict(), "known_in": list(answer.known_in)} for answer in answers] == found["answers"]
    assert [answer.place for answer in answers] == [1, 2, 3, 4]
    for of, name in (("entity", "e3"), ("relation", "r1"), ("time", "t2")):
        near = model.nearest(name, of=of, top=3)
        rows = read_json("nearest", where, name, "--of", of, "--top", "3")["nearest"]
        assert [(n.place, n.name, n.cosine) for n in near] == [(r["place"], r[of], r["cosine"]) for r in rows]


def test_a_loaded_model_has_its_tables_with_labels(run: Result) -> None:
    model = load(run.run_folder)
    tables = model.tables
    assert tables["entity"].shape == (60, 12)
    assert not tables["entity"].requires_grad
    assert {name: len(model.labels(name)) for name in tables} == {name: len(table) for name, table in tables.items()}
    assert model.labels("relation_head")[5] == "r0 (reciprocal)"
    with pytest.raises(UsageError, match="no table 'entities': TNTPairRE has entity, "):
        model.labels("entities")


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ({"relation": "r1", "time": "t2"}, "say one of head and tail"),
        ({"head": "e1", "tail": "e2", "relation": "r1", "time": "t2"}, "say one of head and tail"),
        ({"head": "e1", "relation": "r1"}, "TNTPairRE answers for a time"),
        ({"head": "e1", "relation": "s1", "time": "t2"}, "no relation 's1'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told(run: Result, question: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(run).predict(**question)  # type: ignore[arg-type]


def test_a_plan_is_trained_as_it_is(graph: Path, tmp_path: Path) -> None:
    plan = memplan.plan(graph, micro_batch_size=16, **SIZES)
    result = train(plan, run_folder=tmp_path / "planned", max_epochs=1, rank_test=False)
    assert memplan.Plan.read(result.run_folder / "plan.json") == plan
    assert result.test is None
    with pytest.raises(UsageError, match="settles the recipe and all that sizes a tensor; leave out --rank"):
        train(plan, rank=5)
    with pytest.raises(UsageError, match="the plan is for cpu"):
        train(plan, device="T4")
    without_data = memplan.plan(SHAPE, **SIZES)
    with pytest.raises(UsageError, match="the plan: a plan for a graph given by its counts"):
        train(without_data)


def test_who_trains_is_told_and_can_stop(graph: Path, tmp_path: Path) -> None:
    class Listener(Reporter):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def epoch_done(self, report: EpochReport) -> None:
            self.losses.append(report.loss)

    listener = Listener()
    result = train(
        graph,
        run_folder=tmp_path / "stopped",
        reporter=listener,
        should_stop=lambda: len(listener.losses) == 2,
        max_epochs=50,
        **SIZES,
    )
    assert result.interrupted
    assert len(listener.losses) == 2


def test_what_cannot_be_trained_is_told_before_anything_is_written(graph: Path, tmp_path: Path) -> None:
    for options, told in (
        ({"max_epochs": 0}, "max_epochs"),
        ({"model": "TNTPairR"}, "did you mean TNTPairRE"),
        ({"budget": "1KiB"}, "smallest budget that would do"),
    ):
        with pytest.raises(MemplanError, match=told):
            train(graph, run_folder=tmp_path / "none", **{**SIZES, **options})
    assert not (tmp_path / "none").exists()
    (tmp_path / "taken").mkdir()
    with pytest.raises(MemplanError, match="there is such a folder already"):
        train(graph, run_folder=tmp_path / "taken")
    with pytest.raises(TypeError, match="rnak"):
        train(graph, rnak=3)  # type: ignore[call-arg]
    with pytest.raises(MemplanError, match="no such run"):
        load(tmp_path / "none")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(graph: Path, tmp_path: Path) -> None:
    result = train(graph, run_folder=tmp_path / "hurt", max_epochs=2, valid_freq=1, rank_test=False, **SIZES)
    best = load(result).checkpoint
    with (result.run_folder / "checkpoint" / best / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.warns(UserWarning, match=best) as told:
        other = load(result)
    assert other.checkpoint != best
    assert {warning.filename for warning in told} == {__file__}


def test_every_setting_of_a_training_is_an_option() -> None:
    names = set(tkbc.TrainOptions.__annotations__)
    planning = set(memplan.Settings.__annotations__) | {"allow_rank_reduction", "epoch_seconds"}
    assert names == planning | set(TrainSettings.model_fields)
    for name in tkbc.__all__:
        assert inspect.getdoc(getattr(tkbc, name))
        assert name in dir(tkbc)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        tkbc.trian  # type: ignore[attr-defined]  # noqa: B018


def test_torch_is_loaded_only_where_something_is_trained() -> None:
    code = "import sys; from tkbc import train, load, evaluate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
