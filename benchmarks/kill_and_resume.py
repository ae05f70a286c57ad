"""Kill a training run with SIGKILL at random moments, resume it, and compare with the run that was left alone.

    python benchmarks/kill_and_resume.py --kills 30

Every step is followed by a checkpoint, so that many of the moments fall into the writing of one. After each kill the
run is resumed, killed again with one chance in four, and resumed to its end; then parameters, optimizer state and every
reported number but the times are compared bit for bit. Exit status 1 where any differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.listing import read_run

PROCESSES = multiprocessing.get_context("forkserver")
LIBRARIES = ["memplan.app.cli", "numba", "torch", "tkbc.runs.train"]
TIMED = {"seconds", "examples_per_second", "memory"}


def command(epochs: int) -> list[str]:
    """Return the command that trains the demo graph with a checkpoint after every step."""
    options = ["--device", "cpu", "--rank", "16", "--batch-size", "2000", "--max-epochs", str(epochs)]
    return [
        *options,
        "--valid-freq",
        "2",
        "--checkpoint-minutes",
        "0",
        "--optimizer",
        "adam",
        "--learning-rate",
        "0.01",
    ]


def start(folder: Path, arguments: list[str]) -> BaseProcess:
    """Start ``memplan train`` in ``folder``, in a process forked from one that has imported the libraries alone."""
    process = PROCESSES.Process(target=train, args=(folder, arguments))
    process.start()
    return process


def train(folder: Path, arguments: list[str]) -> None:
    """Run the command; say nothing but errors."""
    from memplan.app.cli import app

    os.chdir(folder)
    with (folder / "printed").open("w", encoding="utf-8") as printed:
        os.dup2(printed.fileno(), sys.stdout.fileno())
        app(["train", *arguments])


def finish(process: BaseProcess) -> None:
    """Wait for the process's end, which must be a good one."""
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"exit status {process.exitcode}")


def wait_for_run(folder: Path, process: BaseProcess) -> None:
    """Return when the run has begun to write its folder."""
    while not (folder / "run" / "metrics.jsonl").exists() and process.is_alive():
        time.sleep(0.005)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return a run's last tensors and its reported numbers."""
    run = folder / "run"
    found = Checkpoints(run / "checkpoint").newest()
    assert found is not None
    tensors = {
        f"{file}/{name}": tensor
        for file in ("model", "optimizer")
        for name, tensor in load_file(run / "checkpoint" / found[0] / f"{file}.safetensors").items()
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return tensors, [{k: v for k, v in line.items() if k not in TIMED} for line in lines if "event" not in line]


def same(one: Path, other: Path) -> bool:
    """Return whether two runs ended alike, bit for bit."""
    (first, reported), (second, also_reported) = outcome(one), outcome(other)
    tensors = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return tensors and reported == also_reported


def killed_and_resumed(folder: Path, epochs: int, seconds: float, draw: random.Random) -> tuple[int, int]:
    """Run with kills at random moments within ``seconds``; return them, and how many hit a checkpoint's writing."""
    process = start(folder, [*command(epochs), "--run-dir", "run"])
    kills = writing = 0
    while True:
        wait_for_run(folder, process)
        time.sleep(draw.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            writing += bool(list((folder / "run" / "checkpoint").glob("*.unfinished")))
            if read_run(folder / "run").state == "finished":
                return kills, writing  # the moment came after the last word
        else:
            finish(process)
            return kills, writing  # over before the moment came
        process = start(folder, ["--resume", "run"])
        if draw.random() < 0.75:
            finish(process)
            return kills, writing
        time.sleep(draw.uniform(0, 0.5))  # reading the data and the plan


def main() -> None:
    """Kill, resume, compare, and print a line for each trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    PROCESSES.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        process = start(whole, [*command(options.epochs), "--run-dir", "run"])
        wait_for_run(whole, process)
        begin = time.monotonic()
        finish(process)
        seconds = time.monotonic() - begin
        print(f"uninterrupted: {seconds:.1f} s, {len(outcome(whole)[1]) - 1} epochs")
        kills = writing = trials = differing = 0
        while kills < options.kills:
            trial = Path(scratch) / f"trial{trials}"
            trial.mkdir()
            killed, in_writing = killed_and_resumed(trial, options.epochs, seconds, draw)
            alike = same(whole, trial)
            trials, kills, writing, differing = (
                trials + 1,
                kills + killed,
                writing + in_writing,
                differing + (not alike),
            )
            print(f"trial {trials}: killed {killed} times: {'the same' if alike else 'DIFFERENT'}", flush=True)
            shutil.rmtree(trial)
        print(f"{kills} kills, {writing} of them while a checkpoint was written: {differing} of {trials} runs differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
