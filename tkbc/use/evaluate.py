"""Ranking a split with a checkpoint's tables, without a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from memplan.errors import DoesNotFitError
from memplan.plan import Plan
from tkbc.data.dataset import Dataset
from tkbc.models import MODELS
from tkbc.ranking.evaluation import Ranks, count_rivals
from tkbc.ranking.fitting import fit
from tkbc.ranking.rules import Rules
from tkbc.ranking.times import time_precisions
from tkbc.ranking.weights import FittedRules, RuleWeights
from tkbc.runs.checkpoint import load_model
from tkbc.runs.recovery import is_out_of_memory
from tkbc.scoring import make_score
from tkbc.step.threads import score_threads


class Found(NamedTuple):
    """A split as a checkpoint ranks it."""

    ranks: Ranks
    """What decides the ranks."""
    precisions: npt.NDArray[np.float64] | None
    """The average precision of each fact's time, (n,), NaN where it has none; None of a model that has no query for it.
    """
    weights: RuleWeights | None
    """Of the rules beside the scores."""


def rank_with(
    checkpoint: Path,
    plan: Plan,
    dataset: Dataset,
    split: Literal["valid", "test"],
    weights: RuleWeights | Literal["fit"] | None = None,
) -> Found:
    """Rank ``split`` with the tables in the folder ``checkpoint``, and with rules of these weights beside the scores;
    ``fit`` fits them to the validation split.

    Raises:
        DoesNotFitError: memory runs out.
        MemplanError: the checkpoint cannot be read or is of another model.
    """
    workload = plan.workload.alone.model_copy(update={"rules": weights is not None})
    try:
        model = MODELS[workload.model](workload)
        load_model(checkpoint, model)
        score = make_score(workload.score, workload.scoring, workload.device, workload.threads, workload.precision)
        with score_threads(workload):
            known, fitted = dataset.filter_index, None
            if weights is not None:
                rules = Rules.of(dataset)
                if weights == "fit":
                    weights = fit(model, score, rules, dataset.queries("valid"), known, workload)
                fitted = FittedRules(rules, weights)
            ranks = count_rivals(model, score, dataset.queries(split), known, workload, fitted=fitted)
            precisions = None
            if workload.can_predict_time:
                precisions = time_precisions(model, score, dataset, dataset.split(split))
            return Found(ranks, precisions, weights)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFitError(f"out of memory while ranking {split}: {error}; free memory and try again") from None
