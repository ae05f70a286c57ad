"""What the tests share: where the real data lies, and graphs made of random facts."""

from __future__ import annotations

import os

# PyTorch's profiler otherwise writes lines of its own to stderr; read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# Without a GPU the Triton kernels run in Triton's interpreter; read when a kernel is declared.
os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from memplan.workload import Shape
from tkbc.data import Dataset
from tkbc.verify import random_facts

# The same examples every time: a test suite that lands or fails by luck tells nobody anything.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder with real datasets; tests that need it are skipped where it is absent."""
    if not (REAL_DATA / "ICEWS14" / "train").is_file():
        pytest.skip(f"no real data in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the parsed cache and the data directory of the tests apart from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.getbasetemp() / "data"))
    monkeypatch.delenv("TKBC_DATA", raising=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: small tensors only wait for each other's."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_graph(shape: Shape, n_valid: int = 7, n_test: int = 9, seed: int = 0) -> Dataset:
    """Return a graph of random facts."""
    facts = random_facts(shape, shape.n_facts + n_valid + n_test, seed)
    train, valid, test = np.split(facts, [shape.n_facts, shape.n_facts + n_valid])
    names = (
        tuple(f"{kind}{i}" for i in range(n))
        for kind, n in (("e", shape.n_entities), ("r", shape.n_relations), ("t", shape.n_timestamps))
    )
    return Dataset("random", *names, train, valid, test)


def write_folder(folder: Path, graph: Dataset) -> Path:
    """Write a graph as a raw folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        lines = (
            f"{graph.entities[h]}\t{graph.relations[r]}\t{graph.entities[t]}\t{graph.timestamps[time]}\n"
            for h, r, t, time in graph.split(name)
        )
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder
