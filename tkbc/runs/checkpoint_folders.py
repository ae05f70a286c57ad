"""The checkpoints of a run: folders 00000001, 00000002, … in ``checkpoint/``, each whole or not there.

Where several processes held the entity table between them, each left its rows in a file of its own, and the other
tables are in model.safetensors; whoever reads takes the rows that it needs, from as many files as there are.

A checkpoint is written beside the others under another name, synced, and then renamed. SHA256SUMS in it, as
``sha256sum -c`` reads it, lists its files: one that was cut short or altered since is recognised and passed over.
Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from memplan.errors import MemplanError, reason_of
from memplan.files import make_folder, sync
from memplan.workload import first_problem
from tkbc.runs.state import CHECKPOINT_NAME, RunState

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
SUMS_FILE = "SHA256SUMS"
FILES = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)
SHARD_FILES = "entity-*-of-*.safetensors"
KEPT = 3
"""Checkpoints kept, the newest; the best of each by validation is kept besides."""
LARGEST_STATE_BYTES = 2**24
_NAME = re.compile(CHECKPOINT_NAME)


class Checkpoints:
    """The checkpoints in ``folder``, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of all checkpoints, damaged ones included, oldest first; other folders are left alone."""
        try:
            found = [path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(found, key=int)

    def next_name(self) -> str:
        """Return the name that the next checkpoint will have."""
        names = self.names()
        return f"{int(names[-1]) + 1 if names else 1:08}"

    def unfinished(self, name: str) -> Path:
        """Return the folder that becomes checkpoint ``name`` once all is written."""
        return self.folder / f"{name}.unfinished"

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a folder to write the files to; afterwards it is checkpoint ``name``, and old ones are removed.

        Where anything goes wrong nothing is left of it.
        """
        unfinished = self.unfinished(name)
        try:
            for left_over in self.folder.glob("*.unfinished"):
                _remove(left_over)
            make_folder(self.folder)
            unfinished.mkdir()
            yield unfinished
            written = sorted(path.name for path in unfinished.iterdir())
            sums = "".join(f"{_sha256(unfinished / file)}  {file}\n" for file in written)
            (unfinished / SUMS_FILE).write_text(sums, encoding="ascii")
            for path in [*unfinished.iterdir(), unfinished]:
                sync(path)
            unfinished.rename(self.folder / name)
            sync(self.folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._remove_old()

    def read(self, name: str) -> RunState:
        """Return the state in checkpoint ``name`` once every file in it has proved whole.

        Raises:
            MemplanError: a file is missing, cut short or altered.
        """
        folder = self.folder / name
        try:
            expected = {
                file: digest
                for digest, _, file in (
                    line.partition("  ") for line in _small_text(folder / SUMS_FILE).splitlines() if line
                )
            }
            for file in [*FILES, *sorted(expected.keys() - set(FILES))]:
                if Path(file).name != file or expected.get(file) != _sha256(folder / file):
                    raise MemplanError(f"{folder / file}: cut short or altered since it was written")
            return RunState.model_validate_json(_small_text(folder / STATE_FILE))
        except ValidationError as error:
            raise MemplanError(f"{folder / STATE_FILE}: no state of a run: {first_problem(error)}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "not UTF-8"
            raise MemplanError(f"{folder}: cannot be read: {reason}") from None

    def newest(self, on_damage: Callable[[str], None] = lambda _message: None) -> tuple[str, RunState] | None:
        """Return the newest whole checkpoint's name and state; None where no checkpoint was ever written.

        ``on_damage`` is called with a line for every damaged one that is passed over.

        Raises:
            MemplanError: there are checkpoints, and none is whole.
        """
        names = self.names()
        reasons = []
        for name in reversed(names):
            try:
                found = name, self.read(name)
            except MemplanError as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                on_damage(f"{reason}; passed over for checkpoint {name}")
            return found
        if names:
            raise MemplanError(f"{reasons[0]}; and no other of the {len(names)} checkpoints is whole: train anew")
        return None

    def best_or_newest(self, on_damage: Callable[[str], None] = lambda _message: None) -> str:
        """Return the name of the checkpoint with the best validation; of the newest where none was validated.

        Raises:
            MemplanError: there is no whole checkpoint.
        """
        found = self.newest(on_damage)
        if found is None:
            raise MemplanError(f"{self.folder}: no checkpoint is there")
        name, state = found
        if state.best is not None:
            try:
                self.read(state.best.checkpoint)
                return state.best.checkpoint
            except MemplanError as error:
                on_damage(f"{error}; the newest checkpoint serves for the best")
        return name

    def _remove_old(self) -> None:
        """Keep the newest and, for each of these, the best known then: going back to it must find its best."""
        kept = set(self.names()[-KEPT:])
        for name in list(kept):
            with contextlib.suppress(OSError, ValueError):
                best = RunState.model_validate_json(_small_text(self.folder / name / STATE_FILE)).best
                kept |= {best.checkpoint} if best is not None else set()
        for name in self.names():
            if name not in kept:
                shutil.rmtree(self.folder / name, ignore_errors=True)


def shard_file(shard: int, shards: int) -> str:
    """Return the name of the file with the rows of the entity table that one of ``shards`` processes holds."""
    return f"entity-{shard + 1:05}-of-{shards:05}.safetensors"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _small_text(path: Path) -> str:
    with path.open("rb") as file:
        # Not the limit itself: as many bytes as are asked for are taken first, and memory may be what there is none of.
        return file.read(min(LARGEST_STATE_BYTES, os.fstat(file.fileno()).st_size)).decode("utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
