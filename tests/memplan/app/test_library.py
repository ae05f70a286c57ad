"""The planner as a library: the same answers as the commands, typed and documented."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import memplan
from memplan import Settings, Shape, estimate, plan
from memplan.app import api as library
from memplan.app.request import JobRequest
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from tests.conftest import random_graph, write_folder
from tests.support.cli import read_json
from tests.support.data import SHAPE

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*.py"))


def test_the_examples_in_the_docstrings_are_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # each thread of the kernel has scratch of its own
    found = doctest.testmod(library)
    assert found.attempted >= 2
    assert found.failed == 0


def test_the_library_gives_what_the_commands_give() -> None:
    asked = {"model": "TNTPairRE", "rank": 64, "device": "T4"}
    flags = ["--dataset", "ICEWS14", "--model", "TNTPairRE", "--rank", "64", "--device", "T4"]
    assert estimate("ICEWS14", **asked).model_dump(mode="json") == read_json("estimate", *flags)  # type: ignore[arg-type]
    assert plan("ICEWS14", **asked).model_dump(mode="json") == read_json("plan", *flags)  # type: ignore[arg-type]


def test_a_shape_serves_as_a_graph() -> None:
    shape = Shape(n_entities=1000, n_relations=10, n_timestamps=50, n_facts=5000)
    found = plan(shape, model="PairRE", rank="max", epoch_seconds=5.0, device="cpu", budget="64MiB")
    assert found.workload.shape == shape
    assert found.rank > 100
    assert found.seconds_per_epoch <= 5
    with pytest.raises(DoesNotFitError):
        plan(shape, model="PairRE", device="cpu", budget="100KiB")
    assert plan(shape, model="PairRE", device="cpu", budget=2**26).budget_bytes == 2**26
    with pytest.raises(UsageError, match="out of range"):
        plan(shape, model="PairRE", device="cpu", budget=0)
    with pytest.raises(UsageError):
        estimate(shape, model="PairRE", rank=0)


def test_paths_serve_as_text_does(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "graph", random_graph(SHAPE))
    found = estimate(folder, device="cpu", budget="1GiB")
    assert found == estimate(str(folder), device="cpu", budget="1GiB")
    with pytest.raises(MemplanError, match="not on this machine"):
        estimate("ICEWS14", data_dir=str(tmp_path), device="cpu")


def test_every_option_of_the_commands_is_a_setting_of_the_library() -> None:
    options = {field.name for field in fields(JobRequest)} - {"dataset"}
    assert set(Settings.__annotations__) == options
    for name in memplan.__all__:
        assert inspect.getdoc(getattr(memplan, name))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.slow
def test_every_example_runs(path: Path, tmp_path: Path) -> None:
    if path.stem.startswith("pykeen"):
        pytest.importorskip("pykeen")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
