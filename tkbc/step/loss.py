"""Softmax cross-entropy over all entities (or all timestamps), streamed over chunks of them: value and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from tkbc.scoring import PairwiseScore
from tkbc.scoring.chunks import chunk_view, collect_label_scores, new_buffer
from tkbc.sharded import Processes
from tkbc.sharded.processes import over_all_shards_
from tkbc.tensors import each, named, positions_in, torch

if TYPE_CHECKING:
    from torch import Tensor

PhaseMarker = Callable[[str], AbstractContextManager[object]]


def no_phase(_name: str) -> AbstractContextManager[object]:
    """Mark nothing: the phase marker of code that nobody measures."""
    return nullcontext()


def softmax_cross_entropy(
    score: PairwiseScore,
    query: tuple[Tensor, ...],
    entities: Tensor,
    labels: Tensor,
    grad_entities: Tensor,
    *,
    chunk_size: int,
    weights: Tensor | None = None,
    processes: Processes | None = None,
    phase: PhaseMarker = no_phase,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return Σ_i w_i (log Σ_n exp s_in − s_i,label_i), and its gradient with respect to the query tensors.

    The gradient with respect to the entities is added to ``grad_entities``. Sums, not means: the caller divides by the
    examples of the whole optimizer step, which makes accumulation exact.

    One (b, C) buffer holds first scores, then probabilities, then the scores' gradient. With C = N the scores are
    computed once; with C < N a first pass collects the log-sum-exp and a second computes each chunk's scores again, as
    FlashAttention (arXiv 2205.14135) and cut cross-entropy (arXiv 2411.09009) do.

    ``entities`` may be another table that the query is scored against, such as the timestamps'. Without ``weights``
    each w_i is 1. Where ``processes`` hold the entity table between them, ``entities`` is the own rows, labels are of
    all, and loss and query gradients are the same in every process: 3 b numbers are summed over them, and the gradients
    of the query.

    Shapes:
        query: tensors of (b, width); entities, grad_entities: (N, width), all of one floating-point type;
        labels: (b,), int64; weights: (b,), of the entities' type.
    """
    n_queries, n_entities = len(labels), len(entities)
    own_start = 0 if processes is None else processes.rows.start
    chunk_size = max(1, min(chunk_size, n_entities))
    one_chunk = chunk_size >= n_entities
    starts = range(0, n_entities, chunk_size)
    with phase("score"):
        buffer = new_buffer(score, entities, n_queries, chunk_size, "scores, then their gradient")
        log_sum_exp = named("log-sum-exp", entities.new_full((n_queries,), -math.inf))
        label_score = named("scores of the labels", torch.zeros_like(log_sum_exp))
        for start in each(starts, entities):
            chunk = entities[start : start + chunk_size]
            scores = score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=one_chunk)
            collect_label_scores(scores, labels, own_start + start, label_score)
            of_chunk = score.softmax_(scores) if one_chunk else score.log_sum_exp_(scores)
            torch.logaddexp(log_sum_exp, of_chunk, out=log_sum_exp)
            del of_chunk
        share = None if processes is None else over_all_shards_(processes, log_sum_exp, label_score)
        losses = named("losses", log_sum_exp - label_score)
        loss = named("loss", (losses if weights is None else losses.mul_(weights)).sum())
        del losses, label_score
    with phase("score backward"):
        grad_query = tuple(named("gradient of the query", torch.zeros_like(tensor)) for tensor in query)
        # Backwards, since the buffer may still hold the last chunk's scores.
        for start in reversed(each(starts, entities)):
            chunk = entities[start : start + chunk_size]
            if not one_chunk:
                if start != starts[-1] or not score.keeps_scores:
                    scores = score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=False)
                score.exp_(scores, log_sum_exp)
            elif share is not None:
                scores.mul_(share[:, None])
            _subtract_one_at_labels(scores, labels, own_start + start)
            if weights is not None:
                scores.mul_(weights[:, None])
            score.backward(query, chunk, scores, grad_query, grad_entities[start : start + chunk_size])
        if processes is not None:
            for of_query in grad_query:
                processes.sum_over_shards_(of_query)
    return loss, grad_query


def _subtract_one_at_labels(grad_scores: Tensor, labels: Tensor, start: int) -> None:
    position, inside = positions_in(labels, start, grad_scores.shape[1])
    minus_ones = named("minus ones", inside.to(grad_scores.dtype)).neg_()
    grad_scores.scatter_add_(1, position[:, None], minus_ones[:, None])
