"""Every CUDA kernel compiles for every architecture and input type, ahead of time and without a GPU.

bfloat16 too compiles everywhere: below 8.0 Triton widens it by shifts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memplan.workload import PRECISIONS

pytest.importorskip("triton")

CAPABILITIES = (70, 75, 80, 86, 89, 90)
SCRIPT = """
import json, sys
from tkbc.scoring.kernels.ahead import KERNELS, compile_for

for capability in json.loads(sys.argv[1]):
    for name, kernel in KERNELS.items():
        for precision in json.loads(sys.argv[2]) if kernel.takes_inputs else ["fp32"]:
            compiled = compile_for(name, precision, capability)
            print(json.dumps([capability, name, precision, len(compiled.asm["cubin"])]))
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where what was compiled once is kept."""
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.slow
def test_every_kernel_compiles(kernels: Path) -> None:
    """In a process without the interpreter, which takes what the compiler refuses."""
    rows = [json.loads(line) for line in _run(kernels, "-c", SCRIPT, json.dumps(CAPABILITIES), json.dumps(PRECISIONS))]
    for capability in CAPABILITIES:
        names = {(name, precision) for found, name, precision, _ in rows if found == capability}
        assert len(names) == 3 * len(PRECISIONS) + 4, capability
    assert all(cubin_bytes > 1000 for *_, cubin_bytes in rows)


@pytest.mark.slow
def test_instructions_a_term_stay_near_the_floor(kernels: Path, tmp_path: Path) -> None:
    """Counted in the disassembly for a T4, an RTX 3060, an A100 and an H100; a lost layout or a spill shows here."""
    _run(kernels, "benchmarks/sass.py", str(tmp_path / "sass.json"), "--precision", "fp32")
    rows = json.loads((tmp_path / "sass.json").read_text())["rows"]
    most = {"forward": 4.2, "backward to queries": 7.0, "backward to entities": 6.5}
    assert sorted({row["capability"] for row in rows}) == [75, 80, 86, 90]
    assert len(rows) == 4 * len(most)
    for row in rows:
        assert row["floor"] <= row["instructions_a_term"] <= most[row["kernel"]], row
        assert row["shuffles_in_loops"] == row["spills"] == 0, row
        assert row["registers"] <= 128, row


def _run(kernels: Path, *arguments: str) -> list[str]:
    """Run Python in the project's folder, where kernels are declared for the compiler; return what it prints."""
    folder = Path(__file__).resolve().parents[3]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(kernels),
        "PYTHONPATH": str(folder),
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
