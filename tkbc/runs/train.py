"""A training run: a plan goes in; metrics, a memory check and checkpoints come out in the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from memplan.errors import MemplanError
from memplan.plan import Plan
from tkbc.data.dataset import Dataset
from tkbc.runs.folder import FollowersFolder, RunFolder
from tkbc.runs.loop import Run
from tkbc.runs.reporter import EpochReport, MemoryNow, Reporter, Result
from tkbc.runs.settings import TrainSettings
from tkbc.runs.state import RunState, present_versions
from tkbc.runs.tensorboard import require_tensorboard
from tkbc.sharded import Processes
from tkbc.step.threads import score_threads

__all__ = ["EpochReport", "MemoryNow", "Reporter", "Result", "TrainSettings", "resume", "train"]


def train(
    plan: Plan,
    dataset: Dataset,
    settings: TrainSettings,
    run_folder: Path,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    data_dir: Path | None = None,
    processes: Processes | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Train as planned, check the plan against what is really allocated, evaluate, and leave a run folder.

    The first step and the first batch of the first evaluation are measured, which costs a second or two. Validation
    runs every ``valid_freq`` epochs and after the last, each followed by a checkpoint; the test split is ranked once,
    at the end, with the tables of the best validation. ``should_stop`` is asked after every micro-batch and every batch
    of queries; a run that stops early keeps a checkpoint of every finished step and skips the rest. A run that is out
    of memory goes on with a smaller plan from the step that failed; one whose ``minutes`` are spent ends as
    others do, after a validation. ``data_dir``: where the data were looked for, kept for those who go on with the run.
    ``processes``: this one of those that train together, all of which call this with the same arguments; the first
    writes the folder, each its own memory check and its rows of a checkpoint. ``clock``: the seconds by which minutes
    are counted.

    Raises:
        DoesNotFitError: memory ran out and no smaller plan fits; a checkpoint holds every finished step.
        MemplanError: the plan is for another graph, the run folder is taken or cannot be written, or the loss, a
            gradient or the scores are no numbers any more.
    """
    _check_shape(plan, dataset)
    if settings.tensorboard:
        require_tensorboard()
    state = RunState(
        plan=plan,
        settings=settings,
        dataset=dataset.dataset,
        data_dir=None if data_dir is None else str(data_dir.resolve()),
        data_sha256=dataset.sha256,
        versions=present_versions(),
    )
    processes = processes or Processes(plan.workload)
    folder = processes.together(
        lambda: RunFolder.create(run_folder, state) if processes.leads else FollowersFolder(run_folder, processes.index)
    )
    try:
        with score_threads(plan.workload):
            return Run(folder, dataset, state, None, reporter or Reporter(), should_stop, processes, clock).run()
    finally:
        folder.close()


def resume(
    run_folder: Path,
    checkpoint: str | None,
    state: RunState,
    dataset: Dataset,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    processes: Processes | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Go on with the run in ``run_folder`` from ``checkpoint``, or from its beginning where that is None.

    With the same versions, threads and plan the run ends with the parameters that it would have had uninterrupted, bit
    for bit (on CUDA where it runs deterministically). Another number of ``processes`` than before changes roundings
    alone.

    Raises:
        As ``train`` does; and MemplanError where the data are not those of the run.
    """
    _check_shape(state.plan, dataset)
    if state.data_sha256 != dataset.sha256:
        raise MemplanError(f"{dataset.dataset}: not the data that {run_folder} was trained on; it has changed since")
    processes = processes or Processes(state.plan.workload)
    folder = processes.together(
        lambda: RunFolder(run_folder) if processes.leads else FollowersFolder(run_folder, processes.index)
    )
    try:
        with score_threads(state.plan.workload):
            run = Run(folder, dataset, state, checkpoint, reporter or Reporter(), should_stop, processes, clock)
            folder.rewind(state)  # only now: a checkpoint that cannot be used has changed nothing
            return run.run()
    finally:
        folder.close()


def _check_shape(plan: Plan, dataset: Dataset) -> None:
    if dataset.shape != plan.workload.shape:
        raise MemplanError(
            f"the plan is for a graph with {plan.workload.shape}, but {dataset.name} has {dataset.shape}"
        )
