"""The fused L1 score and the training step around it, against every other way, on this machine's CPU.

    python benchmarks/scoring.py --json FILE            # all of it: some ten minutes, 9 GiB of RAM, two cores
    python benchmarks/scoring.py --only step            # one part: step, kernel, grid or growth
    python benchmarks/draw.py FILE FIGURE.svg

step    whole TNTPairRE training steps at ICEWS14's shape, rank 100, batch 1000, in every way there is
kernel  the score alone, forward and backward, against two matrix products, at rank 64 and 100
grid    kernel and step over three datasets × rank 50 to 500 × batch 128 to 1000, against the ComplEx family
growth  the kernel with N to 1,000,000 and d to 2,000

Contestants take turns; times are medians with quartiles of one run, to be compared as ratios with each other only.
Peaks are what PyTorch's CPU allocator was asked for above what lives on between steps; what KeOps allocates by itself
is not in them. Its first call and torch.compile's include compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "100")  # PyTorch's threads would spin on the cores of the kernel's

import numpy as np
import torch
from rich.console import Console
from timing import take_turns
from ways import Straightforward, TwoProductsInPlace, compiled, in_chunks, keops, plain, two_products

from memplan.app.views.terminal import listing
from memplan.catalog.datasets import find_dataset
from memplan.device.present import usable_threads
from memplan.units import format_bytes
from memplan.workload import ModelName, Scoring, build_workload
from tkbc.measure.meter import CpuMeter
from tkbc.scoring import make_score
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

DATASETS = ("ICEWS14", "ICEWS05-15", "YAGO15K")
RANKS = (50, 64, 100, 128, 500)
BATCHES = (128, 256, 1000)
CHUNK = 1440
FUSED, PRODUCTS, IN_PLACE = "fused L1", "two matrix products", "two matrix products, in place"
PAIRRE, COMPLEX = "TNTPairRE, fused", "TNTComplEx, fused"
Row = dict[str, Any]


def trainer_step(
    dataset: str, model: ModelName, rank: int, batch: int, scoring: Scoring = "fused", chunk: int | None = None
) -> Callable[[], object]:
    """Return a function that takes one of the trainer's steps."""
    shape = find_dataset(dataset).shape
    workload = build_workload(
        shape,
        model=model,
        rank=rank,
        batch_size=batch,
        scoring=scoring,
        chunk_size=chunk,
        emb_reg=1e-3,
        time_reg=1e-2,
        unit_norm=model == "TNTPairRE",
        threads=usable_threads(),
    )
    trainer = Trainer(workload, random_facts(shape, shape.n_facts), learning_rate=0.1)
    order = trainer.shuffled(0)[:batch]
    return lambda: trainer.step(order)


def peak_above_state(step: Callable[[], object]) -> int:
    """Return the most that a step has alive beyond what lives on: the meter, turned on, counts from nothing."""
    meter = CpuMeter()
    with meter.recording(), meter.phase("step"):
        step()
    return meter.peaks["step"].requested_bytes


def bench_step(repeats: int, *, heavy: bool) -> list[Row]:
    """Whole steps in every way."""
    rank, batch = 100, 1000
    shape = find_dataset("ICEWS14").shape
    contestants = {
        PAIRRE: trainer_step("ICEWS14", "TNTPairRE", rank, batch),
        f"TNTPairRE, fused, chunks of {CHUNK}": trainer_step("ICEWS14", "TNTPairRE", rank, batch, "fused", CHUNK),
        COMPLEX: trainer_step("ICEWS14", "TNTComplEx", rank, batch),
    }
    if heavy:
        examples = torch.from_numpy(np.ascontiguousarray(random_facts(shape, batch).T))
        workload = build_workload(shape, model="TNTPairRE", rank=rank, batch_size=batch)
        ways = {"torch.compile": compiled(), "chunks of 2,000, graphs kept": in_chunks, "plain PyTorch": plain}
        try:
            ways["KeOps"] = keops()
        except ImportError:
            print("KeOps is left out: pip install pykeops")
        for name, loss in ways.items():
            model = Straightforward(workload, loss)
            contestants[f"TNTPairRE, {name}"] = lambda model=model: model.step(examples)  # type: ignore[misc]
    times = take_turns(contestants, repeats, seconds_each=15 if heavy else 5)
    return [
        {"part": "step", "dataset": "ICEWS14", "rank": rank, "batch": batch, "name": name, **times[name].as_row()}
        | {"peak_above_state_bytes": peak_above_state(step)}
        for name, step in contestants.items()
    ]


