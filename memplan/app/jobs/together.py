"""A training in several processes: a task that all of them read, started here by PyTorch's launcher or by torchrun."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from pydantic import BaseModel

from memplan.app.request import SearchRequest
from memplan.app.streams import lose_no_output
from memplan.app.views.terminal import make_console, printable, quiet_console
from memplan.device.target import resolve
from memplan.errors import FailedElsewhereError, MemplanError, UsageError
from memplan.plan import Plan
from tkbc.runs.listing import how_to_resume
from tkbc.runs.settings import TrainSettings
from tkbc.runs.state import RunState

if TYPE_CHECKING:
    from rich.console import Console

    from tkbc.runs.reporter import Reporter, Result


class Task(BaseModel, frozen=True, extra="forbid"):
    """What every process of a training has to know: a run that begins, or one that goes on from a checkpoint."""

    plan: Plan
    settings: TrainSettings
    dataset: str
    data_dir: Path | None
    folder: Path
    checkpoint: str | None = None
    """Where a run goes on from; None: from its beginning."""
    state: RunState | None = None
    """Of a run that goes on; None: one that begins."""


def launched_index() -> int | None:
    """Return this process's number where torchrun started it, else None; without importing PyTorch."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else None


def with_launched(given: SearchRequest) -> SearchRequest:
    """Return the options with as many devices as torchrun started processes, unless they say how many."""
    return given if given.devices is not None else replace(given, devices=os.environ["WORLD_SIZE"])


def together(task: Task, console: Console) -> None:
    """Carry out a task with all its processes: torchrun has started them, this one first among them, or they start now.

    Raises:
        SystemExit, MemplanError: as ``launch`` and ``work``.
    """
    if launched_index() is not None:
        work(task)
        return
    n = task.plan.workload.n_processes
    with console.status(f"starting {n} processes") if console.is_terminal else nullcontext():
        import torch.distributed.launcher.api  # noqa: F401 - takes seconds
    launch(task)


def launch(task: Task) -> None:
    """Start the processes that the task's plan counts, and wait for them; all are gone when this returns or raises.

    Raises:
        SystemExit: the status of the process that failed first, which has said why.
        MemplanError: one was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=task.plan.workload.n_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    logging.disable(logging.CRITICAL)  # the launcher's own lines: what its processes say is enough
    with tempfile.TemporaryDirectory(prefix="memplan-") as folder:
        path = Path(folder) / "task.json"
        path.write_text(task.model_dump_json(), encoding="utf-8")
        try:
            elastic_launch(config, sys.executable)("-m", "memplan.app.jobs.together", str(path))
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from None
        except ChildFailedError as failed:
            process, failure = failed.get_first_failure()
            if failure.exitcode >= 0:
                raise SystemExit(failure.exitcode) from None
            name = signal.Signals(-failure.exitcode).name
            raise MemplanError(
                f"process {process} of the training was ended by {name}, and the others with it; its checkpoints are "
                f"kept: {how_to_resume(task.folder)}"
            ) from None
        finally:
            logging.disable(logging.NOTSET)


def work(task: Task | None) -> None:
    """Do this process's part of a task, as the first of those that torchrun started or, with None, as it is told.

    Raises:
        UsageError: there are more or fewer processes than planned for.
        MemplanError: as training does.
    """
    from memplan.app.jobs.supervise import supervise
    from tkbc.runs.readiness import check_device, prepare_torch

    if task is not None:
        prepare_torch(task.plan)  # before PyTorch is loaded, where what is to be trained is known by then
    from tkbc.data import load_dataset
    from tkbc.runs.train import resume, train
    from tkbc.sharded.connected import Connected, joined, meet, said_once, told_by_first

    meeting = meet()
    told = Task.model_validate_json(told_by_first(meeting, None if task is None else task.model_dump_json()))
    workload = told.plan.workload
    if workload.n_processes != meeting.n:
        raise UsageError(f"--devices {workload.n_processes}: torchrun started {meeting.n} processes; give that number")
    prepare_torch(told.plan)
    check_device(told.plan, resolve(workload.device, None))
    leads, launcher = meeting.process == 0, os.getppid()
    with said_once(meeting), joined(meeting, workload.device):
        graph = load_dataset(told.dataset, told.data_dir)
        processes = Connected(workload.model_copy(update={"process": meeting.process}))

        def run(reporter: Reporter, asked_to_stop: Callable[[], bool]) -> Result:
            def should_stop() -> bool:
                return asked_to_stop() or os.getppid() != launcher  # nobody is left who would end them all

            if told.state is not None:
                at = told.checkpoint
                return resume(told.folder, at, told.state, graph, reporter, should_stop, processes=processes)
            return train(
                told.plan,
                graph,
                told.settings,
                told.folder,
                reporter,
                should_stop,
                data_dir=told.data_dir,
                processes=processes,
            )

        supervise(make_console() if leads else quiet_console(), graph, run)


def main() -> None:
    """Run one process that ``launch`` started."""
    lose_no_output()
    try:
        work(Task.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except FailedElsewhereError as error:
        raise SystemExit(error.exit_code) from None  # that process has said why
    except MemplanError as error:
        typer.echo(f"memplan: {printable(str(error))}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
