"""A disk that keeps, when the power goes, what was synced and nothing else: the least that POSIX promises."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


class ForgetfulDisk:
    """Sees every ``os.fsync`` below ``root`` and knows what would be left of it.

    Of a file that is its content when it was last synced, nothing where it never was; of a folder the names that it had
    when it was last synced. A file that has a synced name and no synced content is empty. What is there at the
    beginning counts as synced.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._held: list[int] = []
        """Descriptors that keep the system from giving an inode's number to another file."""
        self._sync = os.fsync
        for path in [root, *root.rglob("*")]:
            self._keep(path)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        """Sync, and note what is safe now."""
        self._sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path == self.root or self.root in path.parents:
            self._keep(path)

    def _keep(self, path: Path) -> None:
        number = self._hold(path)
        if stat.S_ISDIR(path.stat().st_mode):
            self._names[number] = {entry.name: (self._hold(entry), entry.is_dir()) for entry in path.iterdir()}
        else:
            self._contents[number] = path.read_bytes()

    def _hold(self, path: Path) -> int:
        self._held.append(os.open(path, os.O_PATH))
        return os.fstat(self._held[-1]).st_ino

    def lose_power(self, into: Path) -> Path:
        """Write what would be left to the folder ``into``, which is new; return it."""
        self._restore(self.root.stat().st_ino, into)
        return into

    def _restore(self, number: int, into: Path) -> None:
        into.mkdir(parents=True)
        for name, (inner, is_folder) in self._names.get(number, {}).items():
            if is_folder:
                self._restore(inner, into / name)
            else:
                (into / name).write_bytes(self._contents.get(inner, b""))

    def close(self) -> None:
        """Let go of all files."""
        for descriptor in self._held:
            os.close(descriptor)