def kernel_contestants(b: int, n: int, d: int) -> dict[str, Callable[[], object]]:
    """Return forward and backward of the fused kernel and of two matrix products at a shape."""
    generator = torch.Generator().manual_seed(0)
    a, w, e = (torch.randn(rows, d, generator=generator) for rows in (b, b, n))
    out, grad_scores = torch.empty(b, n), torch.randn(b, n, generator=generator)
    grads = (torch.zeros_like(a), torch.zeros_like(w))
    grad_entities = torch.zeros_like(e)
    kernel, two = make_score("l1", "fused", "cpu", usable_threads()), TwoProductsInPlace()

    def fused() -> None:
        kernel.forward((a, w), e, out, grad=True)
        kernel.backward((a, w), e, grad_scores, grads, grad_entities)

    def multiplied() -> None:
        two.forward((a, w), e, out)
        two.backward((a, w), e, grad_scores, grads, grad_entities)

    return {FUSED: fused, PRODUCTS: lambda: two_products(a, w, e, grad_scores), IN_PLACE: multiplied}


def bench_kernel(repeats: int) -> list[Row]:
    """The score alone."""
    rows = []
    for rank in (64, 100):
        times = take_turns(kernel_contestants(1000, 7128, rank), repeats, seconds_each=10)
        rows += [
            {"part": "kernel", "dataset": "ICEWS14", "rank": rank, "batch": 1000, "name": name, **taken.as_row()}
            for name, taken in times.items()
        ]
    return rows


def bench_grid(repeats: int) -> list[Row]:
    """Kernel and step over datasets, ranks and batches."""
    rows = []
    for dataset in DATASETS:
        for rank in RANKS:
            for batch in BATCHES:
                n_entities = find_dataset(dataset).shape.n_entities
                contestants = kernel_contestants(batch, n_entities, rank)
                contestants[PAIRRE] = trainer_step(dataset, "TNTPairRE", rank, batch)
                contestants[COMPLEX] = trainer_step(dataset, "TNTComplEx", rank, batch)
                times = take_turns(contestants, repeats, seconds_each=0.6)
                where = {"part": "grid", "dataset": dataset, "rank": rank, "batch": batch}
                rows += [{**where, "name": name, **taken.as_row()} for name, taken in times.items()]
                print(".", end="", flush=True)
    print()
    return rows


def bench_growth(repeats: int) -> list[Row]:
    """The kernel with more entities and more dimensions."""
    shapes = [(256, n, 64) for n in (10_000, 30_000, 100_000, 300_000, 1_000_000)]
    shapes += [(256, 7128, d) for d in (32, 64, 128, 256, 500, 1000, 2000)]
    rows = []
    for b, n, d in shapes:
        times = take_turns(kernel_contestants(b, n, d), repeats, seconds_each=3)
        where = {"part": "growth", "batch": b, "entities": n, "rank": d}
        rows += [{**where, "name": name, **taken.as_row()} for name, taken in times.items()]
    return rows


def show(rows: list[Row]) -> None:
    """Print each part as a table, each time also as a multiple of the fused kernel's or step's at the same shape."""
    console = Console(width=150)
    fused = {(_where(row), _is_step(row)): row["median_seconds"] for row in rows if row["name"] in (FUSED, PAIRRE)}
    columns = ["where", "ms, median>", "quartiles>", "times the fused one>", "first call, s>", "peak above state>"]
    for part in dict.fromkeys(row["part"] for row in rows):
        table = []
        for row in (row for row in rows if row["part"] == part):
            low, high = row["quartiles_seconds"]
            peak = row.get("peak_above_state_bytes")
            table.append(
                (
                    row["name"],
                    " ".join(_where(row)[1:]),
                    f"{row['median_seconds'] * 1e3:,.1f}",
                    f"{low * 1e3:,.1f} to {high * 1e3:,.1f}",
                    f"{row['median_seconds'] / fused[_where(row), _is_step(row)]:,.2f}",
                    f"{row['first_call_seconds']:,.2f}",
                    "" if peak is None else format_bytes(peak),
                )
            )
        console.print(listing([part, *columns], table))
        console.print()


def _is_step(row: Row) -> bool:
    return str(row["name"]).startswith("TNT")


def _where(row: Row) -> tuple[str, ...]:
    return row["part"], row.get("dataset") or f"N={row['entities']}", f"d={row['rank']}", f"b={row['batch']}"


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "step": lambda repeats: bench_step(repeats, heavy=True),
    "kernel": bench_kernel,
    "grid": bench_grid,
    "growth": bench_growth,
}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*PARTS, "quick"], help="one part; quick: steps without the slow ways")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    if options.only == "quick":
        rows = bench_step(options.repeats, heavy=False)
    else:
        rows = [row for name in PARTS if options.only in (None, name) for row in PARTS[name](options.repeats)]
    if options.json is not None:
        about = {
            "threads": usable_threads(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    show(rows)


if __name__ == "__main__":
    main()
