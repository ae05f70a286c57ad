"""Filtered ranking: every query against all entities, in chunks as planned, without a loop over queries.

A query's rank is 1 + the candidates that score higher + half of those that tie, over all entities but the other known
true tails at the query's time (the average rank). The optimistic rank counts no tie and the pessimistic rank all of
them; both are reported beside it, since a model that scores everything alike has a perfect optimistic rank. The
target's score is read from the scores of its own chunk, so it comes from the very arithmetic that its rivals' do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memplan.errors import NotFiniteError
from memplan.workload import Workload
from tkbc.data.dataset import FilterIndex, with_reciprocals
from tkbc.data.ids import Ids
from tkbc.data.intervals import IntervalIndex
from tkbc.models import Model
from tkbc.ranking.rivals import NO_POSITIONS, Positions, rivals
from tkbc.ranking.weights import FittedRules
from tkbc.scoring import PairwiseScore
from tkbc.step.transfer import host_room, on_host, send
from tkbc.step.waiting import synchronize, waiting

Filter = FilterIndex | IntervalIndex

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows and tails, (m,) each."""


class Metrics(NamedTuple):
    """Filtered mean reciprocal rank and shares of ranks of at most 1, 3 and 10."""

    mrr: float
    hits_at_1: float
    hits_at_3: float
    hits_at_10: float

    @classmethod
    def of(cls, ranks: npt.NDArray[np.float64]) -> Metrics:
        """Return the metrics of ``ranks``, (n,)."""
        return cls(float((1 / ranks).mean()), *(float((ranks <= k).mean()) for k in (1, 3, 10)))


class Evaluation(NamedTuple):
    """Metrics of a split: for tail prediction, head prediction, and their mean, by average ranks.

    ``optimistic`` and ``pessimistic`` are the mean of tail and head with ties counted for and against the target.
    """

    both: Metrics
    tail: Metrics
    head: Metrics
    optimistic: Metrics
    pessimistic: Metrics


class Ranks(NamedTuple):
    """Candidates that score higher than each target, and that tie with it, (2n,): n facts' tails, then their heads."""

    higher: npt.NDArray[np.float64]
    ties: npt.NDArray[np.float64]

    @property
    def average(self) -> npt.NDArray[np.float64]:
        """The average ranks."""
        return 1 + self.higher + self.ties / 2

    def evaluation(self) -> Evaluation:
        """Return the metrics of the whole split."""
        average, optimistic = self.average, 1 + self.higher
        tail, head = map(Metrics.of, np.split(average, 2))
        return Evaluation(
            _mean_of_halves(average), tail, head, _mean_of_halves(optimistic), _mean_of_halves(optimistic + self.ties)
        )


def evaluate(
    model: Model,
    score: PairwiseScore,
    facts: Ids,
    filter_index: Filter,
    workload: Workload,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    around_first_batch: AbstractContextManager[object] | None = None,
    fitted: FittedRules | None = None,
) -> Evaluation:
    """Return the filtered metrics of ``facts``, (n, 4): each asks for its tail and, by the reciprocal, its head.

    Facts that hold over intervals are asked for at one time, as ``Dataset.queries`` gives them.

    ``on_progress`` is called after every batch with the queries done and all; what it raises ends the evaluation.
    ``around_first_batch`` is entered for the first batch alone: all are alike, so a meter need see no more. With
    ``fitted`` rules, which a workload with ``rules`` has room for, scores are raised by what these say.

    Raises:
        MemplanError: a score is not a number.
    """
    ranks = count_rivals(model, score, facts, filter_index, workload, on_progress, around_first_batch, fitted)
    return ranks.evaluation()


