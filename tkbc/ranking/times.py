"""When a fact is likely: its score at every timestamp, and the times at which the data hold it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memplan.catalog.folders import SPLITS, Split
from memplan.errors import MemplanError
from memplan.workload.rules import preferred
from tkbc.data.dataset import Dataset
from tkbc.models import Batch, Model
from tkbc.scoring import make_score

TIMES_AT_ONCE = 256
"""Timestamps whose queries are encoded together: some ten (256, width) tensors at rank 2,000 take 20 MiB."""


class Moment(NamedTuple):
    """A timestamp, the fact's score at it, its probability by a softmax over all, and the splits that hold it then."""

    time: int
    score: float
    probability: float
    known_in: tuple[Split, ...]


def likely_times(model: Model, data: Dataset, head: int, relation: int, tail: int, top: int) -> list[Moment]:
    """Return the ``top`` likeliest timestamps of a fact, the highest score first; of equal scores the earlier first.

    Raises:
        MemplanError: a score is not a finite number.
    """
    scores = score_times(model, head, relation, tail).numpy().astype(np.float64)
    if not np.isfinite(scores).all():
        raise MemplanError("the model's scores are not finite numbers; train it anew with a lower learning rate")
    weights = np.exp(scores - scores.max())
    probabilities = weights / weights.sum()
    known = known_times(data, head, relation, tail)
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return [Moment(at, float(scores[at]), float(probabilities[at]), known.get(at, ())) for at in best]


@torch.no_grad()
def score_times(model: Model, head: int, relation: int, tail: int) -> Tensor:
    """Return the score of (head, relation, tail, τ) at every timestamp τ, (T,), on the CPU.

    The ordinary query of each timestamp against the tail's row, so it is ``predict``'s own score, the parts that are
    the same at all times and the run's rounding included. ``encode_time``'s single query would leave those parts out,
    has no form where the score is quadratic in time, and takes as many operations.
    """
    workload = model.workload
    score = make_score(workload.score, preferred(workload.score, "cpu"), "cpu", workload.threads, workload.precision)
    row = model.entity.detach()[tail : tail + 1]
    found = torch.empty((workload.n_timestamps, 1))
    for start in range(0, workload.n_timestamps, TIMES_AT_ONCE):
        part = found[start : start + TIMES_AT_ONCE]
        times = torch.arange(start, start + len(part), dtype=torch.int32)
        h, r, t = (torch.full_like(times, i) for i in (head, relation, tail))
        query = model.encode(Batch(h, r, t, times)).query
        buffer = torch.empty_like(part) if score.needs_buffer else None
        part.copy_(score.forward(query, row, buffer, grad=False))
    return found[:, 0]


def known_times(data: Dataset, head: int, relation: int, tail: int) -> dict[int, tuple[Split, ...]]:
    """Return the timestamps at which the data hold a fact, with the splits that do; over an interval, all in it."""
    found: dict[int, tuple[Split, ...]] = {}
    for name in SPLITS:
        facts = data.split(name)
        same = facts[(facts[:, :3] == (head, relation, tail)).all(1)]
        times = {time for begin, end in same[:, [3, -1]].tolist() for time in range(begin, end + 1)}
        found |= {time: (*found.get(time, ()), name) for time in times}
    return found
