"""A day's run in little: 2,000 epochs, each validated and kept, resumed three times; and 500 runs listed.

    make long-run
    python benchmarks/long_run.py --epochs 2000 --runs 500

After every epoch the process's memory, file descriptors and threads and the bytes of the run's folder are read. They
must be flat: the last quarter's no higher than the second's but for the lines of metrics.jsonl, and of checkpoints no
more than are kept. Exit status 1 where they are not. The time of the listing is printed, not judged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.search.planner import plan
from memplan.workload import Shape
from tkbc.data.dataset import Dataset
from tkbc.runs.checkpoint_folders import KEPT, Checkpoints
from tkbc.runs.listing import list_runs
from tkbc.runs.reporter import EpochReport, Reporter, Result
from tkbc.runs.train import TrainSettings, resume, train
from tkbc.verify import random_facts

SHAPE = Shape(n_entities=40, n_relations=2, n_timestamps=5, n_facts=60)
SLACK_BYTES = 8 * 2**20
"""Of the process's memory: PyTorch's profiler, which measures a step now and then, keeps some of its own."""
DISK_SLACK_BYTES = 2**16


class Reading(NamedTuple):
    """What a run takes at the end of an epoch."""

    process_bytes: int
    descriptors: int
    threads: int
    metrics_bytes: int
    other_bytes: int
    """Of the run's folder but metrics.jsonl."""


def read(folder: Path) -> Reading:
    """Return what this process and the run's folder take."""
    process = psutil.Process()
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    metrics = sizes.pop(folder / "metrics.jsonl", 0)
    return Reading(process.memory_info().rss, process.num_fds(), process.num_threads(), metrics, sum(sizes.values()))


class Watching(Reporter):
    """Takes a reading after every epoch, and asks to stop after some."""

    def __init__(self, folder: Path, stop_after: int) -> None:
        self.folder, self.left = folder, stop_after
        self.readings: list[Reading] = []

    def epoch_done(self, report: EpochReport) -> None:
        """Read."""
        del report
        self.readings.append(read(self.folder))
        self.left -= 1


def graph_of(shape: Shape) -> Dataset:
    """Return a graph of random facts."""
    facts = random_facts(shape, shape.n_facts + 20, 0)
    names = (tuple(f"{kind}{i}" for i in range(n)) for kind, n in (("e", 40), ("r", 2), ("t", 5)))
    return Dataset("random", *names, facts[: shape.n_facts], facts[shape.n_facts :][:10], facts[-10:])


def run_long(folder: Path, epochs: int, resumes: int) -> tuple[Result, list[Reading]]:
    """Train for so many epochs, stopped and resumed so many times on the way."""
    graph = graph_of(SHAPE)
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    made = plan(SHAPE, target, model="TNTComplEx", rank=4, batch_size=60, n_queries=20)
    settings = TrainSettings(learning_rate=0.01, max_epochs=epochs, valid_freq=1)
    readings: list[Reading] = []
    part = -(-epochs // (resumes + 1))
    watching = Watching(folder, part)
    result = train(made, graph, settings, folder, watching, lambda: watching.left <= 0)
    readings += watching.readings
    while result.interrupted:
        watching = Watching(folder, part)
        found = Checkpoints(folder / "checkpoint").newest()
        assert found is not None
        result = resume(folder, found[0], found[1], graph, watching, lambda w=watching: w.left <= 0)
        readings += watching.readings
    return result, readings


def grown(readings: list[Reading]) -> list[str]:
    """Return what grew from the second quarter of the readings to the last."""
    quarter = len(readings) // 4
    early, late = readings[quarter : 2 * quarter], readings[-quarter:]
    slack = {"process_bytes": SLACK_BYTES, "other_bytes": DISK_SLACK_BYTES}
    wrong = []
    for name in ("process_bytes", "descriptors", "threads", "other_bytes"):
        before, after = (statistics.median(getattr(reading, name) for reading in part) for part in (early, late))
        if after > before + slack.get(name, 0):
            wrong.append(f"{name}: {before:,.0f} → {after:,.0f}")
    return wrong


def many_runs(root: Path, folder: Path, count: int) -> float:
    """Make ``count`` folders like a run's without its tensors, list them, and return the seconds that took."""
    for number in range(count):
        copy = root / f"run{number:04}"
        copy.mkdir(parents=True)
        for name in ("plan.json", "config.json", "memory_check.json", "lock"):
            (copy / name).write_bytes((folder / name).read_bytes())
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (copy / "metrics.jsonl").write_text("".join(lines[:50] + lines[-1:]), encoding="utf-8")
    begin = time.perf_counter()
    found = list_runs(root)
    seconds = time.perf_counter() - begin
    assert len(found) == count
    assert {run.state for run in found} == {"finished"}
    return seconds


def main() -> None:
    """Run, list, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--resumes", type=int, default=3)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        result, readings = run_long(folder, options.epochs, options.resumes)
        wrong = grown(readings)
        names = Checkpoints(folder / "checkpoint").names()
        seconds = many_runs(Path(scratch) / "many", folder, options.runs)
    if len(names) > 2 * KEPT:
        wrong.append(f"checkpoints: {len(names)}")
    first, last = readings[len(readings) // 4], readings[-1]
    told = {
        "epochs": result.epochs,
        "after_a_quarter": first._asdict(),
        "at_the_end": last._asdict(),
        "checkpoints": len(names),
        "runs_listed": options.runs,
        "listing_seconds": round(seconds, 3),
        "grew": wrong,
    }
    print(json.dumps(told) if options.json else "\n".join(f"{name}: {value}" for name, value in told.items()))
    sys.exit(1 if wrong or result.epochs != options.epochs else 0)


if __name__ == "__main__":
    main()
