"""What a terminal shows: at 80 columns, in ASCII, in a notebook, with names that would play tricks on it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import memplan
from memplan.app.cli import app
from memplan.app.views.notebook import NotebookReporter, in_notebook
from memplan.app.views.progress import ConsoleReporter
from memplan.app.views.tables import comparison_report, runs_listing
from memplan.app.views.terminal import printable
from memplan.catalog.guide import CLAIMS
from memplan.device.target import resolve
from memplan.search.compare import compare_with_guide
from memplan.workload import Shape
from tests.conftest import random_graph, write_folder
from tkbc.runs.listing import RUNS, RunInfo, find_run
from tkbc.runs.reporter import EpochReport, MemoryNow

ROOT = Path(__file__).resolve().parents[3]
SHAPE = Shape(n_entities=30, n_relations=4, n_timestamps=6, n_facts=200)
EVIL = "Eve\x1b]0;owned\x07\x1b[31m"


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False, markup=False
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memplan", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_progress_line_keeps_epoch_bar_and_time_left(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(width)
    reporter = ConsoleReporter(console)
    reporter.epoch_begins(17, 200, 145_652)
    progress = reporter._progress
    assert progress is not None
    monkeypatch.setattr("memplan.app.views.progress._REFRESH_SECONDS", 0.0)
    for examples in (1000, 60_000):
        reporter.step_done(examples, lambda: 0.4321, lambda: MemoryNow(2**25, 2**26, 2**27, 2**33, 2**31))
        reporter._first = (1000, time.perf_counter() - 5)
    reporter.close()
    with console.capture() as captured:
        console.print(progress.get_renderable())
    lines = captured.get().splitlines()
    assert len(lines) == 1
    assert "epoch 17/200" in lines[0]
    assert "━" in lines[0]
    assert len(re.findall(r"\d:\d\d:\d\d|-:--:--", lines[0])) == 2
    assert ("budget" in lines[0]) == (width >= 200)
    assert "loss 0.432" in lines[0]
    assert ("examples/s" in lines[0]) == (width >= 80)
    assert "…" not in lines[0]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_hold_what_matters_at_every_width(width: int) -> None:
    rows = list(compare_with_guide(resolve("T4", None), {"threads": 2}))
    console = terminal(width)
    console.print(comparison_report(console, rows, resolve("T4", None)))
    text = shown(console)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    table = text.split("here: ")[0].splitlines()
    assert len(table) == 1 + len(rows) + (0 if width == 200 else len(CLAIMS)), "no cell is broken over lines"
    for row in rows:
        pattern = rf"\b{row.rank} +{row.batch_size} +{row.scoring} .*{row.device_bytes / 1e9:.2f} GB"
        assert any(re.search(pattern, line) for line in table)
    infos = [
        RunInfo(Path(f"runs/ICEWS05-15-TNTPairRE-20261124-18453{n}"), "interrupted", 0.0, "TNTPairRE", "ICEWS05-15",
                280, 1000, 250, 7128, "l1 fused", 2**29, 2**28, 17, 200, 0.5612, None)
        for n in range(3)
    ]  # fmt: skip
    console = terminal(width)
    console.print(runs_listing(console, infos))
    text = shown(console)
    assert all(len(line) <= width for line in text.splitlines())
    for info in infos:
        assert str(info.folder) in text
    for told in ("interrupted", "TNTPairRE", "280", "17/200", "0.5612", "512 MiB", "256 MiB"):
        assert text.count(told) >= 3, told


@pytest.mark.slow
def test_an_ascii_stream_is_written_to_without_a_traceback() -> None:
    for arguments in (["--help"], ["train", "--help"], ["estimate", "--device", "T4"], ["compare", "--device", "T4"]):
        found = run(*arguments, PYTHONIOENCODING="ascii")
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout.isascii()
    estimate = run("estimate", "--device", "T4", PYTHONIOENCODING="ascii").stdout
    assert " x " in estimate
    assert "#" in estimate
    assert "×" in run("estimate", "--device", "T4", PYTHONIOENCODING="utf-8").stdout


def test_json_is_the_same_in_every_encoding(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "Đồ thị", random_graph(SHAPE))
    asked = ["estimate", "--dataset", str(folder), "--device", "cpu", "--budget", "1GiB", "--json"]
    found = [json.loads(run(*asked, PYTHONIOENCODING=encoding).stdout) for encoding in ("ascii", "utf-8")]
    assert found[0] == found[1]
    assert "Đồ thị" in found[0]["workload"]["dataset"]


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert printable(EVIL) == r"Eve\x1b]0;owned\x07\x1b[31m"
    assert printable("a\u202eb\x9b\n") == r"a\u202eb\x9b\n"
    plain = "Đồ thị_(tiếng Việt) 日本 \u200d é ×"
    assert printable(plain) == plain


@pytest.mark.slow
def test_names_with_escape_sequences_do_not_reach_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{EVIL if n % 2 else 'a'}{n % 5}\tr{EVIL}\tb{n % 7}\t2014-01-0{1 + n % 6}" for n in range(40)]
    for name in ("train", "valid", "test"):
        (tmp_path / "graph").mkdir(exist_ok=True)
        (tmp_path / "graph" / name).write_text("\n".join(lines), encoding="utf-8")
    trained = CliRunner().invoke(
        app, ["train", "--dataset", "./graph", "--rank", "4", "--max-epochs", "1", "--device", "cpu"]
    )
    assert trained.exit_code == 0, trained.output
    asked = [
        ["predict", "latest", "--head", "a0", "--relation", f"r{EVIL}", "--time", "2014-01-01"],
        ["predict", "latest", "--tail", "b1", "--relation", f"r{EVIL}", "--time", "2014-01-01"],
        ["nearest", "latest", "a0"],
        ["nearest", "latest", "nobody at all"],
    ]
    for arguments in asked:
        result = CliRunner().invoke(app, arguments)
        assert "Eve" in result.output or "nobody" in result.output
        assert not set(result.output) & set("\x1b\x07")
    assert "\x1b" not in trained.output

    # The same run by every name it has, and what is next after it.
    folder = next((tmp_path / "runs").iterdir())
    assert find_run("latest") == find_run(folder.name) == RUNS / folder.name
    assert find_run(folder) == folder
    assert find_run("nothing") == Path("nothing")
    assert f"next  memplan report runs/{folder.name}\n" in trained.output
    assert f"memplan evaluate runs/{folder.name} --split valid" in trained.output
    for name in ("latest", folder.name, str(folder), f"runs/{folder.name}"):
        for command in (["monitor", name], ["report", name], ["estimate", "--run", name]):
            assert CliRunner().invoke(app, command).exit_code == 0, command
    refused = CliRunner().invoke(app, ["train", "--resume", "latest"])
    assert "is finished" in refused.output
    assert CliRunner().invoke(app, ["train", "--resume", folder.name, "--max-epochs", "2"]).exit_code == 0


def test_latest_without_any_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "latest"])
    assert (result.exit_code, result.output) == (1, "memplan: latest: no run in runs/ yet; memplan train makes one\n")


def test_a_notebook_has_one_line_however_many_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr("memplan.app.views.progress._REFRESH_SECONDS", 0.0)
    reporter = NotebookReporter(console)
    reporter.preparing("the first step")
    for epoch in range(1, 101):
        reporter.epoch_begins(epoch, 100, 1000)
        reporter.step_done(500, lambda: 1.25, lambda: MemoryNow(1, 2, 3, 4, 5))
        reporter.evaluating("valid", 5, 10)
        reporter.epoch_done(EpochReport(epoch, 0.5, 0.0, 1.0, 1000.0, None))
    reporter.close()
    text = shown(console)
    assert text.count("\n") == 1
    assert text.endswith("\repoch 100/100  loss 0.5000  1,000/s".ljust(len(text.split("\r")[-1])) + "\n")
    widths = [len(part) for part in text.rstrip("\n").split("\r")]
    assert all(len(part.rstrip()) <= 80 for part in text.split("\r"))
    assert len(widths) > 300, "it lives"


def test_where_a_notebook_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert in_notebook(terminal(80)), "a command after an exclamation mark"
    assert not in_notebook(Console(file=io.StringIO())), "its output goes to a file"
    monkeypatch.delenv("JPY_PARENT_PID")
    assert not in_notebook(terminal(80))


def test_version_module_and_completion() -> None:
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"memplan {memplan.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", memplan.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        memplan.nothing  # noqa: B018
    completed = run(_MEMPLAN_COMPLETE="complete_bash", COMP_WORDS="memplan comp", COMP_CWORD="1")
    assert completed.stdout.split() == ["compare"]


def test_the_plan_is_shown_before_torch_is_loaded(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "graph", random_graph(SHAPE))
    script = """
