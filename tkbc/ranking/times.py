"""When a fact is likely: its score at every timestamp, the times at which the data hold it, and how well they agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memplan.catalog.folders import SPLITS, Split
from memplan.errors import MemplanError, NotFiniteError
from memplan.workload.rules import preferred
from tkbc.data.dataset import Dataset
from tkbc.data.ids import Ids
from tkbc.models import Batch, Model
from tkbc.ranking.groups import kinds_of_time
from tkbc.scoring import PairwiseScore, make_score
from tkbc.scoring.chunks import new_buffer

TIMES_AT_ONCE = 256
"""Timestamps whose queries are encoded together: some ten (256, width) tensors at rank 2,000 take 20 MiB."""


SORTING_SCORES = 16
"""What ``average_precision`` takes on the host for each score, in scores of 4 bytes; a test looks."""


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


@torch.no_grad()
def time_precisions(model: Model, score: PairwiseScore, data: Dataset, facts: Ids) -> npt.NDArray[np.float64]:
    """Return each fact's average precision of time, (n,), by its score at all timestamps; NaN where it has no time.

    Right are the timestamps at which the fact holds by its own line: the one that it has, or all from begin to end.
    "No time" is not among the candidates. The model must have a query for the time (``Workload.can_predict_time``).

    Shapes:
        facts: (n, 4), or (n, 5) over intervals.

    Raises:
        NotFiniteError: a score is not a number.
    """
    times = model.table("time").detach()[: len(data.timestamps) - data.has_no_time]
    found = np.full(len(facts), np.nan)
    dated = np.flatnonzero(kinds_of_time(data, facts))
    at_once = facts_at_once(model)
    for start in range(0, len(dated), at_once):
        part = dated[start : start + at_once]
        begin, end = facts[part, 3, None], facts[part, -1, None]
        scores = _scores_over_time(model, score, facts[part, :4], times)
        if not np.isfinite(scores).all():
            raise NotFiniteError("the model's scores are not finite numbers; train it anew with a lower learning rate")
        at = np.arange(len(times))
        found[part] = average_precision(scores, (begin <= at) & (at <= end))
    return found


def facts_at_once(model: Model) -> int:
    """Return how many facts are scored over time together: so many that it takes no more than a batch of ranking.

    Its query needs at most twice a ranking query's tensors, and its scores of all T timestamps and their sorting lie
    where a ranking batch has b · C scores. A single fact may need more than a batch of a single query, by some rows of
    the tables, but never more than the evaluation's planned peak, which counts gradients that are not there.
    """
    workload = model.workload
    batch = workload.eval_batch_size
    room = batch * workload.eval_chunk_size // SORTING_SCORES
    return max(1, min(batch // 2, room // workload.n_timestamps))


def _scores_over_time(model: Model, score: PairwiseScore, facts: Ids, times: Tensor) -> npt.NDArray[np.float32]:
    """Return the scores of facts, (b, 4), at all of ``times``, (T, width), but for what is the same at all: (b, T)."""
    ids = torch.from_numpy(np.ascontiguousarray(facts.T)).to(times.device)
    query = model.encode_time(Batch(*ids)).query
    buffer = new_buffer(score, times, len(facts), len(times), "time scores")
    scores: npt.NDArray[np.float32] = score.forward(query, times, buffer, grad=False).cpu().numpy()
    return scores


def average_precision(scores: npt.NDArray[np.floating], right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the average precision of each row, (b, T) give (b,): the mean, over its right ones, of a precision.

    That is the share of right ones among all that score at least as high. Equal scores come in together, so a tie
    counts against the right one: the usual definition, Σ (R_n − R_{n−1}) P_n over the distinct scores. Of a single
    right one it is 1 / its pessimistic rank.
    """
    n_right = right.sum(1)
    if (n_right == 1).all():  # without sorting, which over thousands of timestamps takes as long as ranking does
        ranks: npt.NDArray[np.float64] = (scores >= scores[right][:, None]).sum(1, dtype=np.float64)
        return 1 / ranks
    order = np.argsort(-scores, axis=1)
    ranked, is_right = np.take_along_axis(scores, order, 1), np.take_along_axis(right, order, 1)
    # The last place of each run of equal scores: what has come in when the run's score is the threshold.
    place = np.arange(scores.shape[1])
    last = np.where(np.pad(ranked[:, 1:] != ranked[:, :-1], ((0, 0), (0, 1)), constant_values=True), place, len(place))
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(np.cumsum(is_right, axis=1), last, 1) / (last + 1)
    found: npt.NDArray[np.float64] = (precision * is_right).sum(1) / n_right
    return found
