"""Counts what a training step starts on the device, and what a pool of its own, as a CUDA graph has one, would take.

    run.py --gpu T4 python tests/cuda_standin/launches.py
    run.py --gpu H100 python tests/cuda_standin/launches.py

At ICEWS14's shape. Launches are kernels and copies on the device; their time is a stated cost for each. The bound is
the cost model's for the device, launches left out. Reserved bytes are the highest of training and of ranking; in the
second pair the step runs on a stream and in a memory pool of its own, which a captured graph has as long as it lives.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from typing import NamedTuple

import torch

from memplan.catalog.datasets import find_dataset
from memplan.device.target import resolve
from memplan.search.cost import seconds_per_epoch
from memplan.workload import Workload, build_workload
from tests.cuda_standin import device
from tests.cuda_standin.answered import answer
from tkbc.data.dataset import index_of
from tkbc.measure.meter import start_clean
from tkbc.ranking.evaluation import evaluate
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

MIB = 2**20
WAYS = (
    {"model": "TNTPairRE", "batch_size": 1000},
    {"model": "TNTPairRE", "batch_size": 1000, "micro_batch_size": 250, "chunk_size": 2000},
    {"model": "TNTPairRE", "batch_size": 256},
    {"model": "TNTPairRE", "batch_size": 1000, "rank": 800},
    {"model": "TNTComplEx", "batch_size": 1000},
    {"model": "TNTComplEx", "batch_size": 1000, "optimizer": "adam"},
)


class Counted(NamedTuple):
    """Calls of an ordinary step, and reserved bytes."""

    launches: int
    training_bytes: int
    ranking_bytes: int


def counted(workload: Workload, *, private: bool) -> Counted:
    """Take two steps and rank some queries; ``private``: the steps in a memory pool of their own."""
    start_clean("cuda")
    facts = random_facts(workload, workload.n_facts)
    trainer = Trainer(workload, facts, learning_rate=0.1)
    order = trainer.shuffled(0)
    stream, pool = torch.cuda.Stream(), torch.cuda.MemPool()
    for part in order.split(workload.batch_size)[:2]:
        device.reset()
        with ExitStack() as own:
            if private:
                own.enter_context(torch.cuda.stream(stream))
                own.enter_context(torch.cuda.use_mem_pool(pool))
            trainer.step(part)
    calls = device.read()
    launches = sum(calls[name] for name in ("cudaLaunchKernel", "cuLaunchKernel", "cudaMemcpyAsync on the device"))
    training = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    evaluate(trainer.model, trainer.score, facts[:500], index_of(facts[:500], workload.n_relations), workload)
    return Counted(launches, training, torch.cuda.max_memory_reserved())


def main() -> None:
    """Print a line for each way of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--launch-microseconds", type=float, default=6.0, help="what starting a kernel is taken to cost"
    )
    options = parser.parse_args()
    if device.is_here():
        answer()
    target = resolve("cuda", None)
    print(
        f"{target.name}: launches a step, ms for them, ms bound | MiB reserved: training, ranking | with its own pool"
    )
    for way in WAYS:
        settings = {"rank": 100, "emb_reg": 1e-3, "time_reg": 1e-2, "n3_parts": way["model"] == "TNTPairRE", **way}
        workload = build_workload(
            find_dataset("ICEWS14").shape, device="cuda", workspace_bytes=target.workspace_bytes, **settings
        )
        usual, private = (counted(workload, private=private) for private in (False, True))
        starting = usual.launches * options.launch_microseconds / 1e3
        bound = seconds_per_epoch(workload, target.rates._replace(launch_seconds=0)) / workload.steps_per_epoch * 1e3
        told = ", ".join(f"{name} {value}" for name, value in way.items())
        pairs = " | ".join(f"{c.training_bytes // MIB:4} {c.ranking_bytes // MIB:4}" for c in (usual, private))
        print(f"{told:70} {usual.launches:4} {starting:5.2f} {bound:5.2f} | {pairs}", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