import sys
from memplan.app.jobs import supervise
def stop(plan):
    print("torch" in sys.modules, "numba" in sys.modules)
    raise SystemExit
supervise.prepare_torch = stop
sys.argv[0] = "memplan"
from memplan.app.cli import main
main()
"""
    command = [sys.executable, "-c", script, "train", "--dataset", str(folder), "--device", "cpu", "--max-epochs", "1"]
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    lines = found.stdout.splitlines()
    assert lines[-1] == "False False", found.stderr
    assert lines[0].startswith("TNTPairRE on graph: 30 entities")
    assert lines[-2].startswith("learning rate")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--dataset", "ICEWS14", "--device", "T4", "--rank", "64"],
            "next  on the T4, memplan train --auto-fit-gpu --dataset ICEWS14 --rank 64",
        ),
        (
            ["--device", "cpu", "--budget", "1g", "--no-unit-norm"],
            "next  memplan train --auto-fit-gpu --no-unit-norm --device cpu --budget 1g",
        ),
        (
            ["--n-entities", "99", "--n-relations", "9", "--n-timestamps", "9", "--n-facts", "999", "--device", "cpu"],
            "next  memplan train --auto-fit-gpu --dataset FOLDER --device cpu",
        ),
    ],
)
def test_a_plan_says_how_to_train_it(arguments: list[str], line: str) -> None:
    result: Any = CliRunner().invoke(app, ["plan", *arguments])
    assert result.stdout.splitlines()[-1] == line
