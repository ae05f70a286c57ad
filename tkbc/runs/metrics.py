"""metrics.jsonl, the record of a run: what its lines are, and how they are read. Damaged lines are passed over."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from memplan.files import read_lines

METRICS_FILE = "metrics.jsonl"
FAILED = "failed"
"""The event that says a run's numbers went wrong; what comes after it is another attempt."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Metrics(BaseModel, frozen=True):
    """Filtered mean reciprocal rank and shares of ranks of at most 1, 3 and 10."""

    mrr: Finite
    hits_at_1: Finite
    hits_at_3: Finite
    hits_at_10: Finite


class Ranking(BaseModel, frozen=True):
    """The metrics of a split: average ranks for tails, heads and their mean, and that mean with ties either way."""

    both: Metrics
    tail: Metrics
    head: Metrics
    optimistic: Metrics
    pessimistic: Metrics


class Epoch(BaseModel, frozen=True):
    """One epoch."""

    epoch: int
    loss: Finite
    n3_penalty: Finite
    seconds: Finite
    examples_per_second: Finite
    valid: Ranking | None = None
    memory: dict[str, int | None] | None = None
    """What ``MemoryNow`` says at its end; None in runs of older versions."""


class RelationMetrics(Metrics):
    """The metrics of the facts of one relation: the mean of tails and heads."""

    relation: str
    n_facts: int


class Final(BaseModel, frozen=True):
    """The end of a run: the test split, ranked with the tables of the best epoch."""

    test: Ranking
    alone: Ranking | None = None
    """The same by the embeddings alone, where the graph's rules are beside them in ``test``."""
    best_epoch: int | None = None
    by_relation: tuple[RelationMetrics, ...] = ()
    """The relations of the test split, the most frequent first; empty in runs of older versions."""


class Event(BaseModel, frozen=True):
    """Something that happened on the way; what it is decides which of the other fields are there."""

    event: str
    epoch: int
    examples_done: int | None = None
    what: str | None = None
    during: str | None = None
    reason: str | None = None
    changes: dict[str, tuple[int, int]] | None = None


Line = Epoch | Event | Final


class RunMetrics(NamedTuple):
    """A run so far, its epochs in order; of an epoch that was trained again, the last time."""

    epochs: list[Epoch]
    events: list[Event]
    final: Final | None

    @property
    def has_failed(self) -> bool:
        """Whether its numbers went wrong, and no other attempt followed."""
        return bool(self.events) and self.events[-1].event == FAILED

    @property
    def best(self) -> Epoch | None:
        """The first epoch with the highest validation MRR."""
        return max((e for e in self.epochs if e.valid), key=lambda e: e.valid.both.mrr if e.valid else 0, default=None)


def read_metrics(run_folder: Path) -> RunMetrics:
    """Return what the run in ``run_folder`` has recorded so far."""
    epochs: dict[int, Epoch] = {}
    events = []
    final = None
    for line in read_lines(run_folder / METRICS_FILE):
        with suppress(ValidationError):
            if "event" in line:
                events.append(Event.model_validate(line))
            elif "test" in line:
                final = Final.model_validate(line)
            else:
                epoch = Epoch.model_validate(line)
                epochs[epoch.epoch] = epoch
    return RunMetrics([epochs[number] for number in sorted(epochs)], events, final)
