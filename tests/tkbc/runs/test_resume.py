"""Going on with a run: the same bits as without the interruption, damaged checkpoints, other data, the lock."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from memplan.errors import MemplanError
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke, read_json
from tests.support.resume import (
    ADAGRAD,
    ADAM,
    NEGATIVES,
    SETTINGS,
    StopAt,
    assert_same_run,
    begin,
    go_on,
    reported,
    tensors,
)
from tests.support.slow import mostly_slow
from tests.support.training import ROOT, SHAPE, make_plan, newest_checkpoint
from tkbc.runs.checkpoint_folders import KEPT, Checkpoints
from tkbc.runs.folder import RunFolder
from tkbc.runs.train import TrainSettings, resume, train
from tkbc.step.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("settings", mostly_slow([ADAM, NEGATIVES, ADAGRAD], 2), ids=["adam", "negatives", "adagrad"])
@pytest.mark.parametrize("steps", [(1,), (3, 4, 5), *(pytest.param((n,), marks=pytest.mark.slow) for n in (6, 12, 23))])
def test_a_resumed_run_ends_like_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, settings: dict[str, Any], steps: tuple[int, ...]
) -> None:
    """600 examples in batches of 100: 6 steps an epoch, 24 in all, stopped once or several times."""
    begin(tmp_path / "whole", **settings)
    assert begin(tmp_path / "cut", StopAt(steps[0]), **settings).interrupted
    for step in steps[1:]:
        assert go_on(tmp_path / "cut", StopAt(step)).interrupted
    assert not go_on(tmp_path / "cut").interrupted
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_stopping_between_micro_batches_takes_the_step_again(tmp_path: Path) -> None:
    begin(tmp_path / "whole", **ADAM)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= 7  # once before each step and three times inside it: this is inside the second

    graph = random_graph(SHAPE)
    made = make_plan(graph, batch_size=100, micro_batch_size=30, emb_reg=0.01, time_reg=0.01, **ADAM)
    train(made, graph, TrainSettings(**SETTINGS), tmp_path / "cut", None, should_stop)
    _, state = Checkpoints(tmp_path / "cut" / "checkpoint").newest()
    assert (state.steps, state.examples_done) == (1, 100)
    go_on(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_stopping_in_a_validation_or_the_test_ranking_ranks_again(tmp_path: Path) -> None:
    begin(tmp_path / "whole", **ADAM)
    begin(tmp_path / "cut", StopAt(ranking=True), **ADAM)
    assert [line["epoch"] for line in reported(tmp_path / "cut")] == [1]

    class StopInTest(StopAt):
        def evaluating(self, *arguments: object) -> None:
            self.stop = arguments[0] == "test"

    assert go_on(tmp_path / "cut", StopInTest()).interrupted
    assert [line["epoch"] for line in reported(tmp_path / "cut")] == [1, 2, 3, 4]
    before = tensors(tmp_path / "cut")
    assert go_on(tmp_path / "cut").test is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(tmp_path / "cut").items())
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("damage", mostly_slow(["altered", "cut", "missing", "empty"]))
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(tmp_path: Path, damage: str, file: str) -> None:
    begin(tmp_path / "cut", StopAt(9), **ADAGRAD)
    newest = newest_checkpoint(tmp_path / "cut")
    content = (newest / file).read_bytes()
    if damage == "missing":
        (newest / file).unlink()
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        damaged = {"cut": content[: len(content) // 2], "empty": b"", "altered": flipped}
        (newest / file).write_bytes(damaged[damage])
    told: list[str] = []
    name, state = Checkpoints(tmp_path / "cut" / "checkpoint").newest(told.append)
    assert int(name) == int(newest.name) - 1
    assert state.steps == 9  # the one before was written after the same step
    assert len(told) == 1
    assert newest.name in told[0]


def test_going_back_over_a_damaged_checkpoint_ends_the_same(tmp_path: Path) -> None:
    begin(tmp_path / "whole", **ADAM)
    begin(tmp_path / "cut", StopAt(15), **ADAM)
    (newest_checkpoint(tmp_path / "cut") / "model.safetensors").write_bytes(b"")
    (newest_checkpoint(tmp_path / "cut") / "state.json").write_bytes(b"{}")
    go_on(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("epoch", "kept"), mostly_slow([(2, [1]), (1, []), (3, [1, 2]), (4, [1, 2, 3]), (5, [1, 2, 3, 4])])
)
def test_going_back_takes_the_epochs_that_are_trained_again_off_the_record(
    tmp_path: Path, epoch: int, kept: list[int]
) -> None:
    begin(tmp_path / "run", **ADAGRAD)
    _, state = Checkpoints(tmp_path / "run" / "checkpoint").newest()
    metrics = tmp_path / "run" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"event": "out of memory", "epoch": 4}\n{"epoch": 4, "lo')
    state.epoch, state.examples_done = epoch, 100
    folder = RunFolder(tmp_path / "run")
    folder.rewind(state)
    folder.close()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == kept
    assert not any("test" in line for line in lines)
    events = [line for line in lines if "event" in line]
    assert events == [
        {"event": "out of memory", "epoch": 4},
        {"event": "resumed", "epoch": epoch, "examples_done": 100},
    ]


def test_only_the_last_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    begin(tmp_path / "run", **ADAM)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoint")
    _, state = checkpoints.newest()
    names = checkpoints.names()
    assert KEPT <= len(names) <= 2 * KEPT
    assert state.best.checkpoint in names
    assert (state.examples_done, state.seconds) == (0, 0.0), "an epoch that has not begun has taken no time"
    assert not list(checkpoints.folder.glob("*.unfinished"))


def test_the_command_goes_on_where_a_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data" / "YAGO15K", random_graph(SHAPE))
    options = ["train", "--dataset", "yago15k", "--data-dir", "data", "--device", "cpu", "--rank", "5"]
    assert invoke(*options, "--max-epochs", "2", "--run-dir", "runs/one", "--budget", "300MiB").exit_code == 0
    fails(2, "the run is finished after 2 epochs; give more --max-epochs", "train", "--resume", "runs/one")
    fails(2, "--max-epochs 1: the run is in epoch 3", "train", "--resume", "runs/one", "--max-epochs", "1")
    fails(1, "no interrupted run in runs/", "train", "--resume", "auto")
    fails(2, "has settled --dataset, --rank", "train", "--resume", "auto", "--rank", "5", "--dataset", "demo")
    fails(1, "no such run", "train", "--resume", "runs/two")
    result = invoke("train", "--resume", "runs/one", "--max-epochs", "3", "--valid-freq", "1")
    assert result.exit_code == 0, result.output
    assert "going on with runs/one from checkpoint 00000001: epoch 3, 0 of its 600 examples done" in result.stdout
    assert "of 300 MiB (--budget)" in result.stdout, "the budget that was set holds"
    assert [line.get("epoch") for line in reported(tmp_path / "runs" / "one")] == [1, 2, 3, None]
    (row,) = read_json("runs")["runs"]
    assert (row["state"], row["epochs"], row["max_epochs"]) == ("finished", 3, 3)
    assert row["test_mrr"] == reported(tmp_path / "runs" / "one")[-1]["test"]["both"]["mrr"]


def test_a_run_out_of_patience_goes_on_with_more_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", random_graph(SHAPE))
    options = ["--dataset", "./data", "--device", "cpu", "--rank", "5", "--valid-freq", "1", "--max-epochs", "9"]
    result = invoke("train", *options, "--learning-rate", "1e-12", "--patience", "2", "--run-dir", "run")
    assert result.exit_code == 0, result.output
    epochs = [line.get("epoch") for line in reported(tmp_path / "run")]
    assert epochs == [1, 2, 3, None], "nothing is learned at such a rate, so the first validation stays the best"
    told = "finished after 3 epochs, 2 validations in a row without a better MRR; give more --patience"
    fails(2, told, "train", "--resume", "run")
    fails(2, told, "train", "--resume", "run", "--max-epochs", "20")
    assert invoke("train", "--resume", "run", "--patience", "3").exit_code == 0
    assert [line.get("epoch") for line in reported(tmp_path / "run")] == [1, 2, 3, 4, None]


def test_what_a_run_has_settled_is_not_taken_again(tmp_path: Path) -> None:
    for flag, *value in (["--recipe", "guide"], ["--allow-rank-reduction"], ["--epoch-seconds", "3"]):
        fails(2, f"the run has settled {flag};", "train", "--resume", str(tmp_path), flag, *value)
    (tmp_path / "file").touch()
    fails(1, "file: no such run", "train", "--resume", str(tmp_path / "file"))


@pytest.mark.slow
def test_with_more_epochs_the_rate_falls_at_the_new_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path / "run", **ADAGRAD)
    name, state = Checkpoints(tmp_path / "run" / "checkpoint").newest()
    state.settings = state.settings.model_copy(update={"max_epochs": 6})
    rates: list[float] = []
    monkeypatch.setattr(Trainer, "set_learning_rate", lambda _, rate: rates.append(rate))
    resume(tmp_path / "run", name, state, random_graph(SHAPE))
    # 36 steps, the last 21.6 of them falling; 24 were taken.
    assert rates == pytest.approx([0.1 * left / 21.6 for left in range(12, 0, -1)])


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--rank", "4", "--max-epochs", "1", "--cooldown", "0", "--run-dir", "runs/one"]
    invoke("train", "--device", "cpu", *options)
    before = tensors(Path("runs/one"))
    shutil.rmtree("runs/one/checkpoint")
    for left in ("memory_check.json", "progress.json"):
        Path("runs/one", left).unlink()
    Path("runs/one/metrics.jsonl").write_text('{"epoch": 1, "lo')
    config = json.loads(Path("runs/one/config.json").read_text())
    del config["cooldown"]  # as a run of an earlier version has it
    Path("runs/one/config.json").write_text(json.dumps(config))
    result = invoke("train", "--resume", "auto")
    assert result.exit_code == 0, result.output
    assert "from its beginning" in result.stdout
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(Path("runs/one")).items())


def test_a_run_is_not_continued_with_other_data(tmp_path: Path) -> None:
    begin(tmp_path / "run", StopAt(9), **ADAGRAD)
    name, state = Checkpoints(tmp_path / "run" / "checkpoint").newest()
    with pytest.raises(MemplanError, match=r"not the data that .* was trained on"):
        resume(tmp_path / "run", name, state, random_graph(SHAPE, seed=1))


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    begin(tmp_path / "run", StopAt(9), **ADAGRAD)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with FileLock(tmp_path / "run" / "lock"):
        with pytest.raises(MemplanError, match="another process is training in it"):
            go_on(tmp_path / "run")
        assert re.search(r"run +running", invoke("runs", str(tmp_path)).stdout)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert re.search(r"run +interrupted", invoke("runs", str(tmp_path)).stdout)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same() -> None:
    """Two kills; benchmarks/kill_and_resume.py does thirty."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_and_resume.py"), "--kills", "2", "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r": 0 of \d runs differ", done.stdout)
