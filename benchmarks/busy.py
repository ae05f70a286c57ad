"""Training beside other work: the command, a sweep, and the library in a process that has loaded PyTorch already.

    python benchmarks/busy.py [--load 2] [--rounds 3] [--json FILE]

Two processes keep the cores busy while each contestant trains the demo graph, in turn; the seconds are those of an
epoch (the median of its run), to be compared within one run only. FILE gets a line of JSON a round; the table is over
all rounds that it holds.
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

SIZES = "--model TNTPairRE --rank 100 --device cpu --max-epochs 4 --valid-freq 4"
LIBRARY = """
import sys, torch
torch.ones(1000, 1000).exp().sum()
{before}
from tkbc import train
train("demo", model="TNTPairRE", rank=100, device="cpu", max_epochs=4, valid_freq=4, run_folder=sys.argv[1])
"""
COMMAND = "from memplan.app.cli import main; main()"
BUSY = "while True: pass"


def contestants(folder: str) -> dict[str, list[str]]:
    """Return each contestant's command line, writing what it does to ``folder``."""
    one_thread = LIBRARY.format(before="torch.set_num_threads(1)")
    command = [sys.executable, "-c", COMMAND]
    over = ["--over", "emb_reg=1e-3..1e-1", "--trials", "1"]
    return {
        "memplan train": [*command, "train", "--auto-fit-gpu", *SIZES.split(), "--run-dir", folder],
        "memplan sweep": [*command, "sweep", *SIZES.split(), *over, "--sweep-dir", folder],
        "tkbc.train, PyTorch loaded before": [sys.executable, "-c", LIBRARY.format(before=""), folder],
        "tkbc.train, PyTorch on one thread": [sys.executable, "-c", one_thread, folder],
    }


def epoch_seconds(name: str, folder: Path) -> float:
    """Run a contestant; return the median seconds of an epoch."""
    subprocess.run(contestants(str(folder))[name], check=True, stdout=subprocess.DEVNULL, env=_two_threads())
    (metrics,) = folder.rglob("metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return statistics.median(line["seconds"] for line in lines if "seconds" in line)


def _two_threads() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}, "OMP_NUM_THREADS": "2"}


def main() -> None:
    """Let the contestants take turns beside the load; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", type=int, default=2, help="busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.load)]
    rounds = []
    if options.json is not None and options.json.exists():
        rounds = [json.loads(line) for line in options.json.read_text(encoding="utf-8").splitlines()]
        rounds = [row for row in rounds if row["load"] == options.load]
    try:
        with tempfile.TemporaryDirectory() as runs:
            for turn in range(options.rounds):
                found = {}
                names = list(contestants(""))
                first = len(rounds) % len(names)  # each begins as often as the others
                for name in names[first:] + names[:first]:
                    found[name] = epoch_seconds(name, Path(runs) / f"{turn}-{names.index(name)}")
                    print(f"round {turn + 1}: {found[name]:.2f} s/epoch, {name}", flush=True)
                rounds.append({"load": options.load, "epoch_seconds": found})
                if options.json is not None:
                    with options.json.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(rounds[-1]) + "\n")
    finally:
        for process in busy:
            process.kill()
    taken = {name: statistics.median(row["epoch_seconds"][name] for row in rounds) for name in contestants("")}
    rows = [(name, f"{s:.2f}", f"{s / taken['memplan train']:.2f}") for name, s in taken.items()]
    print(f"{options.load} busy processes, {len(rounds)} rounds")
    Console().print(listing(("", "s/epoch>", "of the first>"), rows))


if __name__ == "__main__":
    main()
