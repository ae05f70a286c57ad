"""Two processes of one thread each against one process of two threads: time of an epoch, MRR, bytes, on ICEWS14.

    python benchmarks/processes.py benchmarks/results/processes.json

Each run is the command a user gives, and they are made one after the other on an otherwise idle machine. Seconds of an
epoch are the run's own, the first epoch left out: it holds what is measured and compiled once. Then a step over a
generated graph of a million entities, in one process and in each of two: bytes, and what the operating system counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from memplan import Settings, Shape, plan
from memplan.prediction.estimate import estimate
from tkbc.runs.metrics import read_metrics


def train(folder: Path, given: list[str]) -> dict[str, Any]:
    """Return what a run came to."""
    command = [sys.executable, "-m", "memplan", "train", *given, "--run-dir", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, stdout=subprocess.DEVNULL)
    found = read_metrics(folder)
    checks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("memory_check*.json"))]
    assert found.final is not None
    return {
        "command": " ".join(["memplan", "train", *given]),
        "seconds_per_epoch": statistics.median(epoch.seconds for epoch in found.epochs[1:]),
        "losses": [epoch.loss for epoch in found.epochs],
        "test_mrr": found.final.test.both.mrr,
        "predicted_bytes": [check["peak"]["predicted"]["requested_bytes"] for check in checks],
        "measured_bytes": [check["peak"]["measured"]["requested_bytes"] for check in checks],
    }


MILLION = Shape(n_entities=1_000_000, n_relations=50, n_timestamps=100, n_facts=100_000)
MILLION_SETTINGS: Settings = {"model": "TNTPairRE", "rank": 100, "batch_size": 256, "budget": "2GiB", "device": "cpu"}


def take_a_step(process: int, n: int, port: int, results: Any) -> None:
    """Take one step over a million entities as one of ``n`` processes, and report its bytes."""
    import resource

    from tkbc.data.demo import random_facts
    from tkbc.measure.meter import CpuMeter
    from tkbc.sharded import Processes
    from tkbc.sharded.connected import Connected, joined, meet
    from tkbc.step.threads import score_threads
    from tkbc.step.trainer import Trainer

    os.environ.update(RANK=str(process), WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    mesh: Settings = {"devices": n, "shards": n} if n > 1 else {}
    made = plan(MILLION, **MILLION_SETTINGS, **mesh)
    workload, meter = made.workload.model_copy(update={"process": process}), CpuMeter()
    with joined(meet(), "cpu") if n > 1 else nullcontext(), score_threads(workload):
        processes = Connected(workload) if n > 1 else Processes(workload)
        facts = random_facts(MILLION, MILLION.n_facts)
        with meter.recording():
            trainer = Trainer(workload, facts, learning_rate=0.1, processes=processes, phase=meter.phase)
            trainer.step(trainer.shuffled(0)[: workload.batch_size])
    predicted = {phase.name: phase.peak_bytes for phase in estimate(workload).phases}
    found = {
        "predicted_bytes": max(predicted[name] for name in meter.peaks),
        "measured_bytes": max(reading.requested_bytes for reading in meter.peaks.values()),
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    results.put((process, found))


def million(n: int) -> list[dict[str, Any]]:
    """Return the bytes of each of ``n`` processes."""
    context = get_context("spawn")
    results: Any = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=take_a_step, args=(process, n, port, results)) for process in range(n)]
    for one in started:
        one.start()
    found = dict(results.get() for _ in started)
    for one in started:
        one.join()
    return [found[process] for process in range(n)]


def main() -> None:
    """Make both runs and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rank", type=int, default=280)
    options = parser.parse_args()
    given = ["--dataset", "ICEWS14", "--model", "TNTPairRE", "--rank", str(options.rank), "--device", "cpu"]
    given += ["--max-epochs", str(options.epochs), "--cooldown", "0"]
    with tempfile.TemporaryDirectory() as folder:
        one = train(Path(folder) / "one", given)
        two = train(Path(folder) / "two", [*given, "--devices", "2", "--shards", "2"])
    found = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numba")}},
        "one process, two threads": one,
        "two processes, one thread each": two,
        "time of an epoch, two to one": two["seconds_per_epoch"] / one["seconds_per_epoch"],
        "difference of test MRR": two["test_mrr"] - one["test_mrr"],
        "a million entities": {
            **MILLION.model_dump(),
            **MILLION_SETTINGS,
            "one process": million(1),
            "two processes": million(2),
        },
    }
    options.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
