# Its bytes are told by memplan/memory/programs/evaluation.py.
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
from tkbc.data.dataset import FilterIndex, Ids, with_reciprocals
from tkbc.data.intervals import IntervalIndex
from tkbc.models import Batch, Model
from tkbc.ranking.transfer import host_room, on_host, send
from tkbc.scoring import PairwiseScore
from tkbc.scoring.chunks import chunk_view, collect_label_scores
from tkbc.step.waiting import synchronize, waiting

Filter = FilterIndex | IntervalIndex

FILTER_PIECE = 8192
"""Filtered (query, entity) pairs handed to the device at a time: fixed, so that memory does not follow the data."""

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


def evaluate(
    model: Model,
    score: PairwiseScore,
    facts: Ids,
    filter_index: Filter,
    workload: Workload,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    around_first_batch: AbstractContextManager[object] | None = None,
) -> Evaluation:
    """Return the filtered metrics of ``facts``, (n, 4): each asks for its tail and, by the reciprocal, its head.

    Facts that hold over intervals are asked for at one time, as ``Dataset.queries`` gives them.

    ``on_progress`` is called after every batch with the queries done and all; what it raises ends the evaluation.
    ``around_first_batch`` is entered for the first batch alone: all are alike, so a meter need see no more.

    Raises:
        MemplanError: a score is not a number.
    """
    higher, ties = count_rivals(model, score, facts, filter_index, workload, on_progress, around_first_batch)
    average = 1 + higher + ties / 2
    tail, head = Metrics.of(average[: len(facts)]), Metrics.of(average[len(facts) :])
    optimistic, pessimistic = (_mean_of_halves(ranks) for ranks in (1 + higher, 1 + higher + ties))
    return Evaluation(_mean_of_halves(average), tail, head, optimistic, pessimistic)


@torch.no_grad()
def count_rivals(
    model: Model,
    score: PairwiseScore,
    facts: Ids,
    filter_index: Filter,
    workload: Workload,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    around_first_batch: AbstractContextManager[object] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how many candidates score higher than each target and how many tie, (2n,): the tails, then the heads.

    Arguments and errors are those of ``evaluate``.
    """
    queries = with_reciprocals(facts, workload.n_relations)
    counts = host_room(2 * len(queries), workload.device)
    _release_cache(workload)
    for start in range(0, len(queries), workload.eval_batch_size):
        part = queries[start : start + workload.eval_batch_size]
        into = counts[2 * start : 2 * (start + len(part))].view(2, len(part))
        with around_first_batch if around_first_batch is not None and start == 0 else nullcontext():
            _count_rivals(model, score, part, filter_index, workload, into)
        on_progress(start + len(part), len(queries))
    synchronize("ranks of a split")
    _release_cache(workload)
    found = counts.numpy()
    if not np.isfinite(found).all():
        raise NotFiniteError("the model's scores are not finite numbers; lower the learning rate or check the data")
    batches = np.split(found, range(2 * workload.eval_batch_size, len(found), 2 * workload.eval_batch_size))
    higher, ties = (np.concatenate([batch.reshape(2, -1)[at] for batch in batches]) for at in (0, 1))
    return higher, ties


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
    model: Model, score: PairwiseScore, queries: Ids, filter_index: Filter, workload: Workload, into: Tensor
) -> None:
    """Write to ``into``, (2, b) on the host, how many score higher than each query's tail and how many tie.

    NaN where a score is. On CUDA the numbers are there once the device is done.
    """
    n_queries, n_entities, chunk_size = len(queries), workload.n_entities, workload.eval_chunk_size
    device = workload.device
    ids = torch.empty((4, n_queries), dtype=torch.int32, device=device)
    send(np.ascontiguousarray(queries.T), ids)

    query = model.encode(Batch(*ids)).query
    labels = ids[2].long()
    filtered = _Filtered(_other_tails(queries, filter_index), chunk_size, n_entities, device)
    buffer = torch.empty((n_queries, chunk_size), device=device) if score.needs_buffer else None
    target = torch.zeros(n_queries, device=device)
    counts = torch.zeros((2, n_queries), dtype=torch.float64, device=device)
    signs, untied = counts

    def scores_of(start: int) -> Tensor:
        chunk = model.entity.detach()[start : start + chunk_size]
        return score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=False)

    starts = range(0, n_entities, chunk_size)
    scores = None
    for start in starts:
        scores = scores_of(start)
        collect_label_scores(scores, labels, start, target)
    for at, start in enumerate(starts):
        if len(starts) > 1 or scores is None:
            # Free the last chunk's scores first: without a buffer two would live at once.
            scores = None
            scores = scores_of(start)
        # 0 where all is well, NaN where a score is NaN or overflowed: sign() below would pass NaN off as a tie.
        largest = scores.amax(1)
        untied.add_(largest.sub_(largest))
        del largest
        filtered.exclude(scores, at)
        # In place: 1 where a rival scores higher, 0 where it ties, -1 where lower. Two sums then count all three
        # without a table of booleans. Sums of ones are exact in float32 below 2^24 candidates a chunk.
        scores.sub_(target[:, None]).sign_()
        signs.add_(scores.sum(1))
        untied.add_(scores.abs_().sum(1))
    signs.add_(untied).div_(2)  # higher
    # The target ties with itself: it is one of the ties counted here, and not one of its own rivals.
    untied.neg_().add_(n_entities - 1)  # ties
    into.copy_(counts, non_blocking=True)


def _other_tails(queries: Ids, filter_index: Filter) -> Pairs:
    """Return the known true tails of ``queries``, (b, 4), but their own, as (row, tail) pairs."""
    row, tail = filter_index.lookup(queries)
    others = tail != queries[row, 2]
    return row[others], tail[others]


class _Filtered:
    """A batch's known true tails, excluded chunk after chunk through one buffer of ``FILTER_PIECE`` positions.

    All positions lie on the host in the order in which the chunks ask for them. The buffer holds a piece of them at a
    time, so a batch takes as few copies as its pairs fill pieces, mostly one, however many chunks there are.
    """

    def __init__(self, pairs: Pairs, chunk_size: int, n_entities: int, device: str) -> None:
        row, tail = pairs
        chunk = tail // chunk_size
        order = np.argsort(chunk, kind="stable")
        row, tail, chunk = row[order], tail[order], chunk[order]
        start = chunk * chunk_size
        width = np.minimum(chunk_size, n_entities - start)
        self._ends = np.searchsorted(chunk, np.arange(-(-n_entities // chunk_size)), side="right")
        self._positions = on_host(row * width + tail - start, device)
        self._piece = torch.empty(FILTER_PIECE, dtype=torch.int64, device=device)
        self._done = 0

    def exclude(self, scores: Tensor, chunk: int) -> None:
        """Set the scores of chunk number ``chunk``, (b, c), to −inf at its pairs; call it for chunk after chunk."""
        while self._done < self._ends[chunk]:
            at = self._done % FILTER_PIECE
            if at == 0:
                piece = self._positions[self._done : self._done + FILTER_PIECE]
                self._piece[: len(piece)].copy_(piece, non_blocking=True)
            last = min(at + int(self._ends[chunk]) - self._done, FILTER_PIECE)
            scores.view(-1).index_fill_(0, self._piece[at:last], -torch.inf)
            self._done += last - at
