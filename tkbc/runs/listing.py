"""Past and present runs, read from their folders: what ``memplan runs`` and ``memplan monitor`` show."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from memplan.errors import MemplanError
from memplan.plan import Plan
from memplan.units import format_bytes

RUNS = Path("runs")
"""Where new runs go, and where they are looked for."""

FAILED = "failed"
"""The event in metrics.jsonl that says a run's numbers went wrong; what comes after it is another attempt."""
FOLLOW_SECONDS = 2.0

RunStatus = Literal["finished", "interrupted", "running", "failed"]
"""``failed``: its numbers went wrong, and would again; everything else that is not over is ``interrupted``."""
SHOWN_RUNS = 3


class RunInfo(NamedTuple):
    """A run at a glance; None is what is not known yet."""

    folder: Path
    state: RunStatus
    changed: float
    """When it last wrote a line, in seconds since 1970."""
    model: str
    dataset: str | None
    rank: int
    batch_size: int
    micro_batch_size: int
    chunk_size: int
    scoring: str
    planned_bytes: int
    measured_bytes: int | None
    """The highest of all tensors together that was measured."""
    epochs: int
    max_epochs: int | None
    valid_mrr: float | None
    """The best so far."""
    test_mrr: float | None

    def as_json(self) -> dict[str, Any]:
        """Return it as ``memplan runs --json`` prints it."""
        return {**self._asdict(), "folder": str(self.folder)}


def read_run(folder: Path) -> RunInfo:
    """Return what the folder says about its run.

    Raises:
        MemplanError: it is no run folder.
    """
    plan = Plan.read(folder / "plan.json")
    epochs, test, best, has_failed = 0, None, None, False
    for line in read_lines(folder / "metrics.jsonl"):
        with suppress(KeyError, TypeError, ValueError):
            if "event" in line:
                has_failed = line["event"] == FAILED
            elif "loss" in line:
                epochs = max(epochs, int(line["epoch"]))
                if line["valid"] is not None:
                    mrr = float(line["valid"]["both"]["mrr"])
                    best = mrr if best is None else max(best, mrr)
            elif "test" in line:
                test = float(line["test"]["both"]["mrr"])
    config = read_object(folder / "config.json")
    # A sweep's trial ranks no test split.
    is_finished = test is not None or (config.get("rank_test") is False and epochs >= config.get("max_epochs", 0))
    ended: RunStatus = "failed" if has_failed else "finished" if is_finished else "interrupted"
    measured = read_object(folder / "memory_check.json")
    peak = measured.get("peak")
    with suppress(OSError):
        changed = (folder / "metrics.jsonl").stat().st_mtime
        return RunInfo(
            folder=folder,
            state="running" if is_running(folder) else ended,
            changed=changed,
            model=plan.workload.model,
            dataset=plan.workload.dataset,
            rank=plan.rank,
            batch_size=plan.batch_size,
            micro_batch_size=plan.micro_batch_size,
            chunk_size=plan.chunk_size,
            scoring=f"{plan.workload.score} {plan.scoring}"
            + ("" if plan.precision == "fp32" else f" {plan.precision}"),
            planned_bytes=plan.peak.device_bytes,
            measured_bytes=peak["measured"]["requested_bytes"] if isinstance(peak, dict) else None,
            epochs=epochs,
            max_epochs=config.get("max_epochs"),
            valid_mrr=best,
            test_mrr=test,
        )
    raise MemplanError(f"{folder}: no metrics.jsonl; name the folder of a run, such as {RUNS}/NAME")


def list_runs(root: Path) -> list[RunInfo]:
    """Return the runs in the folders under ``root``, the newest first; what is no run is left out."""
    found = []
    with suppress(OSError):
        for folder in root.iterdir():
            if folder.name.startswith("."):
                continue  # a run that is just being made
            with suppress(MemplanError):
                found.append(read_run(folder))
    return sorted(found, key=lambda run: run.changed, reverse=True)


def newest_unfinished(root: Path) -> Path:
    """Return the folder of the newest run that was interrupted.

    Raises:
        MemplanError: there is none.
    """
    found = list_runs(root)
    for run in found:
        if run.state == "interrupted":
            return run.folder
    failed = [run.folder.name for run in found if run.state == "failed"][:SHOWN_RUNS]
    way_out = "name a run's folder, or train a new one"
    if failed:
        way_out = f"{', '.join(failed)} failed: name one with a lower --learning-rate, or train a new one"
    raise MemplanError(f"--resume auto: no interrupted run in {root}/; {way_out}")


def is_running(folder: Path) -> bool:
    """Return whether a process holds the run's lock: the system frees it when the process ends, however it ends."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False  # none was taken yet, or somebody else's folder: not ours to lock
    try:
        # The lock that filelock takes; taken by its own hand, hundreds of runs are asked in a third of the time.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def monitor_lines(folder: Path) -> list[str]:
    """Return where a run stands, in a few lines.

    Raises:
        MemplanError: it is no run folder.
    """
    run = read_run(folder)
    progress = read_object(folder / "progress.json")
    lines = [f"{folder}  {run.state}  {run.model} on {Path(run.dataset or 'a graph').name}, rank {run.rank}"]
    try:
        share = progress["examples_done"] / progress["n_examples"]
        seconds = max(0.0, time.time() - progress["written"])
        lines.append(f"epoch {progress['epoch']}/{progress['max_epochs']}, {share:.0%} done, {seconds:.0f} s ago")
        lines.append(f"memory  {memory_line(progress['memory'])}")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        lines.append("no step done yet")
    valid = "none yet" if run.valid_mrr is None else f"{run.valid_mrr:.4f}"
    test = "" if run.test_mrr is None else f", test MRR {run.test_mrr:.4f}"
    lines.append(f"{run.epochs} epochs reported, best valid MRR {valid}{test}")
    return lines


def follow_lines(folder: Path, *, forever: bool) -> Iterator[list[str]]:
    """Yield where a run stands, and with ``forever`` again every two seconds while it runs.

    Raises:
        MemplanError: it is no run folder.
    """
    yield monitor_lines(folder)
    while forever and is_running(folder):
        time.sleep(FOLLOW_SECONDS)
        yield ["", *monitor_lines(folder)]


def how_to_resume(folder: Path) -> str:
    """Return the command that goes on with the run in ``folder``."""
    return f"memplan train --resume {shlex.quote(str(folder))}"


def memory_line(memory: Mapping[str, int | None]) -> str:
    """Return allocated, reserved, peak and budget as text, without what the device does not tell."""
    names = ("allocated", "reserved", "peak", "budget", "process")
    values = ((name, memory.get(f"{name}_bytes")) for name in names)
    return ", ".join(f"{name} {format_bytes(value)}" for name, value in values if value is not None)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``, an empty one where there is none."""
    with suppress(OSError, ValueError, RecursionError):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
    return {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``path`` that are whole JSON objects."""
    lines = []
    with suppress(OSError), path.open("rb") as file:
        for text in file:
            with suppress(ValueError):
                line = from_json(text)  # three times as fast as json: hundreds of runs are listed at once
                if isinstance(line, dict):
                    lines.append(line)
    return lines
