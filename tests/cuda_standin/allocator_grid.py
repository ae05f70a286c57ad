"""memplan's replay against PyTorch's allocator: every setting, device and order of addresses, over random ledgers.

    python tests/cuda_standin/allocator_grid.py --count 200 --out benchmarks/results/allocator-standin.json

Each cell is replay_ledgers.py in a process of its own: without bound and at four capacities near the edge. Prints a row
a cell, keeps the counts with the versions, and ends with 1 where a run is not equal in allocated, reserved and out of
memory. Cells that --out has already, of as many ledgers and the same versions, are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ADDRESSES = ("first", "new", "down")


class Setting(NamedTuple):
    """Options of the allocator, and the share of the capacity that the process may reserve."""

    conf: str
    fraction: float = 1.0


SETTINGS = (
    Setting(""),
    Setting("max_split_size_mb:32"),
    Setting("max_split_size_mb:128"),
    Setting("max_split_size_mb:512"),
    Setting("expandable_segments:True"),
    Setting("expandable_segments:True,max_split_size_mb:32"),
    Setting("expandable_segments:True,max_split_size_mb:128"),
    Setting("roundup_power2_divisions:4"),
    Setting("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]"),
    Setting("garbage_collection_threshold:0.6", fraction=0.8),
    Setting("large_segment_size_mb:40,max_split_size_mb:64,max_non_split_rounding_mb:50"),
)


class Cell(NamedTuple):
    """One process."""

    setting: Setting
    gpu: str
    addresses: str


class Count(NamedTuple):
    """Runs at one capacity."""

    runs: int
    equal: int
    out_of_memory: int
    """Those that really ran out of it."""


def cells(gpus: list[str], addresses: list[str]) -> Iterator[Cell]:
    """Yield every cell."""
    return (Cell(setting, gpu, order) for order, gpu, setting in product(addresses, gpus, SETTINGS))


def measured(cell: Cell, count: int, seed: int) -> dict[str, Count]:
    """Return the counts of a cell by capacity.

    Raises:
        RuntimeError: the process failed; the message is the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "runs.json"
        command = [sys.executable, HERE / "run.py", "--gpu", cell.gpu, sys.executable, HERE / "replay_ledgers.py"]
        command += ["--conf", cell.setting.conf, "--fraction", str(cell.setting.fraction), "--count", str(count)]
        command += ["--seed", str(seed), "--capacity", "none", "tight", "--out", out]
        variables = {**os.environ, "STANDIN_ADDRESSES": cell.addresses}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        if not out.is_file():
            raise RuntimeError(f"{cell}: {(done.stdout + done.stderr)[-2000:]}")
        runs = json.loads(out.read_text(encoding="utf-8"))
    by_capacity: dict[str, list[Any]] = {}
    for run in runs:
        by_capacity.setdefault(run["capacity"], []).append(run)
    return {
        name: Count(len(some), sum(r["told"] == r["real"] for r in some), sum(r["real"] is None for r in some))
        for name, some in by_capacity.items()
    }


def main() -> None:
    """Measure the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", nargs="+", default=["T4", "H100"])
    parser.add_argument("--addresses", nargs="+", default=list(ADDRESSES), choices=ADDRESSES)
    parser.add_argument("--count", type=int, default=200, help="ledgers a cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = _earlier(given)
    for cell in cells(given.gpus, given.addresses):
        named = {**cell._asdict(), "setting": cell.setting._asdict()}
        if any(row.items() >= named.items() for row in rows):
            continue
        counts = measured(cell, given.count, given.seed)
        rows.append({**named, "capacities": {name: count._asdict() for name, count in counts.items()}})
        told = ", ".join(f"{name} {count.equal}/{count.runs}" for name, count in counts.items())
        print(f"{cell.gpu} {cell.addresses:5} {cell.setting.conf or 'default'}: {told}", flush=True)
        if given.out:
            given.out.write_text(json.dumps(_kept(given, rows), indent=1) + "\n", encoding="utf-8")
    sys.exit(any(c["equal"] < c["runs"] for row in rows for c in row["capacities"].values()))


def _earlier(given: argparse.Namespace) -> list[dict[str, Any]]:
    if given.out is None or not given.out.is_file():
        return []
    kept = json.loads(given.out.read_text(encoding="utf-8"))
    same = _kept(given, [])
    if any(kept[name] != same[name] for name in ("ledgers", "seed", "versions")):
        return []
    found: list[dict[str, Any]] = kept["cells"]
    return found


def _kept(given: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    arguments = f"--gpus {' '.join(given.gpus)} --addresses {' '.join(given.addresses)} --count {given.count}"
    return {
        "command": f"python tests/cuda_standin/allocator_grid.py {arguments} --seed {given.seed} --out {given.out}",
        "ledgers": given.count,
        "seed": given.seed,
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "device": "the stand-in CUDA device of tests/cuda_standin: PyTorch's own allocator, no GPU",
        "equal": "runs whose peaks of allocated and reserved bytes, or whose running out of memory, are the same",
        "cells": rows,
    }


if __name__ == "__main__":
    main()
