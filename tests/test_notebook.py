"""The notebook for a free GPU runs from its first cell to its last, here on the CPU and the demo graph."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(ROOT / "examples" / "free_t4.ipynb", as_version=4)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "setup" in tags:
            cell.source = ""  # it is installed
        elif "parameters" in tags:
            cell.source = 'dataset, model, max_epochs = "demo", "TNTPairRE", 2'
    # The commands that it runs are those of this environment, and its paths this checkout's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "test    MRR" in printed
    assert "memplan:" not in printed, "no command failed"
    assert "demo-TNTPairRE-notebook" in printed
    rows = [line.split() for line in printed.splitlines() if " predicted" in line]
    assert rows
    assert all(row[-4] == row[-2] for row in rows), "predicted is measured"
    assert (tmp_path / "runs" / "demo-TNTPairRE-notebook" / "report.html").stat().st_size > 10_000
