"""Processes that train one step together and write down every all-reduce: the worker, and what starts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from memplan.workload import Workload
from tests.conftest import random_graph
from tkbc.sharded.connected import Connected
from tkbc.step.trainer import Trainer


def all_reduces_of_a_step(workloads: list[Workload], folder: Path) -> list[list[tuple[int, int]]]:
    """The processes of each sum and its bytes, in a full step of each workload, as the first process sees them.

    All workloads have as many processes.
    """
    (n,) = {workload.n_processes for workload in workloads}
    mp.spawn(_train_a_step, args=([w.model_dump() for w in workloads], n, str(folder)), nprocs=n)
    return [[(g, b) for g, b in calls] for calls in json.loads((folder / "calls.json").read_text(encoding="utf-8"))]


def _train_a_step(process: int, workloads: list[dict[str, Any]], n: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=n)
    all_reduce, calls = dist.all_reduce, []

    def counted(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        calls[-1].append((dist.get_world_size(named.get("group")), tensor.nbytes))
        return all_reduce(tensor, *arguments, **named)

    for values in workloads:
        workload = Workload(**{**values, "process": process})
        trainer = Trainer(
            workload, random_graph(workload.shape).train, learning_rate=0.1, processes=Connected(workload)
        )
        calls.append([])
        dist.all_reduce = counted
        trainer.step(trainer.shuffled(1)[: workload.batch_size])
        dist.all_reduce = all_reduce
    if process == 0:
        (Path(folder) / "calls.json").write_text(json.dumps(calls), encoding="utf-8")
    dist.destroy_process_group()
