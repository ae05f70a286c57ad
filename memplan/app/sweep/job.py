"""The job behind ``memplan sweep``: data and device once, trials until it is time, a table and a picture at the end."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console, RenderableType
from rich.status import Status

from memplan.app.request import Graph, SearchRequest, gather, of_loaded
from memplan.app.sweep.models import equal_ranks, models_of
from memplan.app.sweep.picture import draw_trials
from memplan.app.sweep.space import Range, flags
from memplan.app.sweep.study import (
    Sweep,
    Train,
    Trial,
    Watcher,
    best_first,
    best_of,
    deadline,
    keep_sweep,
    read_trials,
    search,
    split_params,
)  # fmt: skip
from memplan.app.sweep.trial import train_trial
from memplan.app.views.progress import stop_on_signal
from memplan.app.views.terminal import listing, make_console
from memplan.device.target import Target, resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.units import format_bytes
from memplan.workload import build_workload, validated
from tkbc.data import load_dataset
from tkbc.data.dataset import Dataset
from tkbc.runs.settings import TrainSettings

SHOWN = 10
"""Trials in the table at the end."""


def run_sweep(folder: Path, sweep: Sweep, *, is_new: bool, quiet: bool = False) -> list[Trial]:
    """Run trials until the sweep's limits, and return all that ended; ``quiet``: print nothing.

    Ends the process with 128 and the signal's number where a signal stopped it; the trial under way is kept.

    Raises:
        DoesNotFitError: no trial fitted the budget.
        MemplanError: the data, the device, an option or a value of the space cannot be used.
    """
    console = make_console()
    console.quiet = quiet
    given = sweep.options
    target = resolve(given.device, given.budget)
    graph = load_dataset(given.dataset or "demo", given.data_dir)
    _check(sweep, of_loaded(graph.dataset, graph))
    if is_new:
        sweep = sweep.model_copy(update={"ranks": equal_ranks(sweep, of_loaded(graph.dataset, graph))})
        keep_sweep(folder, sweep)
    _announce(console, folder, sweep)
    time_is_up = deadline(sweep.minutes)
    with console.status("preparing") as status, stop_on_signal(console) as stopped_by:

        def on_end(trial: Trial) -> None:
            console.print(_line(sweep, trial), soft_wrap=True)

        def must_stop() -> bool:
            return stopped_by() is not None or time_is_up()

        with _alone(folder):
            train = _trainer(console, status, folder, graph, target)
            is_more = search(folder, sweep, train, max_trials=sweep.max_trials, must_stop=must_stop, on_end=on_end)
    trials = read_trials(folder)
    _report(console, folder, sweep, trials, is_more=is_more)
    number = stopped_by()
    if number is not None:
        raise SystemExit(128 + number)
    if trials and all(trial.state == "does not fit" for trial in trials):
        raise DoesNotFitError(f"no trial fits: {trials[-1].why}")
    return trials


def _trainer(console: Console, status: Status, folder: Path, graph: Dataset, target: Target) -> Train:
    """Return what trains a trial, and shows it beside the best of those that ended."""

    def train(options: SearchRequest, settings: dict[str, Any], where: Path, watcher: Watcher) -> Trial | None:
        best = best_of(read_trials(folder))
        so_far = "" if best is None else f"; best valid MRR so far {best.valid_mrr:.4f}"
        number = where.name.lstrip("0") or "0"

        def show(text: str) -> None:
            status.update(f"trial {number}: {text}{so_far}")

        def show_validation(text: str) -> None:
            if not console.is_terminal:
                console.print(f"trial {number}  {text}")

        return train_trial(options, settings, where, watcher, graph, target, (show, show_validation))

    return train


def _announce(console: Console, folder: Path, sweep: Sweep) -> None:
    """Print where the sweep is and what is searched."""
    console.print(f"sweep in {folder}: {', '.join(str(dimension) for dimension in sweep.space)}", soft_wrap=True)
    if sweep.ranks:
        ranks = ", ".join(f"{model} {rank}" for model, rank in sweep.ranks.items())
        console.print(f"ranks with as many parameters each: {ranks}", soft_wrap=True)


def _report(console: Console, folder: Path, sweep: Sweep, trials: list[Trial], *, is_more: bool) -> None:
    """Print what was found, draw it, and say how to go on where combinations and trials are left."""
    best = best_of(trials)
    if best is not None:
        console.print(_table(sweep, trials))
        console.print(f"the best, trained whole:\n  {sweep.command(best.params)}", soft_wrap=True)
        picture = folder / "trials.png"
        if draw_trials(sweep.space, trials, picture):
            console.print(f"drawn in {picture}", soft_wrap=True)
    if not is_more:
        console.print("every combination was tried")
    elif sweep.max_trials is None or len(trials) < sweep.max_trials:
        is_under_way = (folder / "trials" / f"{len(trials):04}").exists()
        kept = "; the one under way goes on where it was" if is_under_way else ""
        console.print(f"stopped with {len(trials)} trials ended{kept}. Go on with", soft_wrap=True)
        console.print(f"  memplan sweep --resume {shlex.quote(str(folder))}", soft_wrap=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock.

    Raises:
        MemplanError: another process does, or the folder cannot be written.
    """
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise MemplanError(
            f"{folder}: another process is at work in this sweep; wait for it or stop it first"
        ) from None
    except OSError as error:
        raise MemplanError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def _check(sweep: Sweep, graph: Graph) -> None:
    """Try every value that is listed, and both ends of every range, by itself, before anything is begun.

    Raises:
        UsageError: one that no trial can have.
    """
    for model, dimension in itertools.product(models_of(sweep), sweep.space):
        values = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension.values
        for value in values:
            whole = int(value) if isinstance(dimension, Range) and dimension.is_whole else value
            options, settings = split_params({**model, dimension.name: whole})
            job = gather(dataclasses.replace(sweep.options, **options), graph)
            try:
                build_workload(graph.shape, **job.settings)
            except UsageError as error:
                told = f"--over with {model['model']}: " if model else ""
                raise UsageError(f"{told}{error}") from None
            validated(TrainSettings, {"learning_rate": 0.1, "max_epochs": 1, **sweep.settings, **settings})


def _line(sweep: Sweep, trial: Trial) -> str:
    mrr = "" if trial.valid_mrr is None else f"  valid MRR {trial.valid_mrr:.4f}"
    at = f" after epoch {trial.curve[-1][0]}" if trial.curve and trial.state != "finished" else ""
    why = f": {trial.why}" if trial.why else ""
    return f"trial {trial.trial}  {flags(sweep.whole(trial.params))}{mrr}  {trial.state}{at}{why}"


def _table(sweep: Sweep, trials: list[Trial]) -> RenderableType:
    names = list(sweep.whole(trials[0].params))
    columns = ("trial>", *(f"{name}>" for name in names), "valid MRR>", "memory>", "training>", "")
    rows = (
        (
            str(trial.trial),
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in sweep.whole(trial.params).values()),
            "" if trial.valid_mrr is None else f"{trial.valid_mrr:.4f}",
            "" if trial.planned_bytes is None else format_bytes(trial.planned_bytes),
            f"{trial.seconds:.0f} s",
            trial.state,
        )
        for trial in best_first(trials)[:SHOWN]
    )
    return listing(columns, rows)
