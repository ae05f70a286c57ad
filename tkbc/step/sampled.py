"""Softmax cross-entropy over entities drawn for the whole batch, and each query's own label: value and gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tkbc.scoring import PairwiseScore
from tkbc.scoring.chunks import chunk_view, new_buffer
from tkbc.scoring.pairs import PairScore
from tkbc.step.loss import PhaseMarker, no_phase
from tkbc.tensors import each, named, positions_in, torch

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OUT = -1e30
"""Added to the score of a label among the drawn: finite, since a chunk may hold nothing else."""


def sampled_softmax_cross_entropy(
    score: PairwiseScore,
    query: tuple[Tensor, ...],
    drawn: Tensor,
    own: PairScore,
    places: Tensor,
    grad_drawn: Tensor,
    *,
    n_entities: int,
    chunk_size: int,
    phase: PhaseMarker = no_phase,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Return Σ_i (log Z_i − s_i), its gradient with respect to the query tensors, and that of the labels' rows.

    s_i is the score of query i's label, s_ik that of drawn entity k. Of N entities K are drawn, none twice, each as
    likely as any other; a label among the drawn is left out there, since it is counted for itself:

        Z_i = exp s_i + (N − 1) / K_i · Σ_{k ≠ label_i} exp s_ik        K_i = K, or K − 1 where the label is drawn

    Z_i is an unbiased estimate of Σ_n exp s_in, and that sum itself where all are drawn. Its logarithm, and so the
    gradient, is biased by less the more are drawn (importance sampling of the softmax's denominator: Bengio and
    Senécal, 2003; with candidates shared by a batch Jean et al., ACL 2015, arXiv 1412.2007).

    The gradient with respect to the drawn rows is added to ``grad_drawn``. Scores go through one (b, C) buffer in
    chunks of the drawn, as ``softmax_cross_entropy`` has it.

    Args:
        own: each query with its label's row.
        places: where each label stands among the drawn, K or more where it is not drawn.

    Shapes:
        query: tensors of (b, width); drawn, grad_drawn: (K, width) with K ≥ 2; places: (b,), int64; returns a scalar,
        tensors of (b, width), and (b, width).
    """
    n_queries, n_drawn = len(places), len(drawn)
    chunk_size = max(1, min(chunk_size, n_drawn))
    one_chunk = chunk_size >= n_drawn
    starts = range(0, n_drawn, chunk_size)
    with phase("score"):
        buffer = new_buffer(score, drawn, n_queries, chunk_size, "scores, then their gradient")
        log_sum_exp = named("log-sum-exp of the drawn", drawn.new_full((n_queries,), -math.inf))
        for start in each(starts, drawn):
            chunk = drawn[start : start + chunk_size]
            scores = score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=one_chunk)
            _leave_out(scores, places, start)
            of_chunk = score.softmax_(scores) if one_chunk else score.log_sum_exp_(scores)
            torch.logaddexp(log_sum_exp, of_chunk, out=log_sum_exp)
            del of_chunk
        weight = _log_weights(places, n_drawn, n_entities, log_sum_exp)
        log_sum_exp.add_(weight)
        log_z = named("log of the estimated sum", torch.zeros_like(log_sum_exp))
        torch.logaddexp(log_sum_exp, own.scores, out=log_z)
        share = log_sum_exp.sub_(log_z).exp_()  # of the drawn in Z
        loss = named("loss", named("losses", log_z - own.scores).sum())
        shift = log_z.sub_(weight)
    with phase("score backward"):
        grad_query = tuple(named("gradient of the query", torch.zeros_like(tensor)) for tensor in query)
        # Backwards, since the buffer may still hold the last chunk's scores.
        for start in reversed(each(starts, drawn)):
            chunk = drawn[start : start + chunk_size]
            if one_chunk:
                scores.mul_(share[:, None])
            else:
                if start != starts[-1] or not score.keeps_scores:
                    scores = score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=False)
                    _leave_out(scores, places, start)
                score.exp_(scores, shift)
            score.backward(query, chunk, scores, grad_query, grad_drawn[start : start + chunk_size])
        # ∂(log Z_i − s_i) / ∂s_i = exp s_i / Z_i − 1: the others' share, with a minus.
        grad_rows = own.backward(share.neg_(), grad_query)
    return loss, grad_query, grad_rows


def _log_weights(places: Tensor, n_drawn: int, n_entities: int, like: Tensor) -> Tensor:
    """Return log((N − 1) / K_i), (b,)."""
    is_drawn = named("labels among the drawn", places < n_drawn)
    weight = named("log weight of a drawn one", is_drawn.to(like.dtype))
    return weight.neg_().add_(n_drawn).log_().neg_().add_(math.log(n_entities - 1))


def _leave_out(scores: Tensor, places: Tensor, start: int) -> None:
    """Lower the scores of labels in this chunk of drawn ones, (b, c), to where their exponentials are 0."""
    position, inside = positions_in(places, start, scores.shape[1])
    lowered = named("labels left out", inside.to(scores.dtype)).mul_(LEFT_OUT)
    scores.scatter_add_(1, position[:, None], lowered[:, None])
