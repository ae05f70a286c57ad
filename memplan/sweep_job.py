"""The job behind ``memplan sweep``: data and device once, trials until it is time, a table and a picture at the end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from memplan.devices import resolve
from memplan.options import SearchOptions, gather, of_loaded
from memplan.report import listing, make_console
from memplan.space import flags
from memplan.sweep import Sweep, Trial, Watcher, best_first, deadline, read_trials, search
from memplan.sweep_plot import draw_trials
from memplan.trial_job import train_trial
from memplan.units import format_bytes
from tkbc.data import load_dataset
from tkbc.progress import stop_on_signal

SHOWN = 10
"""Trials in the table at the end."""


def run_sweep(
    folder: Path, sweep: Sweep, *, max_trials: int | None, minutes: float | None, quiet_stdout: bool = False
) -> list[Trial]:
    """Run trials until there are ``max_trials`` or ``minutes`` have passed, and return all that ended.

    ``quiet_stdout``: what happens is told on stderr.

    Ends the process with 128 and the signal's number where a signal stopped it; the trial under way is kept.

    Raises:
        MemplanError: the data, the device or an option cannot be used.
    """
    console = make_console()
    console.stderr = quiet_stdout
    given = sweep.options
    target = resolve(given.device, given.budget)
    graph = load_dataset(given.dataset or "demo", given.data_dir)
    gather(given, of_loaded(graph.dataset, graph))  # a wrong option is told before anything is proposed
    console.print(f"sweep in {folder}: {', '.join(str(dimension) for dimension in sweep.space)}", soft_wrap=True)
    time_is_up = deadline(minutes)
    with console.status("preparing") as status, stop_on_signal(console) as stopped_by:

        def train(options: SearchOptions, settings: dict[str, Any], where: Path, watcher: Watcher) -> Trial | None:
            best = best_first(read_trials(folder))[:1]
            so_far = f"; best valid MRR so far {best[0].valid_mrr:.4f}" if best and best[0].valid_mrr else ""
            number = where.name.lstrip("0") or "0"

            def show(text: str) -> None:
                status.update(f"trial {number}: {text}{so_far}")

            return train_trial(options, settings, where, watcher, graph, target, show)

        def on_end(trial: Trial) -> None:
            console.print(_line(trial), soft_wrap=True)

        search(
            folder,
            sweep,
            train,
            max_trials=max_trials,
            must_stop=lambda: stopped_by() is not None or time_is_up(),
            on_end=on_end,
        )
    trials = read_trials(folder)
    if trials:
        console.print(_table(trials))
        console.print(f"the best, trained whole:\n  {sweep.command(best_first(trials)[0].params)}", soft_wrap=True)
        picture = folder / "trials.png"
        if draw_trials(sweep.space, trials, picture):
            console.print(f"drawn in {picture}", soft_wrap=True)
    console.print(f"go on with\n  memplan sweep --resume {shlex.quote(str(folder))} --minutes 60", soft_wrap=True)
    number = stopped_by()
    if number is not None:
        raise SystemExit(128 + number)
    return trials


def _line(trial: Trial) -> str:
    mrr = "" if trial.valid_mrr is None else f"  valid MRR {trial.valid_mrr:.4f}"
    at = f" after epoch {trial.curve[-1][0]}" if trial.curve and trial.state != "finished" else ""
    why = f": {trial.why}" if trial.why else ""
    return f"trial {trial.trial}  {flags(trial.params)}{mrr}  {trial.state}{at}{why}"


def _table(trials: list[Trial]) -> RenderableType:
    names = list(trials[0].params)
    columns = ("trial>", *(f"{name}>" for name in names), "valid MRR>", "memory>", "training>", "")
    rows = (
        (
            str(trial.trial),
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in trial.params.values()),
            "" if trial.valid_mrr is None else f"{trial.valid_mrr:.4f}",
            "" if trial.planned_bytes is None else format_bytes(trial.planned_bytes),
            f"{trial.seconds:.0f} s",
            trial.state,
        )
        for trial in best_first(trials)[:SHOWN]
    )
    return listing(columns, rows)
