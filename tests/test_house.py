"""The rooms keep their walls: what imports what, and which files tell each other's bytes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted(
    path
    for path in (ROOT / "memplan").rglob("*.py")
    # memplan/trace runs a user's PyTorch code: imported by name only, as the commands' jobs are.
    if not re.fullmatch(r"cli.py|(\w+_)?job.py", path.name) and path.parent.name != "trace"
)


def module_level_imports(path: Path) -> set[str]:
    """The top-level packages that a module imports when it is imported, type-checking blocks aside."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_planner_s_core_needs_neither_the_trainer_nor_its_libraries(path: Path) -> None:
    assert not module_level_imports(path) & {"tkbc", "torch", "numpy", "numba", "triton", "psutil", "pynvml"}


def test_the_step_runs_on_ghosts_without_the_libraries_that_it_trains_with() -> None:
    """Every model, score, scoring, optimizer and precision, on both devices, in a process of its own."""
    code = (
        "import sys\n"
        "from memplan.memory.rehearsal import run\n"
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
