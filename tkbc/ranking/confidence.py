"""How sure a mean over facts is: percentile intervals from facts drawn again with replacement.

The bootstrap is Efron's (The Annals of Statistics 7(1), 1979); its percentile interval is of Efron and Tibshirani, An
Introduction to the Bootstrap (1993), chapter 13. It tells how far an MRR would move with other facts of the same kind
to rank, the model as it is; what another seed of the training would change it does not tell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tkbc.ranking.evaluation import Evaluation, Ranks

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0
_LARGEST_PIECE = 2**20
"""Values drawn together, which bounds the memory, some 24 MiB, however large the split."""


class Interval(NamedTuple):
    """Where a mean lies in ``LEVEL`` of the resamples; both ends NaN for a single fact, which tells no spread."""

    low: float
    high: float


def intervals(ranks: Ranks) -> dict[str, Interval]:
    """Return the interval of each MRR of ``ranks.evaluation()``, by the same names.

    A fact is drawn with both its queries: the ranks of its tail and its head are not independent.
    """
    average, higher, all_ties = (
        1 / values for values in (ranks.average, 1 + ranks.higher, 1 + ranks.higher + ranks.ties)
    )
    tail, head = np.split(average, 2)
    per_fact = {
        "both": _per_fact(average),
        "tail": tail,
        "head": head,
        "optimistic": _per_fact(higher),
        "pessimistic": _per_fact(all_ties),
    }
    values = np.array([per_fact[name] for name in Evaluation._fields])
    found = _bootstrap(values, np.zeros(len(tail), dtype=np.int64), 1)
    return {name: row[0] for name, row in zip(Evaluation._fields, found, strict=True)}


def interval_of(values: npt.NDArray[np.float64]) -> Interval:
    """Return the interval of the mean of ``values``, (n,), one a fact."""
    return _bootstrap(values[None], np.zeros(len(values), dtype=np.int64), 1)[0][0]


def intervals_by_group(ranks: Ranks, group: npt.NDArray[np.integer], n_groups: int) -> list[Interval]:
    """Return the interval of each group's MRR, that of both, from draws of its own facts alone.

    Shapes:
        ranks: of n facts, (2n,): their tails', then their heads'.
        group: (n,), each fact's group, below ``n_groups``; a group without facts has NaN.
    """
    return _bootstrap(_per_fact(1 / ranks.average)[None], group, n_groups)[0]


def _per_fact(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean of each fact's two values: (2n,), as ``Ranks`` has them, gives (n,)."""
    first, second = np.split(values, 2)
    return (first + second) / 2


def _bootstrap(values: npt.NDArray[np.float64], group: npt.NDArray[np.integer], n_groups: int) -> list[list[Interval]]:
    """Return the percentile intervals of each group's mean, a list for each row of ``values``, (k, n).

    Each group is drawn from its own values; all rows by the same draws.
    """
    values = values[:, np.argsort(group, kind="stable")]
    counts = np.bincount(group, minlength=n_groups)
    present = np.flatnonzero(counts)
    sizes = counts[present]
    starts = np.cumsum(sizes) - sizes
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    random = np.random.default_rng(SEED)
    means = np.empty((len(values), RESAMPLES, len(present)))
    n = values.shape[1]
    at_once = max(1, _LARGEST_PIECE // n)
    for begin in range(0, RESAMPLES, at_once):
        shape = (min(at_once, RESAMPLES - begin), n)
        drawn = first + (random.random(shape) * size).astype(np.int64)
        for row, into in zip(values, means, strict=True):
            into[begin : begin + at_once] = np.add.reduceat(row[drawn], starts, axis=1) / sizes
    found = np.full((2, len(values), n_groups), np.nan)
    found[..., present] = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=1)
    found[..., counts == 1] = np.nan
    return [[Interval(*map(float, pair)) for pair in row.T] for row in found.swapaxes(0, 1)]
