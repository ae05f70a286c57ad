"""What a run notices by itself: numbers gone wrong, memory off the plan, a full disk, no progress; what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memplan.errors import MemplanError
from memplan.plan import Bytes
from tests.conftest import random_graph
from tests.support.cli import fails, invoke, read_json
from tests.support.resume import SETTINGS, reported
from tests.support.training import SHAPE, make_plan, newest_checkpoint
from tkbc.measure.meter import CpuMeter
from tkbc.models.base import gradient
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import Reporter, Result, TrainSettings, train
from tkbc.step.finite import CHECK_STEPS, check_step, check_tables
from tkbc.step.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def run(folder: Path, reporter: Reporter | None = None, **settings: Any) -> Result:
    graph = random_graph(SHAPE)
    return train(
        make_plan(graph, batch_size=100, time_reg=0.01), graph, TrainSettings(**SETTINGS | settings), folder, reporter
    )


class Listening(Reporter):
    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize(("table", "value"), [("entity", float("nan")), ("time", float("inf"))])
def test_a_number_gone_wrong_stops_the_run_and_the_last_good_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, value: float
) -> None:
    original = Trainer._accumulate

    def spoil(self: Trainer, *arguments: Any) -> None:
        original(self, *arguments)
        if self.steps == 8:
            gradient(getattr(self.model, table))[1, 2] = value

    monkeypatch.setattr(Trainer, "_accumulate", spoil)
    message = rf"epoch 2, step 9: not finite any more: the gradient of {table}\. .*--resume .* --learning-rate 0\.01"
    with pytest.raises(MemplanError, match=message):
        run(tmp_path / "run")
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert Checkpoints(checkpoint.parent).read(checkpoint.name).steps == 8
    for file in ("model", "optimizer"):
        for tensor in load_file(checkpoint / f"{file}.safetensors").values():
            assert torch.isfinite(tensor).all()


def test_tables_are_checked_before_a_checkpoint_and_large_numbers_are_no_mistake() -> None:
    graph = random_graph(SHAPE)
    trainer = Trainer(make_plan(graph).workload, graph.train, learning_rate=0.1)
    trainer.model.entity.data[0, 0] = 1e30  # its square is beyond float32
    check_tables(trainer, "here", "go home")
    trainer.optimizer.state[trainer.model.time]["sum"][0, 0] = float("nan")
    with pytest.raises(MemplanError, match=r"here: not finite any more: the optimizer's sum of time\. go home"):
        check_tables(trainer, "here", "go home")


def test_on_cuda_only_every_so_many_steps_wait_for_the_device() -> None:
    graph = random_graph(SHAPE)
    trainer = Trainer(make_plan(graph).workload, graph.train, learning_rate=0.1)
    trainer.workload = trainer.workload.model_copy(update={"device": "cuda"})
    trainer.totals[1, 0] = float("inf")
    trainer.steps = CHECK_STEPS + 1
    check_step(trainer, "here", "go home")
    trainer.steps = CHECK_STEPS
    with pytest.raises(MemplanError, match=rf"up to {CHECK_STEPS} steps before.*the loss is inf"):
        check_step(trainer, "here", "go home")


def test_memory_is_measured_again_while_a_run_goes_on_and_drift_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tkbc.runs.watch.SHARE_OF_TIME", 1.0)
    recorded = 0
    original = CpuMeter._note

    def grow(self: CpuMeter, name: str, reading: Bytes) -> None:
        nonlocal recorded
        recorded += name == "score"
        more = Bytes(requested_bytes=reading.requested_bytes + 100_000) if recorded == 3 else reading
        original(self, name, more)

    monkeypatch.setattr(CpuMeter, "_note", grow)
    listening = Listening()
    result = run(tmp_path / "run", listening)
    assert recorded == 4, "the first step of each epoch"
    (told,) = listening.told
    assert re.fullmatch(r"memory drifts from the plan: \w+ took [\d,]+ bytes, predicted [\d,]+ \(\+.*%\)", told)
    assert result.memory_check.peak.relative_error > 0
    events = [line for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").open()) if "event" in line]
    assert [(event["event"], event["epoch"]) for event in events] == [("memory drift", 3)]
    recorded = 0
    with pytest.raises(MemplanError, match="stopped by --strict-memory"):
        run(tmp_path / "strict", strict_memory=True)
    _, state = Checkpoints(tmp_path / "strict" / "checkpoint").newest()
    assert (state.epoch, state.steps) == (3, 13)


def test_patience_ends_a_run_that_learns_no_more_and_the_best_tables_are_tested(tmp_path: Path) -> None:
    result = run(tmp_path / "run", max_epochs=60, valid_freq=1, patience=3, checkpoint_minutes=10)
    lines = reported(tmp_path / "run")
    mrr = [line["valid"]["both"]["mrr"] for line in lines[:-1]]
    best = mrr.index(max(mrr))
    assert result.epochs == len(mrr) == best + 1 + 3 < 60
    assert lines[-1]["best_epoch"] == best + 1
    _, state = Checkpoints(tmp_path / "run" / "checkpoint").newest()
    assert state.is_over
    assert state.best.epoch == best + 1


def test_evaluate_runs_and_monitor_show_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["train", "--device", "cpu", "--rank", "4", "--max-epochs", "2", "--valid-freq", "1"]
    assert invoke(*options, "--run-dir", "runs/one").exit_code == 0
    test = reported(Path("runs/one"))[-1]["test"]
    found = read_json("evaluate", "runs/one")
    assert {kind: found[kind] for kind in test} == test, "the same checkpoint, the same numbers"
    assert found["optimistic"]["mrr"] >= found["both"]["mrr"] >= found["pessimistic"]["mrr"]
    assert read_json("evaluate", "runs/one", "--split", "valid")["split"] == "valid"
    shown = invoke("evaluate", "runs/one").stdout
    assert re.search(r"both +0\.\d{4}  0\.\d{4}–0\.\d{4}  0\.\d{4}", shown)
    fails(2, "'train' is neither valid nor test", "evaluate", "runs/one", "--split", "train")
    fails(2, "--by 'tail': relation, time or kind", "evaluate", "runs/one", "--by", "tail")
    fails(1, "no such run", "evaluate", "nowhere")

    shown = invoke("monitor", "runs/one", "--follow").stdout
    assert re.search(r"runs/one  finished  TNTPairRE on demo, rank 4\nepoch 2/2, 100% done", shown)
    assert re.search(r"memory  allocated .*, peak .*, budget .*, process ", shown)
    fails(1, "no such file", "monitor", "nowhere")
    assert re.search(r"one +finished +TNTPairRE +demo +4 ", invoke("runs").stdout)
    assert read_json("runs")["runs"][0]["measured_bytes"] > 0
    (tmp_path / "empty").mkdir()
    assert invoke("runs", "empty").stdout == "no runs in empty/\n"
    fails(1, "nowhere: no such folder", "runs", "nowhere")


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MemplanError, match="pip install tensorboard"):
            run(tmp_path / "run", tensorboard=True)
        assert not (tmp_path / "run").exists()
    pytest.importorskip("tensorboard")
    run(tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [line["loss"] for line in reported(tmp_path / "run")[:-1]]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert len(events.Scalars("test/mrr")) == 1


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from memplan.app.cli import app
app(sys.argv[2:], prog_name="memplan")
"""


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line_and_nothing_is_corrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: the system refuses the bytes beyond it in the same way."""
    monkeypatch.chdir(tmp_path)
    options = ["train", "--device", "cpu", "--rank", "20", "--max-epochs", "2", "--valid-freq", "1"]
    assert invoke(*options, "--run-dir", "runs/one").exit_code == 0
    checkpoints = tmp_path / "runs" / "one" / "checkpoint"
    before = {path: path.read_bytes() for path in checkpoints.rglob("*.*")}
    command = [sys.executable, "-c", LIMITED, "20000", "train", "--resume", "runs/one", "--max-epochs", "4"]
    full = subprocess.run(command, capture_output=True, text=True, check=False)
    assert full.returncode == 1, full.stdout
    (line,) = full.stderr.strip().splitlines()
    assert re.search(r"the checkpoint cannot be written: .*File too large.*--resume runs/one", line)
    assert {path: path.read_bytes() for path in checkpoints.rglob("*.*")} == before
    assert invoke("train", "--resume", "auto", "--max-epochs", "4").exit_code == 0
    assert [line.get("epoch") for line in reported(tmp_path / "runs" / "one")] == [1, 2, 3, 4, None]


@pytest.mark.parametrize("place", ["/proc/nowhere/run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_is_one_line(place: str) -> None:
    fails_after_planning = invoke("train", "--device", "cpu", "--rank", "4", "--run-dir", place)
    assert fails_after_planning.exit_code == 1
    assert re.search(r"cannot be made \(.*\); choose another with --run-dir", fails_after_planning.stderr)


def test_a_read_only_run_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tkbc.runs.folder.FileLock.acquire", read_only)
    with pytest.raises(MemplanError, match=r"run: cannot be written: Read-only file system"):
        run(tmp_path / "run")
