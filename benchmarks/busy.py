"""Training beside other work: the command, and the library in a process that has loaded PyTorch already.

    python benchmarks/busy.py [--load 2] [--rounds 3]

Two processes keep the cores busy while each contestant trains the demo graph, in turn; the seconds are those of an
epoch (the median of its run), to be compared within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from memplan.app.views.terminal import listing

SIZES = "--model TNTPairRE --rank 100 --device cpu --max-epochs 3 --valid-freq 3 --run-dir"
LIBRARY = """
import sys, torch
torch.ones(1000, 1000).exp().sum()
{before}
from tkbc import train
train("demo", model="TNTPairRE", rank=100, device="cpu", max_epochs=3, valid_freq=3, run_folder=sys.argv[1])
"""
COMMAND = "from memplan.app.cli import main; main()"
BUSY = "while True: pass"


def contestants(folder: str) -> dict[str, list[str]]:
    """Return each contestant's command line, writing its run to ``folder``."""
    one_thread = LIBRARY.format(before="torch.set_num_threads(1)")
    return {
        "memplan train": [sys.executable, "-c", COMMAND, "train", "--auto-fit-gpu", *SIZES.split(), folder],
        "tkbc.train, PyTorch loaded before": [sys.executable, "-c", LIBRARY.format(before=""), folder],
        "tkbc.train, PyTorch on one thread": [sys.executable, "-c", one_thread, folder],
    }


def epoch_seconds(name: str, folder: Path) -> float:
    """Run a contestant; return the median seconds of an epoch."""
    subprocess.run(contestants(str(folder))[name], check=True, stdout=subprocess.DEVNULL, env=_two_threads())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(line["seconds"] for line in lines if "seconds" in line)


def _two_threads() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}, "OMP_NUM_THREADS": "2"}


def main() -> None:
    """Let the contestants take turns beside the load; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=int, default=2, help="busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.load)]
    taken: dict[str, list[float]] = {name: [] for name in contestants("")}
    try:
        with tempfile.TemporaryDirectory() as runs:
            for turn in range(options.rounds):
                for i, name in enumerate(taken):
                    taken[name].append(epoch_seconds(name, Path(runs) / f"{turn}-{i}"))
                    print(f"round {turn + 1}: {taken[name][-1]:.2f} s/epoch, {name}", flush=True)
    finally:
        for process in busy:
            process.kill()
    first = statistics.median(taken["memplan train"])
    rows = [(name, f"{statistics.median(s):.2f}", f"{statistics.median(s) / first:.2f}") for name, s in taken.items()]
    Console().print(listing(("", "s/epoch>", "of the first>"), rows))


if __name__ == "__main__":
    main()
