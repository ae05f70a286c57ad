"""Ranking a split with a checkpoint's tables, without a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from memplan.errors import DoesNotFitError
from memplan.plan import Plan
from tkbc.data.dataset import Dataset
from tkbc.models import MODELS
from tkbc.ranking.evaluation import Ranks, count_rivals
from tkbc.ranking.times import time_precisions
from tkbc.runs.checkpoint import load_model
from tkbc.runs.recovery import is_out_of_memory
from tkbc.scoring import make_score
from tkbc.step.threads import score_threads


def rank_with(
    checkpoint: Path, plan: Plan, dataset: Dataset, split: Literal["valid", "test"]
) -> tuple[Ranks, npt.NDArray[np.float64] | None]:
    """Return what decides the ranks of ``split`` with the tables in the folder ``checkpoint``, and the average
    precision of each fact's time, (n,), NaN where it has none; None of a model that has no query for the time.

    Raises:
        DoesNotFitError: memory runs out.
        MemplanError: the checkpoint cannot be read or is of another model.
    """
    workload = plan.workload.alone
    try:
        model = MODELS[workload.model](workload)
        load_model(checkpoint, model)
        score = make_score(workload.score, workload.scoring, workload.device, workload.threads, workload.precision)
        with score_threads(workload):
            ranks = count_rivals(model, score, dataset.queries(split), dataset.filter_index, workload)
            if not workload.can_predict_time:
                return ranks, None
            return ranks, time_precisions(model, score, dataset, dataset.split(split))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFitError(f"out of memory while ranking {split}: {error}; free memory and try again") from None
