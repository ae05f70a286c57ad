# Its bytes are told by memplan/programs/evaluation.py.
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
from tkbc.chunks import chunk_view, collect_label_scores
from tkbc.data.dataset import FilterIndex, Ids, with_reciprocals
from tkbc.data.intervals import IntervalIndex
from tkbc.models import Batch, Model
from tkbc.scoring import PairwiseScore

Filter = FilterIndex | IntervalIndex

FILTER_PIECE = 8192
"""Filtered (query, entity) pairs handed to the device at a time: fixed, so that memory does not follow the data."""


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
    higher, ties = np.empty(len(queries)), np.empty(len(queries))
    _release_cache(workload)
    for start in range(0, len(queries), workload.eval_batch_size):
        part = queries[start : start + workload.eval_batch_size]
        done = slice(start, start + len(part))
        with around_first_batch if around_first_batch is not None and start == 0 else nullcontext():
            higher[done], ties[done] = _count_rivals(model, score, part, filter_index, workload)
        on_progress(start + len(part), len(queries))
    _release_cache(workload)
    if not np.isfinite(higher + ties).all():
        raise NotFiniteError("the model's scores are not finite numbers; lower the learning rate or check the data")
    return higher, ties


def _release_cache(workload: Workload) -> None:
    """Return unused segments on CUDA, so that neither training nor evaluation finds what the other left reserved."""
    if workload.device == "cuda":
        torch.cuda.empty_cache()


def as_dict(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return the metrics as metrics.jsonl holds them."""
    return {name: metrics._asdict() for name, metrics in evaluation._asdict().items()}


def _mean_of_halves(ranks: npt.NDArray[np.float64]) -> Metrics:
    """Return the mean of the metrics of tail prediction, the first half, and head prediction, the second."""
    tail, head = (Metrics.of(half) for half in np.split(ranks, 2))
    return Metrics(*(float(np.mean(pair)) for pair in zip(tail, head, strict=True)))


def _count_rivals(
    model: Model, score: PairwiseScore, queries: Ids, filter_index: Filter, workload: Workload
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how many candidates score higher than each query's tail and how many tie, (b,); NaN where a score is."""
    n_queries, n_entities, chunk_size = len(queries), workload.n_entities, workload.eval_chunk_size
    device = workload.device
    ids = torch.empty((4, n_queries), dtype=torch.int32, device=device)
    ids.copy_(torch.from_numpy(np.ascontiguousarray(queries.T)))
    row, tail = filter_index.lookup(queries)
    others = tail != queries[row, 2]
    row, tail = row[others], tail[others]

    query = model.encode(Batch(*ids)).query
    labels = ids[2].long()
    positions = torch.empty(FILTER_PIECE, dtype=torch.int64, device=device)
    buffer = torch.empty((n_queries, chunk_size), device=device) if score.needs_buffer else None
    target = torch.zeros(n_queries, device=device)
    signs = torch.zeros(n_queries, dtype=torch.float64, device=device)
    untied = torch.zeros_like(signs)

    def scores_of(start: int) -> Tensor:
        chunk = model.entity.detach()[start : start + chunk_size]
        return score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=False)

    starts = range(0, n_entities, chunk_size)
    scores = None
    for start in starts:
        scores = scores_of(start)
        collect_label_scores(scores, labels, start, target)
    for start in starts:
        if len(starts) > 1 or scores is None:
            # Free the last chunk's scores first: without a buffer two would live at once.
            scores = None
            scores = scores_of(start)
        n_candidates = scores.shape[1]
        # 0 where all is well, NaN where a score is NaN or overflowed: sign() below would pass NaN off as a tie.
        largest = scores.amax(1)
        untied.add_(largest.sub_(largest))
        del largest
        inside = (tail >= start) & (tail < start + n_candidates)
        _exclude(scores, row[inside] * n_candidates + tail[inside] - start, positions)
        # In place: 1 where a rival scores higher, 0 where it ties, -1 where lower. Two sums then count all three
        # without a table of booleans. Sums of ones are exact in float32 below 2^24 candidates a chunk.
        scores.sub_(target[:, None]).sign_()
        signs.add_(scores.sum(1))
        untied.add_(scores.abs_().sum(1))
    higher = signs.add_(untied).div_(2)
    # The target ties with itself: it is one of the ties counted here, and not one of its own rivals.
    ties = untied.neg_().add_(n_entities - 1)
    return higher.cpu().numpy(), ties.cpu().numpy()


def _exclude(scores: Tensor, flat: npt.NDArray[np.int64], positions: Tensor) -> None:
    """Set the scores at ``flat`` to −inf, a piece at a time through the fixed buffer ``positions``."""
    for start in range(0, len(flat), FILTER_PIECE):
        piece = torch.from_numpy(flat[start : start + FILTER_PIECE])
        at = positions[: len(piece)]
        at.copy_(piece)
        scores.view(-1).index_fill_(0, at, -torch.inf)
