"""Everything that is written is cut at its system calls; ``make crash-points`` tries every one, this every sixth."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.disk import Call, Disk, File, Folder, crash_states, read_disk

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler for the recorder")
@pytest.mark.slow
def test_what_was_written_before_a_crash_is_there_and_it_goes_on_from_every_state_of_the_disk() -> None:
    command = [sys.executable, "-m", "tests.crash.points", "--every", "6", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)
    assert len(rows) == 9
    for row in rows:
        assert row["survived"] == row["states"] >= 7, row
        assert row["full_survived"] == row["full"] >= 1, row


def made(*calls: Call) -> Disk:
    disk = Disk(Folder())
    for call in calls:
        disk.make(call)
    return disk


def left(disk: Disk, kind: str, into: Path) -> dict[str, bytes]:
    next(write for name, write in disk.states(random.Random(0)) if name == kind)(into)
    return {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def call(name: str, path: str, other: str = "", offset: int = 0, data: bytes = b"") -> Call:
    return Call(name, path, other, 1, offset, data)


def test_the_model_of_a_disk_forgets_what_each_kind_of_disk_may_forget(tmp_path: Path) -> None:
    written = (call("create", "a"), call("write", "a", data=b"one"), call("sync", "."))
    unsynced = made(*written)
    assert left(unsynced, "ordered", tmp_path / "0") == {"a": b"one"}
    assert left(unsynced, "only what was synced", tmp_path / "1") == {"a": b""}
    renamed = made(*written, call("sync", "a"), call("write", "a", offset=1, data=b"XX"), call("rename", "a", "b"))
    assert left(renamed, "ordered", tmp_path / "2") == {"b": b"oXX"}
    assert left(renamed, "only what was synced", tmp_path / "3") == {"a": b"one"}
    assert left(renamed, "names before data", tmp_path / "4") == {"b": b"one"}
    assert left(renamed, "data before names", tmp_path / "5") == {"a": b"oXX"}


def test_every_call_is_a_point_and_every_write_is_cut_in_half(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "kept").write_bytes(b"kept")
    calls = [call("create", "a"), call("write", "a", data=b"four"), call("remove", "kept")]
    points = set()
    for at, kind, write in crash_states(read_disk(tmp_path / "before"), calls):
        points.add(at)
        if kind == "half a write":  # written before the next call is made
            write(tmp_path / "torn")
    assert points == {0, 1, 2, 3}
    assert (tmp_path / "torn" / "a").read_bytes() == b"fo"
    assert (tmp_path / "torn" / "kept").read_bytes() == b"kept"


def test_a_file_s_changes_are_made_in_place() -> None:
    file = File(b"12345", b"12345")
    file.change(7, b"ab")
    file.change(1, b"X")
    assert file.now == b"1X345\0\0ab"
    file.change(3, None)
    assert (file.now, file.safe) == (b"1X3", b"12345")
