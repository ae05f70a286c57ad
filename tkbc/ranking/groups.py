"""Quality by group: the facts of a split by their relation, their time, or whatever else tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tkbc.ranking.evaluation import Metrics, Ranks


class Group(NamedTuple):
    """The facts of one group: how many, and their metrics, the mean of tail and head prediction by average ranks."""

    name: str
    n_facts: int
    metrics: Metrics


def by_group(ranks: Ranks, group: npt.NDArray[np.integer], names: Sequence[str]) -> list[Group]:
    """Return the metrics of each group that has facts, the largest first, those of a size by their place in ``names``.

    The mean of the groups' metrics, weighted by their facts, is the metrics of the whole split.

    Shapes:
        ranks: of n facts, (2n,): their tails', then their heads'.
        group: (n,), each fact's place in ``names``.
    """
    of_query = np.tile(group, 2)
    n_queries = np.bincount(of_query, minlength=len(names))
    average = ranks.average

    def means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.bincount(of_query, weights=values, minlength=len(names)) / np.maximum(n_queries, 1)

    columns = [means(1 / average), *(means((average <= k).astype(np.float64)) for k in (1, 3, 10))]
    largest_first = np.argsort(-n_queries, kind="stable")
    return [
        Group(names[at], int(n_queries[at]) // 2, Metrics(*(float(column[at]) for column in columns)))
        for at in largest_first
        if n_queries[at]
    ]
