"""Nothing that POSIX alone has stands in the way of planning, training and looking at a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tkbc.runs.listing import is_running

ROOT = Path(__file__).resolve().parents[1]
WAY = [
    ["plan", "--device", "cpu", "--rank", "8"],
    ["train", "--auto-fit-gpu", "--device", "cpu", "--rank", "8", "--max-epochs", "1"],
    ["runs"],
    ["train", "--resume", "latest", "--max-epochs", "2"],
    ["report", "latest"],
    ["predict", "latest", "--head", "entity 3", "--relation", "seasonal relation 2", "--time", "day 5"],
    ["export", "latest", "tables.npz"],
]


@pytest.mark.skipif(sys.platform != "linux", reason="what Windows has not is hidden on Linux")
@pytest.mark.slow
def test_the_way_of_a_run_needs_nothing_that_windows_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # what a pipe has there
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "tests.support.windows", json.dumps(WAY)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="cp1252", check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.html").stat().st_size > 10_000
    assert (tmp_path / "tables.npz").is_file()


def test_a_run_is_seen_to_be_running_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert not is_running(tmp_path)
    assert not (tmp_path / "lock").exists(), "no lock is made where none was"
    with FileLock(tmp_path / "lock"):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)
