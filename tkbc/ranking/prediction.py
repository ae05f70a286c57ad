"""What a trained model takes for the answer of one question, and which answers the data know already."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memplan.catalog.folders import SPLITS, Split
from memplan.errors import MemplanError
from memplan.workload.rules import preferred
from tkbc.data.dataset import Dataset
from tkbc.models import Batch, Model
from tkbc.ranking.weights import FittedRules
from tkbc.scoring import make_score
from tkbc.scoring.chunks import chunk_view


class Question(NamedTuple):
    """(head, relation, ?, time) or (?, relation, tail, time), by ids; without a time, at any."""

    entity: int
    """The head or the tail that is given."""
    relation: int
    """As the data have it, not a reciprocal."""
    time: int | None
    asks_tail: bool


class Known(NamedTuple):
    """Where the data hold a question's answer as a fact."""

    splits: tuple[Split, ...]
    """The splits that hold it at the question's time."""
    other_times: tuple[int, ...]
    """The other times at which any split holds it, in order (of an interval the end nearer to the question); none where
    the question has no time."""


class Answer(NamedTuple):
    """A candidate: its place in the order of scores (from 1), entity, score, softmax probability over all entities."""

    place: int
    entity: int
    score: float
    probability: float
    known: Known


def predict(
    model: Model, data: Dataset, question: Question, top: int, fitted: FittedRules | None = None
) -> list[Answer]:
    """Return the ``top`` likeliest answers, the highest score first; equal scores in the order of ids.

    With ``fitted`` rules the scores of a question with a time are raised by what these say, and probabilities are those
    that the weights were fitted by.

    Raises:
        MemplanError: a score is not a finite number.
    """
    scores = score_all(model, question).numpy().astype(np.float64)
    if not np.isfinite(scores).all():
        raise MemplanError("the model's scores are not finite numbers; train it anew with a lower learning rate")
    scale = 1.0
    if fitted is not None and question.time is not None:
        _, candidates, values = fitted.said(np.array([ids_of(question, model)], dtype=np.int32))
        scores[candidates] += values
        scale = fitted.weights.scale
    weights = np.exp(scale * (scores - scores.max()))
    probabilities = weights / weights.sum()
    known = known_answers(data, question)
    best = np.argsort(-scores, kind="stable")[:top]
    return [
        Answer(place, int(e), float(scores[e]), float(probabilities[e]), known.get(int(e), Known((), ())))
        for place, e in enumerate(best, start=1)
    ]


def ids_of(question: Question, model: Model) -> tuple[int, int, int, int]:
    """Return the question as (head, relation, 0, time) that asks for its tail."""
    relation = question.relation + (0 if question.asks_tail else model.workload.n_relations)
    return question.entity, relation, 0, question.time or 0  # without a time the model has no use for one


@torch.no_grad()
def score_all(model: Model, question: Question) -> Tensor:
    """Return the score of every entity as the question's answer, (N,), on the CPU.

    A head is asked for by the reciprocal relation: (t, r + R, ?, τ). Entities are scored in the chunks that ranking was
    planned with, and by the fused scoring, which builds no tensor larger than the scores.
    """
    workload = model.workload
    ids = (torch.tensor([i], dtype=torch.int32) for i in ids_of(question, model))
    query = model.encode(Batch(*ids)).query
    score = make_score(workload.score, preferred(workload.score, "cpu"), "cpu", workload.threads, workload.precision)
    chunk_size = workload.eval_chunk_size
    buffer = torch.empty((1, chunk_size)) if score.needs_buffer else None
    found = torch.empty(workload.n_entities)
    for start in range(0, workload.n_entities, chunk_size):
        chunk = model.entity.detach()[start : start + chunk_size]
        found[start : start + chunk_size] = score.forward(query, chunk, chunk_view(buffer, 1, len(chunk)), grad=False)[
            0
        ]
    return found


def known_answers(data: Dataset, question: Question) -> dict[int, Known]:
    """Return every answer that the data hold as a fact, with where. Here alone it matters how facts are kept.

    A fact at one time is (n, 4), its fourth column the time; one over an interval (n, 5), ending with begin and end.
    """
    given, asked = (0, 2) if question.asks_tail else (2, 0)
    splits: dict[int, list[Split]] = {}
    other_times: dict[int, set[int]] = {}
    for name in SPLITS:
        facts = data.split(name)
        found = facts[(facts[:, given] == question.entity) & (facts[:, 1] == question.relation)]
        now: npt.NDArray[np.bool_] = np.full(len(found), fill_value=True)
        if question.time is not None:
            now = (found[:, 3] <= question.time) & (question.time <= found[:, -1])
        for entity in np.unique(found[now][:, asked]).tolist():
            splits.setdefault(entity, []).append(name)
        for entity, begin, end in found[~now][:, [asked, 3, -1]].tolist():
            other_times.setdefault(entity, set()).add(begin if begin > (question.time or 0) else end)
    return {
        entity: Known(tuple(splits.get(entity, ())), tuple(sorted(other_times.get(entity, ()))))
        for entity in splits.keys() | other_times.keys()
    }
