"""A measured step writes nothing of its own to stderr, wherever PyTorch was loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MEASURED = {
    "a run's meter": """
from tkbc.measure.meter import CpuMeter
meter = CpuMeter()
with meter.recording(), meter.phase("step"):
    torch.ones(3).exp()
assert meter.peaks
""",
    "memplan trace --real": """
from memplan.device.target import resolve
from memplan.trace.real import record_real
record_real(lambda: lambda: torch.ones(3).exp(), {}, resolve("cpu", None))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", list(MEASURED))
def test_the_profiler_s_own_lines_are_not_seen(what: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    code = f"import os, torch\n{MEASURED[what]}\nassert 'KINETO_LOG_LEVEL' not in os.environ"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
