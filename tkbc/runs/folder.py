"""The run folder: plan.json, config.json, metrics.jsonl, memory_check.json, progress.json, checkpoint/ and a lock."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memplan.errors import MemplanError, is_full, reason_of
from memplan.files import make_folder, read_lines, sync, write_text
from memplan.memory.curve import CURVE_FILE
from memplan.plan import MemoryCheck, to_json
from tkbc.ranking.weights import RULES_FILE, RuleWeights
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.metrics import METRICS_FILE, Event, Line
from tkbc.runs.state import RunState

LOCK_SECONDS = 1.0
"""How long to wait for the lock: a listing of runs holds it for an instant."""


class RunFolder:
    """One run's folder, locked as long as this object is not closed; what cannot be written is one clear error.

    Raises:
        MemplanError: another process is at work in it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoint")
        self._lock = FileLock(path / "lock", timeout=LOCK_SECONDS)
        try:
            with _writing(path):
                self._lock.acquire()
        except Timeout:
            raise MemplanError(f"{path}: another process is training in it; wait for it or stop it first") from None

    @classmethod
    def create(cls, path: Path, state: RunState) -> RunFolder:
        """Make a new folder for a run that begins.

        Raises:
            MemplanError: there is something of that name, or it cannot be written.
        """
        if path.exists():
            raise MemplanError(f"{path}: there is a run already; choose another folder with --run-dir")
        # Made under another name: a folder that is half made would stand in the way of the next try.
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            make_folder(path.parent)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
        except OSError as error:
            raise MemplanError(f"{path}: cannot be made ({reason_of(error)}); choose another with --run-dir") from None
        made = unfinished
        try:
            with _writing(path, "; try again, or choose another folder with --run-dir"):
                _describe(unfinished, state)
                (unfinished / METRICS_FILE).touch()
                sync(unfinished)
                made = unfinished.rename(path)
                sync(path.parent)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        try:
            return cls(path)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def rewind(self, state: RunState) -> None:
        """Make the folder that of a run that goes on from ``state``.

        The epochs that will be trained again leave metrics.jsonl, and so does half a line at its end. What happened
        stays on record; the test of a run that goes on does not.
        """
        self.describe(state)
        lines = [
            line
            for line in read_lines(self.path / METRICS_FILE)
            if "event" in line
            or ("loss" in line and isinstance(line.get("epoch"), int) and line["epoch"] < state.epoch)
        ]
        lines.append(_as_json(Event(event="resumed", epoch=state.epoch, examples_done=state.examples_done)))
        self._replace(METRICS_FILE, "".join(json.dumps(line) + "\n" for line in lines), durable=True)

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def describe(self, state: RunState) -> None:
        """Write plan.json and config.json."""
        with _writing(self.path):
            _describe(self.path, state)

    def append(self, line: Line) -> None:
        """Add a line to metrics.jsonl."""
        with _writing(self.path), (self.path / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_as_json(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_check(self, check: MemoryCheck) -> None:
        """Write memory_check.json."""
        self._replace("memory_check.json", to_json(check) + "\n")

    def write_rules(self, weights: RuleWeights) -> None:
        """Write rules.json."""
        self._replace(RULES_FILE, weights.model_dump_json(indent=1) + "\n")

    def write_curve(self, curve: list[tuple[str, int]]) -> None:
        """Keep phase and live bytes after every allocation of the start: ``memplan estimate --run`` draws it."""
        if curve:
            self._replace(CURVE_FILE, json.dumps({"points": curve}) + "\n")

    def write_progress(self, state: RunState, memory: dict[str, Any]) -> None:
        """Write progress.json for ``memplan monitor``; where that fails a run has better things to complain of."""
        n_examples = state.plan.workload.n_examples
        is_whole = state.is_over and state.examples_done == 0
        progress = {
            "epoch": state.epoch - 1 if is_whole else state.epoch,
            "max_epochs": state.settings.max_epochs,
            "examples_done": n_examples if is_whole else state.examples_done,
            "n_examples": n_examples,
            "memory": memory,
            "written": time.time(),
        }
        with suppress(MemplanError):
            self._replace("progress.json", json.dumps(progress) + "\n")

    def _replace(self, name: str, text: str, *, durable: bool = False) -> None:
        with _writing(self.path):
            write_text(self.path / name, text, durable=durable)


def _describe(folder: Path, state: RunState) -> None:
    config = {
        "dataset": state.dataset,
        "data_dir": state.data_dir,
        **state.settings.model_dump(),
        "versions": state.versions,
    }
    text = json.dumps({**config, "data_sha256": state.data_sha256}, indent=2) + "\n"
    write_text(folder / "config.json", text, durable=True)
    write_text(folder / "plan.json", to_json(state.plan) + "\n", durable=True)


def _as_json(line: Line) -> dict[str, Any]:
    """Return a line of metrics.jsonl with the fields that its writer has set."""
    return line.model_dump(exclude_unset=True)


@contextmanager
def _writing(path: Path, way_out: str = "") -> Iterator[None]:
    """Turn what goes wrong with the disk into one clear error about the run's folder ``path``.

    It ends with ``way_out``; where the disk is full, that is to free some space.
    """
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        where = "" if error.filename is None else f": {error.filename}"
        way_out = "; free some space" if is_full(error) else way_out
        raise MemplanError(f"{path}: cannot be written: {reason_of(error)}{where}{way_out}") from None


class FollowersFolder(RunFolder):
    """The run folder as the processes see it that do not lead: they read it, and each writes its own memory check."""

    def __init__(self, path: Path, process: int) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoint")
        self._process = process

    def rewind(self, state: RunState) -> None:
        """Leave it to the first process."""

    def close(self) -> None:
        """Hold no lock."""

    def describe(self, state: RunState) -> None:
        """Leave it to the first process."""

    def append(self, line: Line) -> None:
        """Leave it to the first process."""

    def write_check(self, check: MemoryCheck) -> None:
        """Write memory_check.json under a name with the process's number."""
        self._replace(f"memory_check.{self._process}.json", to_json(check) + "\n")

    def write_rules(self, weights: RuleWeights) -> None:
        """Leave it to the first process."""

    def write_curve(self, curve: list[tuple[str, int]]) -> None:
        """Leave it to the first process."""

    def write_progress(self, state: RunState, memory: dict[str, Any]) -> None:
        """Leave it to the first process."""
