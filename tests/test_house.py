"""What import-linter (pyproject.toml) cannot see: what is really loaded, and which files name each other."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that are loaded in a fresh interpreter after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import memplan", "import memplan; memplan.plan('demo', device='cpu')"])
def test_the_planner_as_a_library_needs_pydantic_alone(statement: str) -> None:
    assert not loaded_by(statement) & {"typer", "rich", "click", "torch", "numba", "triton", "scipy", "matplotlib"}


def test_the_step_runs_on_ghosts_without_the_libraries_that_it_trains_with() -> None:
    """Every model, score, scoring, optimizer and precision, on both devices, in a process of its own."""
    code = (
        "import sys\n"
        "from memplan.prediction.rehearsal import run\n"
        "from tests.support.workloads import combinations\n"
        "assert all(run(workload).events for workload in combinations())\n"
        "print(*{'torch', 'numpy', 'numba', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_nothing_reads_or_writes_pickle() -> None:
    for path in [*(ROOT / "memplan").rglob("*.py"), *(ROOT / "tkbc").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bpickle\b(?!=)|torch\.(save|load)\(", text.replace("allow_pickle", "")), path
