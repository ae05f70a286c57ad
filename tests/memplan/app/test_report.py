"""The page of a run: what it says is what the run's files say, it is whole and safe HTML, and its command repeats."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from memplan.app.views.charts import line_chart
from memplan.app.views.page import render
from memplan.app.views.repeat import how_to_repeat
from memplan.plan import Plan
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke
from tests.support.training import SHAPE, make_plan, newest_checkpoint
from tkbc.data import load_dataset
from tkbc.runs.folder import RunFolder
from tkbc.runs.metrics import read_metrics
from tkbc.runs.state import RunState, present_versions
from tkbc.runs.train import TrainSettings, train

pytestmark = pytest.mark.usefixtures("one_thread")

VOID = {"meta", "br", "hr", "img", "input", "link"}
SHAPES = {"line", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it must be; keeps tables, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID and tag != "!doctype":
            self.open.append(tag)
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in ("th", "td"):
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, tag
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open[-1:] == ["caption"]:
            self._caption = data
            self.tables[data] = []
        elif self.open[-1:] in (["th"], ["td"]):
            self.tables[self._caption][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def a_run(folder: Path, stop_after: int | None = None, name: str = "data", **settings: Any) -> Path:
    graph = load_dataset(str(write_folder(folder / name, random_graph(SHAPE, n_valid=40, n_test=50))))
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    chosen = TrainSettings(**{"learning_rate": 0.1, "max_epochs": 6, "valid_freq": 2, **settings})
    plan = make_plan(graph, batch_size=100, time_reg=0.01)
    plan = plan.model_copy(update={"workload": plan.workload.model_copy(update={"dataset": graph.dataset})})
    train(plan, graph, chosen, folder / "run", None, should_stop)
    return folder / "run"


def test_the_page_says_what_the_run_s_files_say(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    result = invoke("report", str(run))
    assert result.exit_code == 0, result.output
    assert result.stdout == f"the report is {run / 'report.html'}\n"
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    *epochs, final = lines
    best = max((line for line in epochs if line["valid"]), key=lambda line: line["valid"]["both"]["mrr"])
    assert best["epoch"] == final["best_epoch"]
    for caption, ranking in (
        (f"Test, with the tables of epoch {best['epoch']}", final["test"]),
        (f"Validation, epoch {best['epoch']}", best["valid"]),
    ):
        rows = page.tables[caption]
        assert rows[0] == ["ranks", "MRR", "Hits@1", "Hits@3", "Hits@10"]
        shown = [[f"{value:.4f}" for value in ranking[name].values()] for name in ranking]
        assert [row[1:] for row in rows[1:]] == shown
    (caption,) = (name for name in page.tables if name.startswith("Test by relation"))
    names = ("mrr", "hits_at_1", "hits_at_10")
    assert page.tables[caption][1:] == [
        [row["relation"], str(row["n_facts"]), *(f"{row[name]:.4f}" for name in names)] for row in final["by_relation"]
    ]
    assert sum(row["n_facts"] for row in final["by_relation"]) == 50
    assert [row[:2] for row in page.tables["Epochs"][1:]] == [
        [str(line["epoch"]), f"{line['loss']:.4f}"] for line in epochs
    ]
    check = json.loads((run / "memory_check.json").read_text())
    (caption,) = (name for name in page.tables if name.startswith("Bytes of tensors"))
    assert page.tables[caption][1:] == [
        [
            row["name"],
            f"{row['predicted']['requested_bytes']:,}",
            f"{row['measured']['requested_bytes']:,}",
            "exact",
        ]
        for row in [*check["phases"], check["peak"]]
    ]
    assert "Run run: finished , 6 of 6 epochs" in page.text
    plan, config = Plan.read(run / "plan.json"), json.loads((run / "config.json").read_text())
    assert how_to_repeat(plan, config) in page.texts
    del config["cooldown"]  # as a run of an earlier version has it: whatever the recipe has by now
    assert "--cooldown 0.0" in how_to_repeat(plan, config)
    for name in ("setup", "score backward", "measured (dashed)"):
        assert name in page.texts


def test_the_page_needs_nothing_from_elsewhere_and_can_be_read_aloud(tmp_path: Path) -> None:
    text = render(a_run(tmp_path))
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not {name for _, attributes in page.tags for name in attributes} & {"src", "href", "srcset", "data"}
    assert not re.search(r"https?:|@import|url\(", text)
    assert dict(page.tags[0][1]) == {"lang": "en"}
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 3
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    assert all(attributes["scope"] in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert sum(tag == "table" for tag, _ in page.tags) == len(page.tables) == 7
    assert "prefers-color-scheme: dark" in text


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    name = "<script>alert('1') & \"x\""
    run = a_run(tmp_path, name=name, max_epochs=1)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "<b>odd</b>", "epoch": 1, "what": "</table><script>"}) + "\n")
    text = render(run)
    page = Page(text)
    assert "<script" not in text
    assert f"TNTPairRE on {name}" in page.texts
    assert ["1", "<b>odd</b>", "</table><script>"] in page.tables["What happened on the way"]
    assert Path(name).name in next(row[1] for row in page.tables["What was trained, with what"] if row[0] == "dataset")


def test_an_unfinished_run_has_a_page_that_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path, stop_after=20)
    page = Page(render(run))
    assert f"memplan train --resume {run}" in page.texts
    assert "interrupted" in page.texts
    assert "is not ranked yet" in page.text
    assert not any(caption.startswith("Test") for caption in page.tables)
    assert len(page.tables["Epochs"]) - 1 == len(read_metrics(run).epochs) > 0


def test_a_run_without_an_epoch_has_a_page_and_while_it_goes_on_no_advice_to_resume(tmp_path: Path) -> None:
    graph = random_graph(SHAPE)
    settings = TrainSettings(learning_rate=0.1, max_epochs=6)
    versions = present_versions()
    state = RunState(plan=make_plan(graph), settings=settings, dataset="x", data_sha256="0", versions=versions)
    folder = RunFolder.create(tmp_path / "run", state)
    page = Page(render(tmp_path / "run"))
    assert "running" in page.texts
    assert "--resume" not in page.text
    folder.close()
    page = Page(render(tmp_path / "run"))
    assert "--resume" in page.text
    for said in ("Nothing has been ranked yet.", "No epoch is finished yet.", "not measured yet"):
        assert said in page.text
    (caption,) = (name for name in page.tables if "nothing has been measured yet" in name)
    assert page.tables[caption][1] == ["setup", f"{state.plan.phases[0].peak_bytes:,}"]


def test_damaged_lines_are_passed_over_and_an_epoch_trained_twice_counts_once(tmp_path: Path) -> None:
    run = a_run(tmp_path, max_epochs=2)
    before = read_metrics(run)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        again = before.epochs[0].model_dump() | {"loss": 1.25}
        file.write(
            "half a li\n[1]\n" + json.dumps({"epoch": 3, "loss": float("nan")}) + "\n" + json.dumps(again) + "\n"
        )
        file.write(json.dumps({"event": "odd", "epoch": [], "changes": 3}) + "\n")
        file.write(json.dumps({"event": "resumed", "epoch": 1, "examples_done": 1200}) + "\n")
        shrunk = {"event": "out of memory", "during": "training", "changes": {"chunk_size": [60, 30]}, "epoch": 2}
        file.write(json.dumps(shrunk) + "\n")
    after = read_metrics(run)
    assert [epoch.loss for epoch in after.epochs] == [1.25, before.epochs[1].loss]
    assert after.final == before.final is not None
    page = Page(render(run))
    assert page.tables["What happened on the way"][1:] == [
        ["1", "resumed", "1,200 examples of the epoch were done"],
        ["2", "out of memory", "during training, chunk size 60 → 30"],
    ]
    assert "settings that changed on the way are given as they were last" in page.text


def test_what_is_no_run_or_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    fails(1, r"plan\.json: no such file", "report", str(tmp_path))
    run = a_run(tmp_path, max_epochs=1)
    fails(1, r"out\.html: cannot be written: No such file", "report", str(run), "-o", str(tmp_path / "no" / "out.html"))
    assert invoke("report", str(run), "--output", str(tmp_path / "out.html")).exit_code == 0
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run", "out.html"}


def test_a_page_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    run = a_run(tmp_path, max_epochs=1)
    code = (
        f"import sys; from memplan.app.views.page import write_page; from pathlib import Path; "
        f"write_page(Path({str(run)!r})); "
        "sys.exit(str({name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'matplotlib'} or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    "options",
    [
        [
            "--model",
            "TNTPairRE",
            "--auto-fit-gpu",
            "--budget",
            "1537KiB",
            "--rank",
            "12",
            "--time-reg",
            "0.02",
            "--n3-parts",
            "--emb-reg",
            "0.01",
            "--cooldown",
            "0.5",
        ],
        ["--model", "ComplEx", "--rank", "3", "--optimizer", "adam", "--patience", "1", "--seed", "7"],
        pytest.param(
            ["--model", "TPairRE", "--no-unit-norm", "--score", "l2", "--scoring", "chunked", "--precision", "bf16"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["planned", "plain", "rounded"],
)
def test_the_command_on_the_page_trains_the_same_model_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "my data", random_graph(SHAPE, n_valid=40, n_test=50))
    first = ["train", "--dataset", "./my data", "--device", "cpu", "--max-epochs", "2", "--valid-freq", "1", *options]
    result = invoke(*first, "--run-dir", "one")
    assert result.exit_code == 0, result.output
    program, *arguments = shlex.split(
        next(text for text in Page(render(Path("one"))).texts if text.startswith("memplan train "))
    )
    assert program == "memplan"
    result = invoke(*arguments, "--run-dir", "two")
    assert result.exit_code == 0, result.output
    assert Plan.read(Path("one/plan.json")).workload == Plan.read(Path("two/plan.json")).workload
    assert json.loads(Path("one/config.json").read_text()) == json.loads(Path("two/config.json").read_text())
    one, two = (load_file(newest_checkpoint(Path(name)) / "model.safetensors") for name in ("one", "two"))
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize(
    "points",
    [[(1, 2.5)], [(1, 0.0), (2, 0.0)], [(5, 0.1), (10, 0.3), (15, 0.2)], [(i, 1e9 / i) for i in range(1, 300)]],
    ids=["one", "flat", "three", "many"],
)
def test_a_line_stays_in_its_picture_and_higher_is_higher(points: list[tuple[int, float]]) -> None:
    best = max(points, key=lambda point: point[1])[0]
    svg = line_chart(points, alt='"said" <in> words', digits=2, marked=(best, "best"))
    page = Page(svg)
    (line,) = (attributes for tag, attributes in page.tags if tag == "polyline")
    drawn = [tuple(map(float, pair.split(","))) for pair in line["points"].split()]
    assert len(drawn) == len(points)
    assert all(0 <= x <= 480 and 0 <= y <= 260 for x, y in drawn)
    by_value = dict(zip((value for _, value in points), (y for _, y in drawn), strict=True))
    low, high = min(by_value), max(by_value)
    for value, y in by_value.items():
        if low < high:
            share = (by_value[low] - y) / (by_value[low] - by_value[high])
            assert share == pytest.approx((value - low) / (high - low), abs=1e-3)
    assert by_value[high] <= by_value[low]
    (mark,) = (attributes for tag, attributes in page.tags if attributes.get("class") == "best")
    assert (float(mark["cx"]), float(mark["cy"])) == drawn[[x for x, _ in points].index(best)]
    assert page.tags[0][1]["aria-label"] == '"said" <in> words'
