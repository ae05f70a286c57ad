"""What a disk may hold after a crash, from the system calls that were made until then.

A model of files and folders in which every change is either safe, because it was synced, or pending. A disk that keeps
the order of changes is left with all of them, or with the last write half done; one that does not may have lost any of
those that are pending: all, the data but not the names, the names but not the data, or some of either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

DRAWS = 3
"""States with pending changes kept or lost by lot, at each point."""


class Call(NamedTuple):
    """One recorded system call; paths are relative to the folder that was watched."""

    name: str
    path: str
    other: str
    inode: int
    """The file's number: a name that it was given by a system call that no library function made is noticed by it."""
    offset: int
    data: bytes


@dataclass(eq=False)
class File:
    """A file: its content now, what is safe of it, and the changes between the two."""

    now: bytes = b""
    safe: bytes = b""
    inode: int = 0
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes at an offset; None: cut, or made longer, to it."""

    def change(self, offset: int, data: bytes | None) -> None:
        """Write ``data``, or cut the file."""
        self.now = _changed(self.now, offset, data)
        self.pending.append((offset, data))

    def sync(self) -> None:
        """Make everything safe."""
        self.safe, self.pending = self.now, []

    def some(self, draw: random.Random) -> bytes:
        """Return the content with each pending change kept or lost by lot."""
        content = self.safe
        for offset, data in self.pending:
            if draw.random() < 0.5:
                content = _changed(content, offset, data)
        return content


@dataclass(eq=False)
class Folder:
    """A folder: its names now, the safe ones, and the changes between the two, each whole or not at all."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, changes: dict[str, File | Folder | None]) -> None:
        """Give names, or take them away (None), at once."""
        _rename(self.now, changes)
        self.pending.append(changes)

    def sync(self) -> None:
        """Make every name safe."""
        self.safe, self.pending = dict(self.now), []

    def some(self, draw: random.Random) -> dict[str, File | Folder]:
        """Return the names with each pending change kept or lost by lot."""
        names = dict(self.safe)
        for changes in self.pending:
            if draw.random() < 0.5:
                _rename(names, changes)
        return names


def _changed(content: bytes, offset: int, data: bytes | None) -> bytes:
    if data is None:
        return content[:offset].ljust(offset, b"\0")
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


def _rename(names: dict[str, File | Folder], changes: dict[str, File | Folder | None]) -> None:
    for name, to in changes.items():
        if to is None:
            names.pop(name, None)
        else:
            names[name] = to


def read_disk(folder: Path) -> Folder:
    """Return the model of what is below ``folder``, all of it safe."""
    found = Folder()
    for path in folder.iterdir():
        if path.is_dir():
            found.now[path.name] = read_disk(path)
        else:
            content = path.read_bytes()
            found.now[path.name] = File(content, content)
    found.sync()
    return found


def read_calls(log: Path, root: Path) -> list[Call]:
    """Return the calls in a recorder's log."""
    content, at, calls = log.read_bytes(), 0, []
    while at < len(content):
        end = content.index(b"\n", at)
        name, path, other, inode, offset, n = content[at:end].decode().split("\t")
        data = content[end + 1 : end + 1 + int(n)]
        inside = (str(Path(p).relative_to(root)) if p else "" for p in (path, other))
        calls.append(Call(name, *inside, int(inode), int(offset), data))
        at = end + 1 + int(n)
    return calls


class Disk:
    """A folder's model, changed call by call."""

    def __init__(self, root: Folder) -> None:
        self.root = root

    def make(self, call: Call) -> None:
        """Make one call's change."""
        folder, name = self._place(call.path)
        if call.name == "sync" and name not in folder.now and call.path != ".":
            self._notice_rename(folder, name, call.inode)
        match call.name:
            case "create":
                folder.change({name: File(inode=call.inode)})
            case "mkdir":
                folder.change({name: Folder()})
            case "remove":
                folder.change({name: None})
            case "rename":
                into, new = self._place(call.other)
                moved = folder.now[name]
                if into is folder:
                    folder.change({name: None, new: moved})
                else:
                    into.change({new: moved})
                    folder.change({name: None})
            case "write" | "truncate":
                self._file(call.path).change(call.offset, call.data if call.name == "write" else None)
            case "sync":
                (self.root if call.path == "." else folder.now[name]).sync()

    def torn(self, call: Call) -> Callable[[Path], None]:
        """Return what writes the state in which a write is half done."""
        file = self._file(call.path)
        half = _changed(file.now, call.offset, call.data[: len(call.data) // 2])

        def content(other: File) -> bytes:
            return half if other is file else other.now

        return lambda into: _write(self.root, into, lambda folder: folder.now, content)

    def states(self, draw: random.Random) -> Iterator[tuple[str, Callable[[Path], None]]]:
        """Yield what each kind of disk may be left with now, and what writes it to a folder."""

        def now(folder: Folder) -> dict[str, File | Folder]:
            return folder.now

        def safe(folder: Folder) -> dict[str, File | Folder]:
            return folder.safe

        yield "ordered", lambda into: _write(self.root, into, now, lambda file: file.now)
        yield "only what was synced", lambda into: _write(self.root, into, safe, lambda file: file.safe)
        yield "names before data", lambda into: _write(self.root, into, now, lambda file: file.safe)
        yield "data before names", lambda into: _write(self.root, into, safe, lambda file: file.now)
        for _ in range(DRAWS):
            lot = random.Random(draw.random())
            yield "by lot", lambda into, lot=lot: _write(self.root, into, lambda f: f.some(lot), lambda f: f.some(lot))

    def _notice_rename(self, folder: Folder, name: str, inode: int) -> None:
        """A library in Rust renames by the system call itself, which the recorder does not see."""
        (old,) = [n for n, file in folder.now.items() if isinstance(file, File) and file.inode == inode]
        folder.change({old: None, name: folder.now[old]})

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self.root
        *above, name = Path(path).parts or (".",)
        for part in above:
            inner = folder.now[part]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, name

    def _file(self, path: str) -> File:
        folder, name = self._place(path)
        found = folder.now[name]
        assert isinstance(found, File)
        return found


def _write(
    folder: Folder,
    into: Path,
    names: Callable[[Folder], dict[str, File | Folder]],
    content: Callable[[File], bytes],
) -> None:
    into.mkdir(parents=True)
    for name, inner in names(folder).items():
        if isinstance(inner, Folder):
            _write(inner, into / name, names, content)
        else:
            (into / name).write_bytes(content(inner))


def crash_states(root: Folder, calls: list[Call], seed: int = 0) -> Iterator[tuple[int, str, Callable[[Path], None]]]:
    """Yield every state of the disk after a crash: calls made before it, kind of disk, what writes it to a folder."""
    disk, draw = Disk(root), random.Random(seed)
    for made in range(len(calls) + 1):
        for kind, write in disk.states(draw):
            yield made, kind, write
        if made < len(calls):
            if calls[made].name == "write":
                yield made, "half a write", disk.torn(calls[made])
            disk.make(calls[made])