@torch.no_grad()
def count_rivals(
    model: Model,
    score: PairwiseScore,
    facts: Ids,
    filter_index: Filter,
    workload: Workload,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    around_first_batch: AbstractContextManager[object] | None = None,
    fitted: FittedRules | None = None,
) -> Ranks:
    """Return what decides the rank of each target: the tails of ``facts``, then the heads.

    Arguments and errors are those of ``evaluate``.
    """
    queries = with_reciprocals(facts, workload.n_relations)
    counts, processes = host_room(2 * len(queries), workload.device).zero_(), model.processes
    _release_cache(workload)
    for batch, start in enumerate(range(0, len(queries), workload.eval_batch_size)):
        part = queries[start : start + workload.eval_batch_size]
        if batch % processes.replicas == processes.replica:  # replicas take turns
            into = counts[2 * start : 2 * (start + len(part))].view(2, len(part))
            is_first = batch == processes.replica
            with around_first_batch if around_first_batch is not None and is_first else nullcontext():
                _count_rivals(model, score, part, filter_index, workload, fitted, into)
        on_progress(start + len(part), len(queries))
    synchronize("ranks of a split")
    processes.sum_over_replicas_(counts)
    _release_cache(workload)
    found = counts.numpy()
    if not np.isfinite(found).all():
        raise NotFiniteError("the model's scores are not finite numbers; lower the learning rate or check the data")
    batches = np.split(found, range(2 * workload.eval_batch_size, len(found), 2 * workload.eval_batch_size))
    return Ranks(*(np.concatenate([batch.reshape(2, -1)[at] for batch in batches]) for at in (0, 1)))


def _release_cache(workload: Workload) -> None:
    """Return unused segments on CUDA, so that neither training nor evaluation finds what the other left reserved."""
    if workload.device == "cuda":
        with waiting("unused segments to the driver"):
            torch.cuda.empty_cache()


def as_dict(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return the metrics as metrics.jsonl holds them."""
    return {name: metrics._asdict() for name, metrics in evaluation._asdict().items()}


def _mean_of_halves(ranks: npt.NDArray[np.float64]) -> Metrics:
    """Return the mean of the metrics of tail prediction, the first half, and head prediction, the second."""
    tail, head = (Metrics.of(half) for half in np.split(ranks, 2))
    return Metrics(*(float(np.mean(pair)) for pair in zip(tail, head, strict=True)))


def _count_rivals(
    model: Model,
    score: PairwiseScore,
    queries: Ids,
    filter_index: Filter,
    workload: Workload,
    fitted: FittedRules | None,
    into: Tensor,
) -> None:
    """Write to ``into``, (2, b) on the host, how many score higher than each query's tail and how many tie.

    NaN where a score is. On CUDA the numbers are there once the device is done.
    """
    chunk_size, device = workload.eval_chunk_size, workload.device
    excluded = in_order(_other_tails(queries, filter_index), chunk_size, model.processes.rows, device)
    ids = torch.empty((4, len(queries)), dtype=torch.int32, device=device)
    send(np.ascontiguousarray(queries.T), ids)
    raised = NO_POSITIONS if workload.rules else None
    if fitted is not None:
        row, tail, values = fitted.said(queries)
        raised = in_order((row, tail), chunk_size, model.processes.rows, device, values)
    into.copy_(rivals(model, score, ids, excluded, chunk_size, raised), non_blocking=True)


def _other_tails(queries: Ids, filter_index: Filter) -> Pairs:
    """Return the known true tails of ``queries``, (b, 4), but their own, as (row, tail) pairs."""
    row, tail = filter_index.lookup(queries)
    others = tail != queries[row, 2]
    return row[others], tail[others]


def in_order(
    pairs: Pairs, chunk_size: int, own: range, device: str, values: npt.NDArray[np.float32] | None = None
) -> Positions:
    """Return the pairs as positions in their chunks' scores, on the host, in the order of the chunks.

    Only those whose tails are among the ``own`` rows of the entity table; ``values`` are theirs, (m,).
    """
    row, tail = pairs
    n_entities = len(own)
    mine = (own.start <= tail) & (tail < own.stop)
    row, tail = row[mine], tail[mine] - own.start
    chunk = tail // chunk_size
    order = np.argsort(chunk, kind="stable")
    row, tail, chunk = row[order], tail[order], chunk[order]
    start = chunk * chunk_size
    width = np.minimum(chunk_size, n_entities - start)
    ends = np.searchsorted(chunk, np.arange(-(-n_entities // chunk_size)), side="right")
    of_pairs = None if values is None else on_host(values[mine][order], device)
    return Positions(on_host(row * width + tail - start, device), ends.tolist(), of_pairs)
