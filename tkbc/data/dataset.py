"""A temporal knowledge graph as integer arrays with its names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memplan.catalog.folders import SPLITS, Split
from memplan.workload import Shape
from tkbc.data.intervals import IntervalIndex, draw_times

Ids = npt.NDArray[np.int32]
NO_TIME = "(no time)"


@dataclass(frozen=True)
class Dataset:
    """Facts as (n, 4) int32 arrays of (head, relation, tail, time), read-only, and the name behind every id.

    Facts that hold over intervals are (n, 5): (head, relation, tail, begin, end), both timestamps included.
    Ids run over all three splits; timestamps are in chronological order, "no time" last where the graph has it.
    """

    dataset: str
    """What ``--dataset`` takes to find it again: a catalog name, or a folder's full path."""
    entities: tuple[str, ...]
    relations: tuple[str, ...]
    timestamps: tuple[str, ...]
    train: Ids
    valid: Ids
    test: Ids

    def split(self, name: Split) -> Ids:
        """Return the facts of one split."""
        facts: Ids = getattr(self, name)
        return facts

    def queries(self, name: Split) -> Ids:
        """Return the facts of one split as evaluation asks for them, (n, 4): over an interval at one time of it.

        That time is drawn once, uniformly inside the interval, from the fact's position in the split alone: it is the
        same for every model, seed and machine.
        """
        return at_one_time(self.split(name))

    @property
    def name(self) -> str:
        """Return a short name: the catalog's, or the folder's."""
        return Path(self.dataset).name

    @property
    def has_no_time(self) -> bool:
        """Return whether the last timestamp stands for facts without time."""
        return self.timestamps[-1] == NO_TIME

    @property
    def shape(self) -> Shape:
        """The graph's shape, as the planner takes it."""
        return Shape(
            n_entities=len(self.entities),
            n_relations=len(self.relations),
            n_timestamps=len(self.timestamps),
            n_facts=len(self.train),
            intervals=self.train.shape[1] == 5,
        )

    @cached_property
    def sha256(self) -> str:
        """A digest of names and facts: equal for equal graphs, whatever files they came from."""
        digest = hashlib.sha256()
        for names in (self.entities, self.relations, self.timestamps):
            digest.update("\n".join(names).encode() + b"\0")
        for split in SPLITS:
            digest.update(str(len(self.split(split))).encode() + np.ascontiguousarray(self.split(split)).tobytes())
        return digest.hexdigest()

    @cached_property
    def filter_index(self) -> FilterIndex | IntervalIndex:
        """The true tails of every query of every split, for filtered ranking."""
        return index_of(np.concatenate([self.split(name) for name in SPLITS]), len(self.relations))


def index_of(facts: Ids, n_relations: int) -> FilterIndex | IntervalIndex:
    """Return the filter of ``facts``, (n, 4) or (n, 5), and their reciprocals; ``n_relations``: without these."""
    kind = IntervalIndex if facts.shape[1] == 5 else FilterIndex
    return kind.build(with_reciprocals(facts, n_relations), 2 * n_relations)


def at_one_time(facts: Ids) -> Ids:
    """Return facts with a time as they are, (n, 4), and facts with intervals, (n, 5), at a time drawn inside each."""
    if facts.shape[1] == 4:
        return facts
    return np.column_stack([facts[:, :3], draw_times(facts[:, 3], facts[:, 4], 0)])


def with_reciprocals(facts: Ids, n_relations: int) -> Ids:
    """Return the facts followed by their reciprocals: (h, r, t, τ) gives (t, r + R, h, τ) too; (n, k) gives (2n, k)."""
    reciprocals = facts.copy()
    reciprocals[:, [0, 2]] = facts[:, [2, 0]]
    reciprocals[:, 1] += n_relations
    return np.concatenate([facts, reciprocals])


@dataclass(frozen=True)
class FilterIndex:
    """The tails that are true for each (head, relation, time): sorted keys, offsets into values, values.

    The tails of key i are ``values[offsets[i] : offsets[i + 1]]``, sorted and without repeats. Arrays are read-only.
    """

    n_relations: int
    n_timestamps: int
    keys: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    values: Ids

    @classmethod
    def build(cls, facts: Ids, n_relations: int) -> FilterIndex:
        """Return the index of ``facts``, (n, 4), whose relations run below ``n_relations``."""
        n_timestamps = int(facts[:, 3].max()) + 1
        keys = _keys(facts[:, :2], facts[:, 3], n_relations, n_timestamps)
        order = np.lexsort((facts[:, 2], keys))
        keys, tails = keys[order], facts[order, 2]
        fresh = np.ones(len(keys), dtype=bool)
        fresh[1:] = (keys[1:] != keys[:-1]) | (tails[1:] != tails[:-1])
        unique_keys, counts = np.unique(keys[fresh], return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        values = np.ascontiguousarray(tails[fresh], dtype=np.int32)
        for array in (unique_keys, offsets, values):
            array.setflags(write=False)
        return cls(n_relations, n_timestamps, unique_keys, offsets, values)

    def lookup(self, queries: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return every true tail of ``queries``, (b, 4), as (row, tail) pairs: two (m,) arrays, rows in order."""
        keys = _keys(queries[:, :2], queries[:, 3], self.n_relations, self.n_timestamps)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = self.keys[at] == keys
        starts = self.offsets[at]
        counts = np.where(found, self.offsets[at + 1] - starts, 0)
        row = np.repeat(np.arange(len(queries)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self.values[np.repeat(starts, counts) + within].astype(np.int64)


def _keys(heads_relations: Ids, times: Ids, n_relations: int, n_timestamps: int) -> npt.NDArray[np.int64]:
    heads, relations = heads_relations[:, 0].astype(np.int64), heads_relations[:, 1]
    return (heads * n_relations + relations) * n_timestamps + times
