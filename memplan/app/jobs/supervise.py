"""A training with its progress on a screen, and the signals that end it in good order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from memplan.app.views.next_steps import after_training
from memplan.app.views.terminal import printable
from memplan.device.target import Target
from memplan.plan import Plan
from tkbc.data.dataset import Dataset
from tkbc.runs.readiness import check_device, prepare_torch

if TYPE_CHECKING:
    from rich.console import Console

    from tkbc.runs.reporter import Reporter, Result

Train = Callable[["Reporter", Callable[[], bool]], "Result"]
"""Trains, with what shows its progress and what asks it to stop."""


def alone(console: Console, plan: Plan, target: Target, graph: Dataset, run: Train) -> None:
    """Load PyTorch for a plan of one process, seen on a terminal, and supervise ``run``.

    Raises:
        MemplanError: PyTorch does not have the device, or as ``run`` does.
    """
    prepare_torch(plan)
    with console.status("loading PyTorch") if console.is_terminal else nullcontext():
        check_device(plan, target)
        import tkbc.runs.train  # noqa: F401 - takes seconds
    supervise(console, graph, run)


def supervise(console: Console, graph: Dataset, run: Train) -> None:
    """Call ``run`` with what shows its progress and what asks it to stop, then print how it ended, and what is next.

    Ends the process with 128 and the signal's number where a signal stopped it.
    """
    from memplan.app.views.notebook import NotebookReporter, in_notebook
    from memplan.app.views.progress import ConsoleReporter, stop_on_signal

    reporter = NotebookReporter(console) if in_notebook(console) else ConsoleReporter(console)
    with stop_on_signal(console) as stopped_by:
        try:
            result = run(reporter, lambda: stopped_by() is not None)
        finally:
            reporter.close()
    reporter.finish(result)
    if not result.interrupted:
        for line in after_training(result.run_folder, graph):
            console.print(printable(line), soft_wrap=True)
    signal_number = stopped_by()
    if result.interrupted and signal_number is not None:
        raise SystemExit(128 + signal_number)
