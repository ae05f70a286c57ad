"""A run whose numbers went wrong: what it says, how it is listed, and that nothing goes on with it by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from memplan.catalog.recipes import find_recipe
from memplan.errors import MemplanError, NotFiniteError
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke, read_json
from tests.support.training import SHAPE, make_plan
from tkbc.runs.folder import RunFolder
from tkbc.runs.listing import newest_unfinished, read_run
from tkbc.runs.train import TrainSettings, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, to train in."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", random_graph(SHAPE))
    return tmp_path


def begin(name: str, *options: str) -> Any:
    plain = ["--dataset", "./data", "--model", "TNTComplEx", "--device", "cpu", "--rank", "4", "--max-epochs", "2"]
    return invoke("train", *plain, "--run-dir", f"runs/{name}", *options)


def diverge(name: str) -> None:
    assert begin(name, "--learning-rate", "1e30").exit_code == 1


def advised(learning_rate: float, folder: Path, **settings: Any) -> float:
    """The rate that the message of a run that diverges at once tells to go on with."""
    graph = random_graph(SHAPE)
    made = make_plan(graph, model="TNTComplEx", **settings)
    with pytest.raises(NotFiniteError, match=r"epoch \d+, step \d+: not finite any more: ") as caught:
        train(made, graph, TrainSettings(learning_rate=learning_rate, max_epochs=5, init_scale=1e30), folder)
    (rate,) = re.findall(r"--learning-rate (\S+)$", str(caught.value))
    return float(rate)


def test_a_rate_is_advised_that_is_no_higher_than_the_recipe_s_and_lower_than_what_was_given(tmp_path: Path) -> None:
    recipe = find_recipe(None, "TNTComplEx", None).learning_rate
    for at, given in enumerate((1e30, 1e9, 50 * recipe)):
        assert advised(given, tmp_path / f"above{at}") == recipe
    for at, given in enumerate((2 * recipe, recipe, recipe / 7, 1e-12)):
        assert advised(given, tmp_path / f"near{at}") == pytest.approx(given / 10, rel=1e-5)


def test_a_diverged_run_has_failed_and_resume_auto_takes_the_one_that_can_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begin("good").exit_code == 0
    diverge("bad")
    lines = [
        line for line in Path("runs/good/metrics.jsonl").read_text().splitlines() if "test" not in json.loads(line)
    ]
    Path("runs/good/metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))  # as if it had been cut short
    rows = {Path(row["folder"]).name: row["state"] for row in read_json("runs")["runs"]}
    assert rows == {"good": "interrupted", "bad": "failed"}
    diverge("worse")
    assert newest_unfinished(Path("runs")) == Path("runs/good")
    assert "going on with runs/good" in invoke("train", "--resume", "auto").stdout
    told = "no interrupted run in runs/; worse, bad failed: name one with a lower --learning-rate"
    fails(1, told, "train", "--resume", "auto")


def test_a_failed_run_says_why_and_goes_on_with_a_lower_rate_by_its_name(folder: Path) -> None:
    diverge("bad")
    assert "failed" in invoke("monitor", "runs/bad").stdout.splitlines()[0]
    events = [json.loads(line) for line in Path("runs/bad/metrics.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "failed"
    assert "not finite any more" in events[-1]["what"]
    assert invoke("report", "runs/bad").exit_code == 0
    page = Path("runs/bad/report.html").read_text()
    assert "not finite any more" in page
    assert "memplan train --resume runs/bad --learning-rate" in page
    result = invoke("train", "--resume", "runs/bad", "--learning-rate", "0.01")
    assert result.exit_code == 0, result.output
    assert read_run(Path("runs/bad")).state == "finished"


def test_a_run_that_goes_on_after_it_failed_is_interrupted_when_it_is_cut_short(folder: Path) -> None:
    diverge("bad")
    with Path("runs/bad/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "resumed", "epoch": 1, "examples_done": 0}) + "\n")
    assert read_run(Path("runs/bad")).state == "interrupted"


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemplanError("cannot be written: No space left on device")

    monkeypatch.setattr(RunFolder, "append", full)
    assert advised(1e30, tmp_path / "run") > 0, "the numbers that went wrong are told of, not the disk"
