"""What a run reports while it goes on, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memplan.catalog.folders import Split
from memplan.plan import MemoryCheck

if TYPE_CHECKING:
    from tkbc.ranking.evaluation import Evaluation


class EpochReport(NamedTuple):
    """One line of metrics.jsonl."""

    epoch: int
    loss: float
    """Mean cross-entropy of the epoch's examples."""
    n3_penalty: float
    """Mean N3 penalty of the epoch's examples."""
    seconds: float
    examples_per_second: float
    valid: Evaluation | None


class MemoryNow(NamedTuple):
    """A run's memory at a moment, in bytes; None is what the device does not report."""

    allocated_bytes: int
    """On CUDA what the allocator has given out; on the CPU the tensors that live as long as the run."""
    reserved_bytes: int | None
    """On CUDA what the allocator holds from the driver."""
    peak_bytes: int | None
    """On CUDA the highest reserved bytes; on the CPU the highest of all tensors together that was measured."""
    budget_bytes: int
    process_bytes: int
    """The whole process in RAM."""


class Result(NamedTuple):
    """What a run ends with."""

    run_folder: Path
    epochs: int
    interrupted: bool
    test: Evaluation | None
    memory_check: MemoryCheck | None
    alone: Evaluation | None = None
    """The test split by the embeddings alone, where ``test`` has the graph's rules beside them."""


class Reporter:
    """Told what happens, as it happens; this one keeps quiet."""

    def preparing(self, what: str) -> None:
        """Something that can take seconds begins."""

    def notice(self, text: str) -> None:
        """Something happened that the user should know."""

    def epoch_begins(self, epoch: int, n_epochs: int, n_examples: int) -> None:
        """An epoch begins; epochs count from 1."""

    def step_done(self, examples: int, mean_loss: Callable[[], float], memory: Callable[[], MemoryNow]) -> None:
        """A step is done, and ``examples`` of the epoch; ``mean_loss`` reads the device, so ask both sparingly."""

    def evaluating(self, split: Split, done: int, n_queries: int) -> None:
        """``done`` of the split's queries are ranked."""

    def epoch_done(self, report: EpochReport) -> None:
        """An epoch and its validation are done."""

    def memory_checked(self, check: MemoryCheck) -> None:
        """The plan has been compared with what was measured."""
