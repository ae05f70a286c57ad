"""The power goes: what was said to be written is there afterwards, on a disk that keeps only what was synced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import random_graph, write_folder
from tests.support.cli import invoke
from tests.support.data import same
from tests.support.download import fetch
from tests.support.forgetful import ForgetfulDisk
from tests.support.resume import ADAGRAD, StopAt, assert_same_run, begin, go_on, reported, tensors
from tests.support.training import SHAPE
from tests.support.using import train_one
from tkbc.data.reading import read_folder
from tkbc.runs import loop as run_module
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.folder import RunFolder
from tkbc.runs.metrics import Line

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForgetfulDisk]:
    root = tmp_path / "disk"
    root.mkdir()
    found = ForgetfulDisk(root, monkeypatch)
    yield found
    found.close()


def test_the_disk_forgets_what_was_not_synced(disk: ForgetfulDisk, tmp_path: Path) -> None:
    import os

    def sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    (disk.root / "a").write_text("one")
    (disk.root / "b").write_text("two")
    assert list(disk.lose_power(tmp_path / "0").iterdir()) == []
    sync(disk.root)
    left = disk.lose_power(tmp_path / "1")
    assert {path.name: path.read_text() for path in left.iterdir()} == {"a": "", "b": ""}
    sync(disk.root / "a")
    (disk.root / "a").write_text("three")
    (disk.root / "a").rename(disk.root / "c")
    left = disk.lose_power(tmp_path / "2")
    assert {path.name: path.read_text() for path in left.iterdir()} == {"a": "one", "b": ""}


@pytest.mark.slow
def test_after_every_step_its_checkpoint_survives_and_the_run_ends_the_same(
    disk: ForgetfulDisk, tmp_path: Path
) -> None:
    begin(tmp_path / "whole", **ADAGRAD)
    left: list[Path] = []

    class LosePower(StopAt):
        """After every checkpoint but the first step's: it is written once the step has been told of."""

        def step_done(self, *_: object) -> None:
            left.append(disk.lose_power(tmp_path / f"left{len(left)}"))

    begin(disk.root / "run", LosePower(), **ADAGRAD)
    for step, state_of_disk in enumerate(left):
        found = Checkpoints(state_of_disk / "run" / "checkpoint").newest()
        assert (0 if found is None else found[1].steps) == step
    for step in (1, 7, 12, 23):
        go_on(left[step] / "run")
        assert_same_run(tmp_path / "whole", left[step] / "run")


@pytest.mark.slow
def test_every_line_that_was_reported_survives(
    disk: ForgetfulDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, told = RunFolder.append, 0

    def append(self: RunFolder, line: Line) -> None:
        nonlocal told
        original(self, line)
        told += 1
        left = disk.lose_power(tmp_path / str(told)) / "run" / "metrics.jsonl"
        assert len(left.read_text().splitlines()) == told
        assert json.loads(left.read_text().splitlines()[-1]) == json.loads(line.model_dump_json(exclude_unset=True))

    monkeypatch.setattr(RunFolder, "append", append)
    begin(disk.root / "run", **ADAGRAD)
    assert told == 5


@pytest.mark.slow
def test_what_was_reported_before_survives_going_on(
    disk: ForgetfulDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(disk.root / "run", StopAt(13), **ADAGRAD)
    before = reported(disk.root / "run")
    seen = tensors(disk.root / "run")

    def lose_power(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "run", lose_power)
    with pytest.raises(KeyboardInterrupt):
        go_on(disk.root / "run")
    monkeypatch.undo()
    left = disk.lose_power(tmp_path / "left") / "run"
    assert reported(left) == before
    assert all(torch.equal(seen[name], tensor) for name, tensor in tensors(left).items())
    assert "resumed" in (left / "metrics.jsonl").read_text()
    assert not go_on(left).interrupted


def test_a_run_survives_from_before_its_first_step(
    disk: ForgetfulDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", random_graph(SHAPE))
    left: list[Path] = []

    def lose_power(*_: object) -> None:
        left.append(disk.lose_power(tmp_path / "left"))
        raise KeyboardInterrupt

    options = ["--dataset", "./data", "--device", "cpu", "--rank", "4", "--max-epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "run", lose_power)
        invoke("train", *options, "--run-dir", str(disk.root / "runs" / "new" / "one"))
    result = invoke("train", "--resume", str(left[0] / "runs" / "new" / "one"))
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_an_export_that_is_told_of_survives(disk: ForgetfulDisk, tmp_path: Path) -> None:
    begin(tmp_path / "run", **ADAGRAD)
    trained = train_one(tmp_path / "trained", "ComplEx", "dot", max_epochs=1)
    file = disk.root / "tables.npz"
    assert invoke("export", str(trained.run), str(file)).exit_code == 0
    left = disk.lose_power(tmp_path / "left") / "tables.npz"
    assert left.read_bytes() == file.read_bytes()
    with np.load(left, allow_pickle=False) as found:
        assert np.array_equal(found["entity"], trained.tables["entity"])


def test_a_download_that_is_told_of_survives(
    disk: ForgetfulDisk,
    tmp_path: Path,
    source: Path,
    mirrors: list[Any],
) -> None:
    fetch(source, mirrors, disk.root / "data" / "graph", with_sums=False)
    left = disk.lose_power(tmp_path / "left") / "data" / "graph"
    assert {path.name for path in left.iterdir()} == {"train", "valid", "test"}
    assert same(read_folder(left, "graph"), read_folder(source, "graph"))
