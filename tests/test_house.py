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


def test_programs_and_the_code_whose_bytes_they_tell_name_each_other() -> None:
    told = {
        path: re.match(r"# Its bytes are told by (memplan/memory/programs/\w+\.py)", path.read_text(encoding="utf-8"))
        for path in (ROOT / "tkbc").rglob("*.py")
    }
    pairs = [(path, ROOT / match[1]) for path, match in told.items() if match]
    assert len(pairs) >= 10
    for code, program in pairs:
        assert code.name in program.read_text(encoding="utf-8"), f"{program} does not name {code}"


def test_nothing_reads_or_writes_pickle() -> None:
    for path in [*(ROOT / "memplan").rglob("*.py"), *(ROOT / "tkbc").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bpickle\b(?!=)|torch\.(save|load)\(", text.replace("allow_pickle", "")), path
