"""Facts that hold over intervals of timestamps: drawing a timestamp inside each, and the filter by overlap.

A fact is (head, relation, tail, begin, end), timestamps from begin to end, both included. An open begin is the first
timestamp of the graph, an open end the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tkbc.data.ids import Ids

LARGEST_PIECE = 2**22
"""Facts looked at together in a lookup: what bounds its memory, some 100 MiB, however many facts a query has."""


def draw_times(begin: Ids, end: Ids, *seed: int) -> Ids:
    """Return a timestamp drawn uniformly from each interval, (n,): a function of the seed and the position alone.

    Raw words of numpy's Philox, whose stream is the same on every machine and in every version, scaled to the length
    of the interval; no length is favoured by more than 2^-32 of its probability.

    Shapes:
        begin, end: (n,) with begin ≤ end.
    """
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(begin)) >> np.uint64(32)
    lengths = (end.astype(np.int64) - begin + 1).astype(np.uint64)
    return (begin + (words * lengths >> np.uint64(32)).astype(np.int64)).astype(np.int32)


@dataclass(frozen=True)
class IntervalIndex:
    """The tails that are true for each (head, relation) at a time: facts sorted by (head, relation), then by begin.

    ``groups`` are the distinct keys head · R + relation; ``begins`` holds group · T + begin of every fact, ascending,
    so that one binary search finds a query's group and another the facts in it that have begun. An interval is stored
    once, however long it is, and intervals of one (head, relation, tail) that overlap are joined, so that no tail is
    found twice. Arrays are read-only.
    """

    n_relations: int
    n_timestamps: int
    groups: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    ends: Ids
    tails: Ids

    @classmethod
    def build(cls, facts: Ids, n_relations: int) -> IntervalIndex:
        """Return the index of ``facts``, (n, 5), whose relations run below ``n_relations``."""
        n_timestamps = int(facts[:, 4].max()) + 1
        groups, group = np.unique(_keys(facts, n_relations), return_inverse=True)
        order = np.lexsort((facts[:, 3], facts[:, 2], group))
        group, tails, begin, end = group[order], facts[order, 2], facts[order, 3], facts[order, 4].astype(np.int64)
        is_other = np.ones(len(order), dtype=bool)
        is_other[1:] = (group[1:] != group[:-1]) | (tails[1:] != tails[:-1])
        # The latest end so far of the same triple: a triple's number times T lies above every end of those before it.
        offset = np.cumsum(is_other) * n_timestamps
        latest = np.maximum.accumulate(end + offset) - offset
        first = is_other.copy()
        first[1:] |= begin[1:] > latest[:-1]
        starts = np.flatnonzero(first)
        ends = np.maximum.reduceat(end, starts).astype(np.int32)
        begins = group[starts] * np.int64(n_timestamps) + begin[starts]
        order = np.argsort(begins, kind="stable")
        arrays = groups, begins[order], ends[order], tails[starts][order]
        for array in arrays:
            array.setflags(write=False)
        return cls(n_relations, n_timestamps, *arrays)

    def lookup(self, queries: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return every tail that is true at the time of ``queries``, (b, 4), as (row, tail) pairs: two (m,) arrays.

        A fact counts where begin ≤ time ≤ end. Rows are in order; no tail comes twice in one.
        """
        keys = _keys(queries, self.n_relations)
        group = np.minimum(np.searchsorted(self.groups, keys), len(self.groups) - 1)
        found = self.groups[group] == keys
        # A time beyond the last that occurs must not reach into the next group.
        time = np.minimum(queries[:, 3], self.n_timestamps - 1)
        starts = np.searchsorted(self.begins, group * self.n_timestamps)
        stops = np.searchsorted(self.begins, group * self.n_timestamps + time, side="right")
        counts = np.where(found, stops - starts, 0)
        sums = np.cumsum(counts)
        rows, tails = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
        first = 0
        while first < len(queries):
            # As many rows as look at no more than a piece together, and at least one.
            looked_at = sums[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(sums, looked_at + LARGEST_PIECE, side="right")))
            part = slice(first, last)
            row = np.repeat(np.arange(first, last), counts[part])
            within = np.arange(len(row)) - np.repeat(sums[part] - counts[part] - looked_at, counts[part])
            at = np.repeat(starts[part], counts[part]) + within
            holds = self.ends[at] >= np.repeat(queries[part, 3], counts[part])
            rows.append(row[holds])
            tails.append(self.tails[at[holds]])
            first = last
        return np.concatenate(rows), np.concatenate(tails).astype(np.int64)


def _keys(facts: Ids, n_relations: int) -> npt.NDArray[np.int64]:
    return facts[:, 0].astype(np.int64) * n_relations + facts[:, 1]
