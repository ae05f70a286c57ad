"""What a run's metrics.jsonl tells: its epochs, its events and its test. Lines that are damaged are passed over."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tkbc.runs.listing import read_lines

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Metrics(BaseModel):
    """Filtered mean reciprocal rank and shares of ranks of at most 1, 3 and 10."""

    model_config = ConfigDict(frozen=True)

    mrr: Finite
    hits_at_1: Finite
    hits_at_3: Finite
    hits_at_10: Finite


class Ranking(BaseModel):
    """The metrics of a split: average ranks for tails, heads and their mean, and that mean with ties either way."""

    model_config = ConfigDict(frozen=True)

    both: Metrics
    tail: Metrics
    head: Metrics
    optimistic: Metrics
    pessimistic: Metrics


class Epoch(BaseModel):
    """One epoch."""

    model_config = ConfigDict(frozen=True)

    epoch: int
    loss: Finite
    n3_penalty: Finite
    seconds: Finite
    examples_per_second: Finite
    valid: Ranking | None = None


class Final(BaseModel):
    """The end of a run: the test split, ranked with the tables of the best epoch."""

    model_config = ConfigDict(frozen=True)

    test: Ranking
    best_epoch: int | None = None


class Event(BaseModel):
    """Something that happened on the way; what it is decides which of the rest it tells."""

    model_config = ConfigDict(frozen=True)

    event: str
    epoch: int
    examples_done: int | None = None
    what: str | None = None
    during: str | None = None
    changes: dict[str, tuple[int, int]] | None = None


class History(NamedTuple):
    """A run so far; of an epoch that was trained again, the last time."""

    epochs: list[Epoch]
    events: list[Event]
    final: Final | None

    @property
    def best(self) -> Epoch | None:
        """The first epoch with the highest validation MRR."""
        return max((e for e in self.epochs if e.valid), key=lambda e: e.valid.both.mrr if e.valid else 0, default=None)


def read_history(run_folder: Path) -> History:
    """Return what the run in ``run_folder`` has told so far."""
    epochs: dict[int, Epoch] = {}
    events = []
    final = None
    for line in read_lines(run_folder / "metrics.jsonl"):
        with suppress(ValidationError):
            if "event" in line:
                events.append(Event.model_validate(line))
            elif "test" in line:
                final = Final.model_validate(line)
            else:
                epoch = Epoch.model_validate(line)
                epochs[epoch.epoch] = epoch
    return History([epochs[number] for number in sorted(epochs)], events, final)
