"""The notebooks for free GPUs run from their first cell to their last, here on the CPU and the demo graph."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, parameters: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the notebook ``name`` in ``folder`` with its parameters replaced; return what it printed."""
    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "setup" in tags:
            cell.source = ""  # it is installed
        elif "parameters" in tags:
            cell.source = parameters
    # The commands that it runs are those of this environment, and its paths this checkout's.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "test    MRR" in printed
    assert "memplan:" not in printed, "no command failed"
    rows = [line.split() for line in printed.splitlines() if " predicted" in line]
    assert rows
    assert all(row[-4] == row[-2] for row in rows if row[-1] == "measured"), "predicted is measured"
    return printed


@pytest.mark.slow
def test_the_notebook_for_one_gpu_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("free_t4.ipynb", 'dataset, model, max_epochs = "demo", "TNTPairRE", 2', tmp_path, monkeypatch)
    assert "demo-TNTPairRE-notebook" in printed
    assert (tmp_path / "runs" / "demo-TNTPairRE-notebook" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_notebook_for_two_gpus_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = 'dataset, models, max_epochs = "demo", ("TNTPairRE", "TNTComplEx"), 1'
    printed = run("kaggle_t4x2.ipynb", parameters, tmp_path, monkeypatch)
    assert printed.count("run folder runs/demo-") == 2
    assert "seasonal relation" in printed
    assert [path.parent.name for path in tmp_path.glob("runs/*/report.html")]
