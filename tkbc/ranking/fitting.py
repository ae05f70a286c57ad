"""Fitting the weights of rules to the validation split, by maximum likelihood.

With s_t a candidate's score and x_t its evidence (``rules.Evidence``),

    p(t) = exp(α s_t + θ · x_t) / Σ_n exp(α s_n + θ · x_n)

is the likelihood of an answer. Of the few α that are tried the likeliest is taken. A model's scores are
too sure of themselves on facts that it was not trained on, so α is mostly below 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memplan.errors import NotFiniteError
from memplan.workload import Workload
from tkbc.data.dataset import FilterIndex, with_reciprocals
from tkbc.data.ids import Ids
from tkbc.data.intervals import IntervalIndex
from tkbc.models import Batch, Model
from tkbc.ranking.evaluation import in_order
from tkbc.ranking.rivals import PIECE, Pieces
from tkbc.ranking.rules import N_FEATURES, Evidence, Floats, Integers, Rules
from tkbc.ranking.weights import RuleWeights
from tkbc.scoring import PairwiseScore
from tkbc.scoring.chunks import chunk_view, collect_label_scores, new_buffer

SCALES = (1.2, 1.0, 0.85, 0.7, 0.55, 0.4)
"""α: what a model's scores are multiplied by."""
MOST_QUERIES = 4096
"""Queries that are fitted to, drawn from the split: 14 weights need no more."""
MOST_PAIRS = 2**21
"""Candidates with evidence that are fitted to, some 250 MiB: where a batch reaches them it is the last."""
RIDGE = 1e-3
"""Weight of ‖θ‖², beside a mean over queries: what no query speaks of stays at 0."""
LARGEST_CHANGE = 60.0
"""Of a score while fitting: beyond it exponentials overflow before they say more."""


class _Observed(NamedTuple):
    """What the likelihood needs to know of some queries."""

    evidence: Evidence
    scores: Floats
    """Of the candidates with evidence, (m,)."""
    targets: Integers
    """The right answers, (n,)."""
    target_scores: Floats
    log_sum_exp: Floats
    """log Σ_n exp(α s_n) of each query for each α, (scales, n)."""


