"""What is written, what must be left of it after a crash, and that it can be written again from there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors.torch import load_file

from memplan.app.jobs.resume import _beginning
from memplan.catalog.downloads import RemoteFile
from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.errors import MemplanError
from memplan.files import read_lines
from memplan.search.planner import plan
from memplan.workload import Shape
from tests.conftest import random_graph, write_folder
from tkbc.data import Dataset
from tkbc.data.cache import load_folder
from tkbc.data.download import download
from tkbc.runs.checkpoint import save_checkpoint
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.folder import RunFolder
from tkbc.runs.metrics import Epoch
from tkbc.runs.settings import TrainSettings
from tkbc.runs.state import RunState, present_versions
from tkbc.step.trainer import Trainer
from tkbc.use.export import export

SHAPE = Shape(n_entities=30, n_relations=2, n_timestamps=4, n_facts=40)


class Acting(NamedTuple):
    """A scenario at work in a folder."""

    act: Callable[[], None]
    checks: Callable[[Path, bool], None]
    """Given the folder as a crash left it, and whether the act had come to its end before."""
    may_pass_over: bool = False
    """A full disk is no error here."""

    def check(self, root: Path, *, done: bool) -> None:
        """Check what a crash left."""
        self.checks(root, done)

    def check_full(self, root: Path, said: Exception | None) -> None:
        """Check what a full disk left, and that it was told in one line."""
        if said is None:
            assert self.may_pass_over, "a full disk was passed over in silence"
        else:
            assert isinstance(said, MemplanError), repr(said)
            assert "No space left on device" in str(said), str(said)
            assert "\n" not in str(said)
        self.checks(root, False)


class Scenario(Protocol):
    """Prepares a folder and says what to do there; its first line names what is written."""

    __name__: str

    def __call__(self, root: Path, /) -> AbstractContextManager[Acting]:
        """Prepare ``root``."""


def made_trainer() -> tuple[Trainer, RunState]:
    graph = random_graph(SHAPE)
    made = plan(SHAPE, Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0), model="TNTPairRE", rank=4, batch_size=10)
    state = RunState(
        plan=made,
        settings=TrainSettings(learning_rate=0.1, max_epochs=9),
        dataset="random",
        data_sha256=graph.sha256,
        versions=present_versions(),
    )
    return Trainer(made.workload, graph.train, learning_rate=0.1), state


TRAINER, STATE = made_trainer()


def save(checkpoints: Checkpoints, steps: int) -> None:
    """Write a checkpoint whose every table holds the number of its steps."""
    for table in TRAINER.model.parameters():
        table.detach().fill_(steps)
    save_checkpoint(checkpoints, checkpoints.next_name(), TRAINER, STATE.model_copy(update={"steps": steps}))


def steps_of(checkpoints: Checkpoints) -> int:
    """Return the steps of the newest whole checkpoint, 0 where there is none; its tables must be of that step."""
    found = checkpoints.newest()
    if found is None:
        return 0
    name, state = found
    for table in load_file(checkpoints.folder / name / "model.safetensors").values():
        assert (table == state.steps).all(), "a checkpoint of two steps"
    assert checkpoints.best_or_newest() == name
    return state.steps


def checkpoint_after(before: int) -> Callable[[Path], AbstractContextManager[Acting]]:
    @contextmanager
    def scenario(root: Path) -> Iterator[Acting]:
        checkpoints = Checkpoints(root / "run" / "checkpoint")
        (root / "run").mkdir()
        for steps in range(1, before + 1):
            save(checkpoints, steps)

        def checks(root: Path, done: bool) -> None:
            left = Checkpoints(root / "run" / "checkpoint")
            assert steps_of(left) in ((before + 1,) if done else (before, before + 1))
            (root / "run").mkdir(exist_ok=True)
            save(left, before + 2)
            assert steps_of(left) == before + 2
            assert not list(left.folder.glob("*.unfinished"))

        yield Acting(lambda: save(checkpoints, before + 1), checks)

    return scenario


first_checkpoint = checkpoint_after(0)
first_checkpoint.__doc__, first_checkpoint.__name__ = "a run's first checkpoint", "first_checkpoint"
later_checkpoint = checkpoint_after(4)
later_checkpoint.__doc__, later_checkpoint.__name__ = "a checkpoint that an old one makes way for", "later_checkpoint"


def epoch_line(epoch: int) -> Epoch:
    return Epoch(epoch=epoch, loss=1.0 / epoch, n3_penalty=0.0, seconds=1.0, examples_per_second=1.0, valid=None)


def epochs_of(folder: Path) -> list[int]:
    return [line["epoch"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line]


@contextmanager
def new_run(root: Path) -> Iterator[Acting]:
    """a new run's folder"""
    folder = root / "runs" / "one"

    def checks(root: Path, done: bool) -> None:
        left = root / "runs" / "one"
        assert left.exists() or not done
        if left.exists():
            assert _beginning(left).settings == STATE.settings
            opened = RunFolder(left)
        else:
            opened = RunFolder.create(left, STATE)
        opened.rewind(STATE)
        opened.append(epoch_line(1))
        opened.close()
        assert epochs_of(left) == [1]

    yield Acting(lambda: RunFolder.create(folder, STATE).close(), checks)


