"""A disk that is full, read-only or in the way: what is told, and what is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memplan.errors import MemplanError
from tests.conftest import random_graph
from tests.support.cli import invoke
from tests.support.resume import ADAGRAD, StopAt, begin, go_on
from tests.support.training import SHAPE, make_plan
from tkbc.runs import checkpoint
from tkbc.runs import folder as run_folder
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import TrainSettings, train

pytestmark = pytest.mark.usefixtures("one_thread")


def train_into(folder: Path) -> Any:
    graph = random_graph(SHAPE)
    return train(make_plan(graph), graph, TrainSettings(learning_rate=0.1, max_epochs=1), folder)


def failing(function: Callable[..., Any], at: int, number: int) -> Callable[..., Any]:
    """Return ``function``, whose call number ``at``, from 0, raises the error ``number`` instead, and all after it."""
    calls = 0

    def wrapper(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(number, os.strerror(number))
        return function(*arguments, **named)

    return wrapper


@pytest.mark.parametrize(
    ("name", "at"), [("write_text", 0), ("write_text", 1), ("replace", 0), ("replace", 1), ("touch", 0), ("rename", 0)]
)
def test_a_run_that_cannot_begin_leaves_its_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    """config.json, plan.json and metrics.jsonl are written before the folder has its name."""
    folder = tmp_path / "runs" / "one"
    with monkeypatch.context() as patch:
        patch.setattr(Path, name, failing(getattr(Path, name), at, errno.ENOSPC))
        with pytest.raises(MemplanError, match=r"one: cannot be written: No space left on device; free some space"):
            train_into(folder)
    assert list(folder.parent.iterdir()) == []
    assert train_into(folder).test is not None


def test_a_disk_that_fails_once_the_folder_has_its_name_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder, which may not outlive a power cut, goes away and leaves its name free."""
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "sync", failing(run_folder.sync, 1, errno.EIO))
        with pytest.raises(MemplanError, match=r"one: cannot be written: Input/output error; try again, or choose .*"):
            train_into(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []
    assert train_into(tmp_path / "one").test is not None


def test_a_run_that_was_killed_before_it_began_leaves_its_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.shutil, "rmtree", lambda *_, **__: None)  # nothing is tidied up
        patch.setattr(Path, "rename", kill)
        with pytest.raises(SystemExit):
            train_into(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == [".one.unfinished"]
    assert invoke("runs", str(tmp_path)).stdout.startswith("no runs in")
    assert train_into(tmp_path / "one").test is not None
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_lock_that_cannot_be_made_leaves_the_name_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.FileLock, "acquire", failing(run_folder.FileLock.acquire, 0, errno.ENOSPC))
        with pytest.raises(MemplanError, match="No space left on device; free some space"):
            train_into(tmp_path / "one")
    assert train_into(tmp_path / "one").test is not None


def test_only_a_full_disk_is_told_to_be_made_room_on(tmp_path: Path) -> None:
    begin(tmp_path / "run", StopAt(3), **ADAGRAD)
    (tmp_path / "run" / "config.json").unlink()
    (tmp_path / "run" / "config.json").mkdir()
    with pytest.raises(MemplanError, match=r"cannot be written: Is a directory: .*config\.json") as caught:
        go_on(tmp_path / "run")
    assert "space" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device; the ones before stay. Make room, ",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded; the ones before stay. Make room, then"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system; the ones before stay. Then memplan"),
        (OSError("no number"), "no number; the ones before stay. Then memplan train --resume"),
        (OSError(), "OSError; the ones before stay. Then memplan train --resume"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, told: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(MemplanError) as caught:
        train_into(tmp_path / "run")
    assert f"the checkpoint cannot be written: {told}" in str(caught.value)
    assert "None" not in str(caught.value)


@pytest.mark.slow
def test_what_stands_in_a_checkpoint_s_way_is_named(tmp_path: Path) -> None:
    begin(tmp_path / "run", StopAt(3), **ADAGRAD)
    (tmp_path / "run" / "checkpoint" / "9.unfinished").write_text("a file where only folders are expected")
    assert not go_on(tmp_path / "run").interrupted, "what is left over of a checkpoint goes, whatever it is"


STRANGE = ("²", "٣", "1.5", "-1", "+1", "1_0", "x", "0000001a", "1" * 19)


def test_only_folders_named_by_a_number_are_checkpoints_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for name in ("99999999", "100000000", "2", *STRANGE):
        (tmp_path / name).mkdir()
    (tmp_path / "00000004").touch()
    assert checkpoints.names() == ["2", "99999999", "100000000"]
    assert checkpoints.next_name() == "100000001"


@pytest.mark.slow
def test_a_strange_folder_beside_the_checkpoints_is_left_alone(tmp_path: Path) -> None:
    begin(tmp_path / "run", StopAt(3), **ADAGRAD)
    folder = tmp_path / "run" / "checkpoint"
    for name in STRANGE:
        (folder / name).mkdir()
    assert not go_on(tmp_path / "run").interrupted
    assert {path.name for path in folder.iterdir()} >= set(STRANGE)
    assert invoke("runs", str(tmp_path)).exit_code == 0


def test_from_eight_to_nine_digits_the_newest_stays_the_newest(tmp_path: Path) -> None:
    begin(tmp_path / "run", StopAt(3), **ADAGRAD)
    folder = tmp_path / "run" / "checkpoint"
    newest = Checkpoints(folder).names()[-1]
    (folder / newest).rename(folder / "99999999")
    go_on(tmp_path / "run", StopAt(2))
    name, state = Checkpoints(folder).newest()
    assert (name, state.steps) == ("100000002", 5)  # after each of two steps, and at the stop
