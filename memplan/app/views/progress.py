"""A run's progress on a terminal: live bars there, one line an epoch in a pipe."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status

from memplan.app.views.tables import check_report
from memplan.catalog.folders import Split
from memplan.plan import MemoryCheck
from tkbc.runs.listing import how_to_resume, memory_line
from tkbc.runs.reporter import EpochReport, MemoryNow, Reporter, Result

T = TypeVar("T")

ONE_WISH_SECONDS = 1.0
"""Signals this close together are one wish to stop."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Ctrl-C's, a polite end's, that of a terminal that is gone: SIGHUP, and SIGBREAK on Windows."""
_REFRESH_SECONDS = 0.5
WIDE = 100
"""Columns from which on the bar has its full width."""
TIMES_WIDTH = 4 + 2 * len("0:00:00")
"""Columns of the time that has passed, the time left, and the blanks between columns."""


class ConsoleReporter(Reporter):
    """Shows loss, examples per second and memory while training, and the memory check once it is known."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._status: Status | None = None
        self._epoch = ""
        self._shown = 0.0
        self._first: tuple[int, float] | None = None
        """Examples of the epoch and time when its first step here was done."""

    def preparing(self, what: str) -> None:
        """Show a spinner until the first epoch begins."""
        if self.console.is_terminal:
            self._status = self.console.status(f"preparing {what}")
            self._status.start()

    def epoch_begins(self, epoch: int, n_epochs: int, n_examples: int) -> None:
        """Begin the epoch's bar."""
        self._end_live()
        self._epoch = f"epoch {epoch}/{n_epochs}"
        self._first = None
        self._shown = 0.0
        self._start(self._epoch, n_examples)

    def notice(self, text: str) -> None:
        """Print it between the bars."""
        self._end_live()
        self.console.print(text, soft_wrap=True)

    def step_done(self, examples: int, mean_loss: Callable[[], float], memory: Callable[[], MemoryNow]) -> None:
        """Move the bar, at most twice a second."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (examples, now)  # a resumed epoch does not begin at 0
            return
        if self._progress is None or self._task is None or not self._is_due():
            return
        done, begin = self._first
        rate = (examples - done) / max(now - begin, 1e-9)
        told = [f"loss {mean_loss():.3f}", f"{rate:,.0f} examples/s", memory_line(memory()._asdict())]
        self._progress.update(self._task, completed=examples, detail=self._as_fits(told))

    def _is_due(self) -> bool:
        """Return whether it is time to show something again, and take it as shown."""
        now = time.perf_counter()
        if now - self._shown < _REFRESH_SECONDS:
            return False
        self._shown = now
        return True

    def _as_fits(self, told: list[str]) -> str:
        """Return as many of the details as leave room for epoch, bar and times; the last are the first to go."""
        room = self.console.width - len(self._epoch) - self._bar_width() - TIMES_WIDTH
        while told and len("  ".join(told)) > room:
            told = told[:-1]
        return "  ".join(told)

    def _bar_width(self) -> int:
        return 24 if self.console.width >= WIDE else 12

    def evaluating(self, split: Split, done: int, n_queries: int) -> None:
        """Show the ranking's bar."""
        if done < n_queries and self._progress is None:
            self._start(f"ranking {split}", n_queries)
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, description=f"ranking {split}", completed=done, total=n_queries, detail=""
            )
        if done == n_queries:
            self._end_live()

    def epoch_done(self, report: EpochReport) -> None:
        """Print the epoch's line."""
        self._end_live()
        line = f"{self._epoch}  loss {report.loss:.4f}  {report.seconds:.1f} s, {report.examples_per_second:,.0f}/s"
        if report.valid is not None:
            line += f"  valid MRR {report.valid.both.mrr:.4f} Hits@10 {report.valid.both.hits_at_10:.4f}"
        self.console.print(line)

    def memory_checked(self, check: MemoryCheck) -> None:
        """Print predicted against measured."""
        self._end_live()
        self.console.print(check_report(check))

    def finish(self, result: Result) -> None:
        """Print how the run ended."""
        self._end_live()
        if result.test is not None:
            for name, metrics in (
                ("test", result.test.both),
                ("  tails", result.test.tail),
                ("  heads", result.test.head),
            ):
                self.console.print(
                    f"{name:<8}MRR {metrics.mrr:.4f}  Hits@1 {metrics.hits_at_1:.4f}  Hits@3 {metrics.hits_at_3:.4f}  "
                    f"Hits@10 {metrics.hits_at_10:.4f}"
                )
            self.console.print(
                f"MRR with ties for the target {result.test.optimistic.mrr:.4f}, against it "
                f"{result.test.pessimistic.mrr:.4f}"
            )
        if result.alone is not None:
            self.console.print(f"MRR by the embeddings alone, without the graph's rules {result.alone.both.mrr:.4f}")
        if result.interrupted:
            self.console.print(f"stopped in epoch {result.epochs}; a checkpoint holds every finished step. Go on with")
            self.console.print(f"  {how_to_resume(result.run_folder)}", soft_wrap=True)
        self.console.print(f"run folder {result.run_folder}", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was, whatever happened."""
        self._end_live()

    def _start(self, description: str, total: int) -> None:
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=self._bar_width()),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task(description, total=total, detail="")
        self._progress.start()

    def _end_live(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Terminal:
    """A terminal's stream that may lose its terminal: what is written after that goes nowhere, without an error."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``."""
        return self._attempt(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Write what is held back."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        # What the stream still holds goes there too: it would fail once more when Python ends, and change the status.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        return action()


@contextmanager
def stop_on_signal(console: Console) -> Iterator[Callable[[], int | None]]:
    """Yield a function that says which of ``SIGNALS`` came, or None.

    Signals within ``ONE_WISH_SECONDS`` of the first are the same wish, as from a wrapper that signals twice; one
    after that ends at once. SIGHUP stays ignored where it was, under nohup. The console outlives its terminal.
    """
    came: int | None = None
    came_at = 0.0

    def handler(number: int, _frame: FrameType | None) -> None:
        nonlocal came, came_at
        if came is None:
            came, came_at = number, time.monotonic()
            console.print(f"{signal.Signals(number).name}: stopping after this micro-batch (again to end at once)")
        elif time.monotonic() - came_at >= ONE_WISH_SECONDS:
            raise KeyboardInterrupt

    if console.is_terminal:
        console.file = cast("IO[str]", _Terminal(console.file))
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    if before.get(getattr(signal, "SIGHUP", None)) is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handler)
    try:
        yield lambda: came
    finally:
        for number, old in before.items():
            signal.signal(number, old)