@torch.no_grad()
def fit(
    model: Model,
    score: PairwiseScore,
    rules: Rules,
    facts: Ids,
    known: FilterIndex | IntervalIndex,
    workload: Workload,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> RuleWeights:
    """Return the weights that make the tails and heads of ``facts``, (n, 4), likeliest.

    Other true answers are no candidates, as when ranking.

    No more than a batch's scores live at once, as when ranking. ``on_progress``: as of ``evaluate``.

    Raises:
        NotFiniteError: a score is not a number.
    """
    queries = with_reciprocals(facts, workload.n_relations)
    # Raw words of Philox: the same queries on every machine.
    words = np.random.Philox(np.random.SeedSequence(0)).random_raw(len(queries))
    queries = queries[np.sort(np.argsort(words, kind="stable")[:MOST_QUERIES])]
    parts: list[_Observed] = []
    n_pairs = 0
    for start in range(0, len(queries), workload.eval_batch_size):
        part = queries[start : start + workload.eval_batch_size]
        parts.append(_observe(model, score, _asked(rules.evidence(part), part, known), part, workload))
        n_pairs += len(parts[-1].scores)
        on_progress(start + len(part), len(queries))
        if n_pairs > MOST_PAIRS:
            break
    return _likeliest(_joined(parts))


def _asked(evidence: Evidence, queries: Ids, known: FilterIndex | IntervalIndex) -> Evidence:
    """Return the evidence without that for true answers other than each query's own."""
    row, tail = known.lookup(queries)
    others = tail != queries[row, 2]
    largest = 1 + max(tail.max(initial=0), evidence.tail.max(initial=0))
    open_ = ~np.isin(evidence.row * largest + evidence.tail, row[others] * largest + tail[others])
    return evidence.at(open_)


def _observe(model: Model, score: PairwiseScore, evidence: Evidence, queries: Ids, workload: Workload) -> _Observed:
    """Score all candidates of ``queries``, in chunks as planned, once for each α."""
    chunk_size, device, entities = workload.eval_chunk_size, workload.device, model.entity
    n_queries, n_entities = len(queries), len(entities)
    evidence = evidence.at(np.argsort(evidence.tail // chunk_size, kind="stable"))
    starts = range(0, n_entities, chunk_size)
    wanted = in_order((evidence.row, evidence.tail), chunk_size, range(n_entities), device)
    ids = torch.from_numpy(np.ascontiguousarray(queries.T)).to(device)
    query, labels = model.encode(Batch(*ids)).query, ids[2].long()
    pieces = Pieces(wanted, {"positions": labels.new_empty(PIECE)})
    buffer = new_buffer(score, entities, n_queries, chunk_size, "scores to fit to")
    target = entities.new_zeros(n_queries)
    found: list[Tensor] = []
    log_sum_exp = entities.new_full((len(SCALES), n_queries), -torch.inf)
    for scale, total in zip(SCALES, log_sum_exp, strict=True):
        for chunk, start in enumerate(starts):
            part = entities[start : start + chunk_size]
            scores = score.forward(query, part, chunk_view(buffer, n_queries, len(part)), grad=False)
            if scale == SCALES[0]:
                collect_label_scores(scores, labels, start, target)
                found += [scores.view(-1).index_select(0, at).cpu() for (at,) in pieces.of(chunk)]
            largest = scores.amax(1)
            of_chunk = scores.sub_(largest[:, None]).mul_(scale).exp_().sum(1).log_()
            torch.logaddexp(total, of_chunk.add_(largest, alpha=scale), out=total)
    scores_of_pairs = torch.cat(found) if found else torch.empty(0)
    return _Observed(
        evidence,
        scores_of_pairs.double().numpy(),
        queries[:, 2].astype(np.int64),
        target.double().cpu().numpy(),
        log_sum_exp.double().cpu().numpy(),
    )


def _joined(parts: Sequence[_Observed]) -> _Observed:
    """Return the parts as one, its queries counted through."""
    starts = np.cumsum([0, *(len(part.targets) for part in parts)])
    rows = [part.evidence.row + start for part, start in zip(parts, starts, strict=False)]
    return _Observed(
        Evidence(
            np.concatenate(rows),
            np.concatenate([part.evidence.tail for part in parts]),
            np.concatenate([part.evidence.features for part in parts]),
        ),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate([part.target_scores for part in parts]),
        np.concatenate([part.log_sum_exp for part in parts], axis=1),
    )


def _likeliest(found: _Observed) -> RuleWeights:
    if not np.isfinite(found.log_sum_exp).all():
        raise NotFiniteError("the model's scores are not finite numbers; lower the learning rate or check the data")
    alone = [float((found.log_sum_exp[at] - scale * found.target_scores).mean()) for at, scale in enumerate(SCALES)]
    fits = [_weights_at(found, at) for at in range(len(SCALES))]
    losses = [base + change for base, (_, change) in zip(alone, fits, strict=True)]
    best = int(np.argmin(losses))
    return RuleWeights(
        scale=SCALES[best],
        weights=tuple(fits[best][0].tolist()),
        n_queries=len(found.targets),
        loss=losses[best],
        loss_alone=min(alone),
    )


def _weights_at(found: _Observed, at: int) -> tuple[Tensor, float]:
    """Return the likeliest θ at an α, and what it changes the mean loss by.

    With q the model's own probability of a candidate, −log p(target) is −log q(target) plus

        log(1 + Σ_t q_t (exp(θ · x_t) − 1)) − θ · x_target

    which is convex in θ, and for which nothing but the candidates with evidence is needed.
    """
    (row, tail, features), n = found.evidence, len(found.targets)
    rows, x = torch.from_numpy(row), torch.from_numpy(features)
    own = torch.from_numpy(np.exp(SCALES[at] * found.scores - found.log_sum_exp[at][row]))
    of_targets = x[torch.from_numpy(tail == found.targets[row])].sum(0) / n
    theta = torch.zeros(N_FEATURES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=100, line_search_fn="strong_wolfe")

    def change() -> Tensor:
        raised = own * torch.expm1((x @ theta).clamp(max=LARGEST_CHANGE))
        others = torch.zeros(n, dtype=torch.float64).index_add(0, rows, raised)
        return torch.log1p(others.clamp(min=-1 + 1e-12)).mean() - of_targets @ theta

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = change() + RIDGE * theta.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return theta.detach(), float(change().detach())
