"""A step over a million entities, dense and with negatives: seconds, and bytes predicted and measured.

    python benchmarks/negatives.py --json benchmarks/results/negatives.json

A generated graph; the fastest plan that fits ``--budget`` for each way, each in a process of its own, one after the
other. Setup and the first step are measured by PyTorch's profiler and not timed; then come the timed steps, of which
the median counts. The process's peak is what the operating system says, libraries and facts included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("GOMP_SPINCOUNT", "100")  # as memplan train sets it for fused L1 runs

from memplan import Shape, plan

SHAPE = Shape(n_entities=1_000_000, n_relations=50, n_timestamps=100, n_facts=100_000)


def measured(settings: dict[str, Any], n_steps: int) -> dict[str, Any]:
    """Return what a way to train takes: bytes of a step and of the process, and the median seconds of a step."""
    from tkbc.measure.meter import CpuMeter
    from tkbc.step.trainer import Trainer
    from tkbc.verify import random_facts

    made = plan(SHAPE, device="cpu", **settings)
    workload, meter = made.workload, CpuMeter()
    facts = random_facts(SHAPE, SHAPE.n_facts)
    with meter.recording():
        trainer = Trainer(workload, facts, learning_rate=0.1, phase=meter.phase)
        first, *others = trainer.shuffled(0).split(workload.batch_size)[: 1 + n_steps]
        trainer.step(first)
    predicted = max(phase.peak_bytes for phase in made.phases if phase.name in meter.peaks)
    seconds = []
    for part in others:
        begin = time.perf_counter()
        trainer.step(part)
        seconds.append(time.perf_counter() - begin)
    names = ("batch_size", "micro_batch_size", "chunk_size", "negatives", "threads")
    return {
        **{name: getattr(workload, name) for name in names},
        "predicted_bytes": predicted,
        "measured_bytes": max(reading.requested_bytes for reading in meter.peaks.values()),
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "steps": n_steps,
        "step_seconds": round(median(seconds), 4),
    }


def main() -> None:
    """Measure both ways, print and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--negatives", type=int, default=4096)
    parser.add_argument("--budget", default="2GiB")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    settings = {
        "model": "TNTPairRE", "rank": options.rank, "batch_size": options.batch_size, "budget": options.budget
    }  # fmt: skip
    found: dict[str, Any] = {"graph": SHAPE.model_dump(), "model": "TNTPairRE", "rank": options.rank}
    ways = {"dense": (settings, 3), "negatives": ({**settings, "negatives": options.negatives}, 30)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for name, way in ways.items():
            found[name] = processes.submit(measured, *way).result()
    found["ratio"] = round(found["dense"]["step_seconds"] / found["negatives"]["step_seconds"], 1)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
