"""Whole training steps at ICEWS14's shape: the trainer's scorings against the straightforward PyTorch step.

    python benchmarks/step.py                      # the guide's out-of-memory row: rank 100, batch 1000
    python benchmarks/step.py --rank 64 --batch-size 256 --repeats 9

Prints a table and writes JSON with ``--json FILE``. Times are medians with quartiles over alternating repeats in one
run: compare them as ratios, with each other only. Peaks are of the bytes that PyTorch's CPU allocator was asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import numpy as np
import torch
from rich.console import Console
from torch import nn

from memplan.catalog import find_dataset
from memplan.machine import usable_threads
from memplan.report import listing
from memplan.units import format_bytes
from memplan.workload import ModelName, Scoring, Workload, build_workload
from tkbc.meter import CpuMeter
from tkbc.trainer import Trainer


class Straightforward(nn.Module):
    """TNTPairRE as one would write it first: embeddings, autograd, cross_entropy, one (b, N, d) expression."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        relations = 2 * workload.n_relations
        self.entity = nn.Embedding(workload.n_entities, workload.rank)
        self.relations = nn.ModuleList([nn.Embedding(relations, workload.rank) for _ in range(4)])
        self.time = nn.Embedding(workload.n_timestamps, workload.rank)
        for table in self.parameters():
            table.data *= 1e-2
        self.optimizer = torch.optim.Adagrad(self.parameters(), lr=0.1)

    def step(self, batch: torch.Tensor) -> None:
        """One step: loss, N3, backward, Adagrad, projection."""
        h, r, t, tau = batch
        time_rows = self.time(tau)
        head, tail, head_temporal, tail_temporal = (table(r) for table in self.relations)
        lhs = self.entity(h)
        a = lhs * (head + head_temporal * time_rows)
        w = tail + tail_temporal * time_rows
        scores = -(a[:, None, :] - w[:, None, :] * self.entity.weight).abs().sum(-1)
        factors = (lhs, head + tail + head_temporal + tail_temporal, self.entity(t))
        penalty = sum((factor.abs() ** 3).sum() for factor in factors) / len(h)
        loss = nn.functional.cross_entropy(scores, t.long()) + 1e-3 * penalty
        difference = self.time.weight[1:] - self.time.weight[:-1]
        loss = loss + 1e-2 * (difference**2).sum() / len(difference)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.entity.weight /= self.entity.weight.norm(dim=1, keepdim=True)


def make_contestants(
    rank: int, batch_size: int, *, with_plain: bool
) -> dict[str, tuple[Callable[[], None], Callable[[], int]]]:
    """Return, by name, a function that takes a step and one that says what lives on between steps, in bytes."""
    shape = find_dataset("ICEWS14").shape
    random = np.random.default_rng(0)
    bounds = (shape.n_entities, shape.n_relations, shape.n_entities, shape.n_timestamps)
    facts = np.stack([random.integers(bound, size=shape.n_facts) for bound in bounds], axis=1).astype(np.int32)
    contestants: dict[str, tuple[Callable[[], None], Callable[[], int]]] = {}

    def add(name: str, model: ModelName, scoring: Scoring, chunk: int | None = None) -> None:
        workload = build_workload(
            shape,
            model=model,
            rank=rank,
            batch_size=batch_size,
            scoring=scoring,
            chunk_size=chunk,
            emb_reg=1e-3,
            time_reg=1e-2,
            unit_norm=model == "TNTPairRE",
            threads=usable_threads(),
        )
        trainer = Trainer(workload, facts, learning_rate=0.1)
        order = trainer.shuffled(0)[:batch_size]
        contestants[name] = (
            lambda: trainer.step(order),
            lambda: sum(tensor.nbytes for tensor in trainer.persistent_tensors()),
        )

    add("TNTPairRE, fused", "TNTPairRE", "fused")
    add("TNTPairRE, fused, chunks of 1024", "TNTPairRE", "fused", 1024)
    add("TNTPairRE, chunked, 64 at a time", "TNTPairRE", "chunked", 64)
    add("TNTComplEx, fused", "TNTComplEx", "fused")
    if with_plain:
        workload = build_workload(shape, model="TNTPairRE", rank=rank, batch_size=batch_size)
        plain = Straightforward(workload)
        batch = torch.from_numpy(np.ascontiguousarray(facts[:batch_size].T))

        def persistent() -> int:
            state = [t for entry in plain.optimizer.state.values() for t in entry.values()]
            gradients = [p.grad for p in plain.parameters() if p.grad is not None]
            return sum(tensor.nbytes for tensor in [*plain.parameters(), *gradients, *state])

        contestants["TNTPairRE, straightforward PyTorch"] = (lambda: plain.step(batch), persistent)
    return contestants


def measure(contestants: dict[str, tuple[Callable[[], None], Callable[[], int]]], repeats: int) -> list[dict[str, Any]]:
    """Return each contestant's quartiles of time and its peak above what lives on between steps."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, int] = {}
    for name, (step, _) in contestants.items():
        step()  # warm-up: caches, and gradients that exist from the first step on
        meter = CpuMeter()
        with meter.recording(), meter.phase("step"):
            step()
        peaks[name] = meter.peaks["step"].requested_bytes
    for _ in range(repeats):
        for name, (step, _) in contestants.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    rows = []
    for name, times in seconds.items():
        low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        rows.append(
            {
                "name": name,
                "median_seconds": median,
                "quartiles_seconds": [low, high],
                "peak_above_state_bytes": peaks[name],
            }
        )
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--without-plain", action="store_true", help="leave the straightforward step out (8.6 GB, 10 s)"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    contestants = make_contestants(options.rank, options.batch_size, with_plain=not options.without_plain)
    rows = measure(contestants, options.repeats)
    reference = rows[-1]["median_seconds"]
    table = [
        (
            row["name"],
            f"{row['median_seconds'] * 1e3:,.0f}",
            f"{row['quartiles_seconds'][0] * 1e3:,.0f} to {row['quartiles_seconds'][1] * 1e3:,.0f}",
            f"{reference / row['median_seconds']:,.1f}",
            format_bytes(row["peak_above_state_bytes"]),
        )
        for row in rows
    ]
    print(f"rank {options.rank}, batch {options.batch_size}, ICEWS14's shape, {usable_threads()} threads")
    columns = ("step", "ms, median>", "quartiles>", "times faster than the last>", "peak above state>")
    Console(width=140).print(listing(columns, table))
    if options.json is not None:
        about = {
            "rank": options.rank,
            "batch_size": options.batch_size,
            "repeats": options.repeats,
            "threads": usable_threads(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
