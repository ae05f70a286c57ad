"""What grows while a run goes on and on; ``make long-run`` does 2,000 epochs and looks at the process's memory too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_descriptors_threads_and_the_disk_stay_as_they_are_and_500_runs_are_listed() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "long_run.py"), "--epochs", "60", "--runs", "500", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert (found["epochs"], found["runs_listed"]) == (60, 500)
    # So few epochs say nothing of a process's memory: what is loaded late counts.
    assert [what for what in found["grew"] if not what.startswith("process_bytes")] == []
    first, last = found["after_a_quarter"], found["at_the_end"]
    assert (first["descriptors"], first["threads"]) == (last["descriptors"], last["threads"])
    assert found["checkpoints"] <= 6
