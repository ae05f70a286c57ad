"""Quality by group: the facts of a split by their relation, their time or its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tkbc.data.dataset import Dataset
from tkbc.data.ids import Ids
from tkbc.ranking.evaluation import Metrics, Ranks

KINDS = ("no time", "one time", "interval", "open begin", "open end")
"""How a fact's time may be given, in the order of ``kinds_of_time``."""


class Group(NamedTuple):
    """The facts of one group: how many, and their metrics, the mean of tail and head prediction by average ranks."""

    name: str
    n_facts: int
    metrics: Metrics


def grouping(
    data: Dataset, split: Literal["valid", "test"], by: Literal["relation", "time", "kind"]
) -> tuple[Ids, tuple[str, ...]]:
    """Return each fact's group, (n,), and the groups' names; by time it is the one at which the fact is asked for."""
    if by == "kind":
        return kinds_of_time(data, data.split(split)), KINDS
    column, names = (1, data.relations) if by == "relation" else (3, data.timestamps)
    return data.queries(split)[:, column], names


def kinds_of_time(data: Dataset, facts: Ids) -> Ids:
    """Return the place in ``KINDS`` of each fact's kind of time; facts (n, 4) or (n, 5) give (n,).

    As they are trained with: an interval that begins at the graph's first timestamp counts as open there, one that
    ends at its last as open there, and one that is open at both ends has no time.
    """
    begin, end, last = facts[:, 3], facts[:, -1], len(data.timestamps) - 1
    if facts.shape[1] == 4:
        return np.where((begin == last) & data.has_no_time, 0, 1).astype(np.int32)
    is_open_before, is_open_after = begin == 0, end == last
    conditions = [is_open_before & is_open_after, begin == end, is_open_before, is_open_after]
    return np.select(conditions, [0, 1, 3, 4], default=2).astype(np.int32)


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


def means_by_group(
    values: npt.NDArray[np.float64], group: npt.NDArray[np.integer], n_groups: int
) -> npt.NDArray[np.float64]:
    """Return the mean of each group's values but those that are NaN, NaN where it has no other.

    Shapes:
        values: (n,); group: (n,), each value's group, below ``n_groups``.
    """
    known = ~np.isnan(values)
    counts = np.bincount(group[known], minlength=n_groups)
    sums = np.bincount(group[known], weights=values[known], minlength=n_groups)
    found = np.full(n_groups, np.nan)
    found[counts > 0] = sums[counts > 0] / counts[counts > 0]
    return found