def run_with_three_epochs(root: Path) -> RunFolder:
    opened = RunFolder.create(root / "run", STATE)
    for epoch in (1, 2, 3):
        opened.append(epoch_line(epoch))
    return opened


@contextmanager
def metrics_line(root: Path) -> Iterator[Acting]:
    """a line of metrics.jsonl"""
    opened = run_with_three_epochs(root)

    def checks(root: Path, done: bool) -> None:
        assert epochs_of(root / "run") in ([[1, 2, 3, 4]] if done else [[1, 2, 3], [1, 2, 3, 4]])
        again = RunFolder(root / "run")
        again.rewind(STATE.model_copy(update={"epoch": 4}))
        again.append(epoch_line(4))
        again.close()
        assert epochs_of(root / "run") == [1, 2, 3, 4]

    opened.close()
    yield Acting(lambda: opened.append(epoch_line(4)), checks)


@contextmanager
def going_on(root: Path) -> Iterator[Acting]:
    """going on: plan.json, config.json, metrics.jsonl anew"""
    opened = run_with_three_epochs(root)
    settings = STATE.settings.model_copy(update={"max_epochs": 20})
    changed = STATE.model_copy(update={"epoch": 3, "settings": settings})

    def checks(root: Path, done: bool) -> None:
        assert epochs_of(root / "run") in ([[1, 2]] if done else [[1, 2, 3], [1, 2]])
        assert _beginning(root / "run").settings.max_epochs in ((20,) if done else (9, 20))
        again = RunFolder(root / "run")
        again.rewind(changed)
        again.close()
        assert epochs_of(root / "run") == [1, 2]

    opened.close()
    yield Acting(lambda: opened.rewind(changed), checks)


def exported(suffix: str) -> Callable[[Path], AbstractContextManager[Acting]]:
    @contextmanager
    def scenario(root: Path) -> Iterator[Acting]:
        graph, name = random_graph(SHAPE), f"tables{suffix}"

        def write(value: float, folder: Path) -> None:
            for table in TRAINER.model.parameters():
                table.detach().fill_(value)
            export(TRAINER.model, graph, {"value": value}, folder / name)

        def value_in(path: Path) -> float:
            if suffix == ".npz":
                with np.load(path, allow_pickle=False) as file:
                    tables = [file[key] for key in file.files if not key.endswith("labels") and key != "about"]
                    about = json.loads(str(file["about"]))["value"]
            else:
                from pyarrow import parquet

                found = parquet.read_table(path)
                tables = [np.array(found["embedding"].to_pylist())]
                about = json.loads(found.schema.metadata[b"about"])["value"]
            assert all((table == about).all() for table in tables)
            return float(about)

        write(1, root)

        def checks(root: Path, done: bool) -> None:
            assert value_in(root / name) in ((2.0,) if done else (1.0, 2.0))
            write(3, root)
            assert value_in(root / name) == 3
            assert [path.name for path in root.iterdir()] == [name]

        yield Acting(lambda: write(2, root), checks)

    return scenario


npz_export, parquet_export = exported(".npz"), exported(".parquet")
npz_export.__doc__, npz_export.__name__ = "an export to .npz over an older one", "npz_export"
parquet_export.__doc__, parquet_export.__name__ = "an export to .parquet over an older one", "parquet_export"


def same(one: Dataset, other: Dataset) -> bool:
    return one.sha256 == other.sha256


@contextmanager
def downloaded(root: Path) -> Iterator[Acting]:
    """a download"""
    graph = random_graph(SHAPE)
    served = write_folder(root.parent / "served", graph)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    files = [
        RemoteFile(split, (f"http://127.0.0.1:{server.server_port}/{split}",), len(graph.split(split)))
        for split in ("train", "valid", "test")
    ]

    def fetch(folder: Path) -> None:
        download("graph", files, folder / "data" / "graph", wait_seconds=0)

    def checks(root: Path, done: bool) -> None:
        folder = root / "data" / "graph"
        assert folder.exists() or not done
        if not folder.exists():
            fetch(root)
        assert sorted(path.name for path in folder.iterdir()) == ["test", "train", "valid"]
        assert all((folder / name).read_bytes() == (served / name).read_bytes() for name in ("train", "valid", "test"))

    try:
        yield Acting(lambda: fetch(root), checks)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def cached(root: Path) -> Iterator[Acting]:
    """the cache of a parsed dataset"""
    graph = random_graph(SHAPE)
    folder = write_folder(root.parent / "raw", graph)
    expected = load_folder(folder, "graph", root.parent / "other cache")

    def checks(root: Path, done: bool) -> None:
        del done  # it only saves time: whether it is there matters to nobody
        for _ in range(2):
            assert same(load_folder(folder, "graph", root / "cache"), expected)

    def act() -> None:
        assert same(load_folder(folder, "graph", root / "cache"), expected)

    yield Acting(act, checks, may_pass_over=True)


SCENARIOS: tuple[Scenario, ...] = (
    first_checkpoint, later_checkpoint, new_run, metrics_line, going_on, npz_export, parquet_export, downloaded, cached,
)  # type: ignore[assignment]  # fmt: skip
