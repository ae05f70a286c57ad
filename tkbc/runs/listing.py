"""Past and present runs, read from their folders: what ``memplan runs`` and ``memplan monitor`` show."""

from __future__ import annotations

import errno
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from memplan.errors import MemplanError
from memplan.files import read_object
from memplan.plan import Plan
from memplan.units import format_bytes
from tkbc.runs.metrics import METRICS_FILE, read_metrics

RUNS = Path("runs")
"""Where new runs go, and where they are looked for."""

LATEST = "latest"
"""In a run's place: the newest one in ``RUNS``."""

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
    metrics = read_metrics(folder)
    best, test = metrics.best, metrics.final
    epochs = metrics.epochs[-1].epoch if metrics.epochs else 0
    config = read_object(folder / "config.json")
    # A sweep's trial ranks no test split.
    is_finished = test is not None or (config.get("rank_test") is False and epochs >= config.get("max_epochs", 0))
    ended: RunStatus = "failed" if metrics.has_failed else "finished" if is_finished else "interrupted"
    measured = read_object(folder / "memory_check.json")
    peak = measured.get("peak")
    with suppress(OSError):
        changed = (folder / METRICS_FILE).stat().st_mtime
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
            valid_mrr=None if best is None or best.valid is None else best.valid.both.mrr,
            test_mrr=None if test is None else test.test.both.mrr,
        )
    raise MemplanError(f"{folder}: no {METRICS_FILE}; name the folder of a run, such as {RUNS}/NAME")


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


def find_run(name: str | Path, root: Path = RUNS) -> Path:
    """Return the folder of the run that ``name`` means: a path, a name in ``root``, or ``latest``, the newest there.

    What means none is returned as it is, for who reads it to say so.

    Raises:
        MemplanError: ``latest``, and there is no run.
    """
    path = Path(name)
    if path.is_dir() or path.is_file():
        return path
    if str(name) == LATEST:
        found = list_runs(root)
        if not found:
            raise MemplanError(f"{LATEST}: no run in {root}/ yet; memplan train makes one")
        return found[0].folder
    # Not any path: what is absolute or climbs out of the folder is meant as it stands.
    return root / path if len(path.parts) == 1 and (root / path).is_dir() else path


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
        import fcntl
    except ImportError:  # Windows
        return _is_held(folder / "lock")
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False  # none was taken yet, or somebody else's folder: not ours to lock
    try:
        # The lock that filelock takes; taken by its own hand, a run is asked in a twentieth of the time.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _is_held(lock: Path) -> bool:
    """Return whether ``lock`` is taken, as filelock finds on any system."""
    from filelock import FileLock, Timeout

    if not lock.is_file():
        return False  # none was taken yet: not ours to make
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # somebody else's folder


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
    """Return allocated, reserved, peak and budget as text, without what the device does not report."""
    names = ("allocated", "reserved", "peak", "budget", "process")
    values = ((name, memory.get(f"{name}_bytes")) for name in names)
    return ", ".join(f"{name} {format_bytes(value)}" for name, value in values if value is not None)
