"""A run's progress in a notebook: one line that is written over, where a terminal has bars and a line an epoch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console

from memplan.app.views.progress import ConsoleReporter
from memplan.catalog.folders import Split
from tkbc.runs.reporter import EpochReport, MemoryNow


def in_notebook(console: Console) -> bool:
    """Return whether the console's output stands under a notebook's cell: a kernel's own stream, or a ``!`` command's.

    Jupyter gives such a command a terminal, of which it understands the carriage return and little else.
    """
    return type(sys.stdout).__module__.startswith("ipykernel") or (
        "JPY_PARENT_PID" in os.environ and console.is_terminal
    )


class NotebookReporter(ConsoleReporter):
    """Shows epoch, loss, speed and the last validation in one line, however many epochs there are."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._width = 0
        """Of what stands in the line now."""
        self._valid = ""
        self._n_examples = 1

    def preparing(self, what: str) -> None:
        """Say it until the first epoch begins."""
        self._write(f"preparing {what}")

    def epoch_begins(self, epoch: int, n_epochs: int, n_examples: int) -> None:
        """Go on in the same line."""
        self._epoch = f"epoch {epoch}/{n_epochs}"
        self._n_examples = n_examples

    def step_done(
        self,
        examples: int,
        mean_loss: Callable[[], float],
        memory: Callable[[], MemoryNow],  # noqa: ARG002 - one line has no room for it
    ) -> None:
        """Write the line anew, at most twice a second."""
        if self._is_due():
            self._write(f"{self._epoch}, {examples / self._n_examples:.0%}  loss {mean_loss():.4f}{self._valid}")

    def evaluating(self, split: Split, done: int, n_queries: int) -> None:
        """Say how far the ranking is."""
        if done < n_queries and self._is_due():
            self._write(f"{self._epoch}  ranking {split}, {done / n_queries:.0%}{self._valid}")

    def epoch_done(self, report: EpochReport) -> None:
        """Write the epoch's line in place of the last one's."""
        if report.valid is not None:
            self._valid = f"  valid MRR {report.valid.both.mrr:.4f} (epoch {report.epoch})"
        self._write(f"{self._epoch}  loss {report.loss:.4f}  {report.examples_per_second:,.0f}/s{self._valid}")

    def _write(self, line: str) -> None:
        self.console.file.write("\r" + line.ljust(self._width))
        self.console.file.flush()
        self._width = len(line)

    def _start(self, description: str, total: int) -> None:
        """No bars here."""

    def _end_live(self) -> None:
        if self._width:
            self.console.file.write("\n")
            self._width = 0
