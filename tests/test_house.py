"""The rooms keep their walls: what imports what, and which files tell each other's bytes."""

from __future__ import annotations

import ast
import re
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
