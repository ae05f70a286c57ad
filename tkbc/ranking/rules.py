"""Rules of a graph: how often a fact of one relation between two entities comes with one of another, near in time.

For relations r' and r and a gap g between the times of two facts of the same head and tail, mined from training alone:

    c_g(r' → r) = pairs (h, r', t, τ'), (h, r, t, τ) with |τ − τ'| in g  /  (facts of r' + 20)

the smoothed number of facts of r that a fact of r' brings with it. The gaps are 0, 1, 2 to 3, 4 to 7, 8 to 15 and 16
to 31 timestamps; of a fact over an interval the gap is to its nearer end, 0 inside. Rules with two relations between
the same entities as in TLogic (Liu et al., AAAI 2022, arXiv 2112.08025), there for the past alone, and the pair
features of TimePlex (Jain et al., EMNLP 2020, arXiv 2005.05035); the 20 of AnyBURL's kind of smoothing is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memplan.workload import Shape
from tkbc.data.dataset import Dataset, with_reciprocals
from tkbc.data.ids import Ids

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

N_GAPS = 6
HORIZON = 2 ** (N_GAPS - 1) - 1
"""The largest gap at which one fact says something of another, in timestamps."""
SMOOTHING = 20
"""Facts without consequence that every relation is taken to have had besides its own."""
N_FEATURES = 2 * N_GAPS + 2
LARGEST_PIECE = 2**19
"""Facts looked at together: what bounds the memory of a look-up, some 220 MiB."""


class Evidence(NamedTuple):
    """What training facts say for the candidates of some queries; a candidate without any has no row.

    Sorted by query, then candidate, each pair once.
    """

    row: Integers
    """The query's number, (m,)."""
    tail: Integers
    """The candidate, (m,)."""
    features: Floats
    """(m, 14): log(1 + 100 Σ c) over the facts of each gap, log(1 + facts of the query's own relation) of each gap,
    log(1 + 100 Σ c) over all, and 1."""

    def at(self, index: Integers | npt.NDArray[np.bool_]) -> Evidence:
        """Return the rows that ``index`` names."""
        return Evidence(self.row[index], self.tail[index], self.features[index])


class NearFact(NamedTuple):
    """A training fact between a question's entity and an answer, and how much it speaks for that answer."""

    relation: int
    """From the question's entity to the answer, reciprocals included."""
    begin: int
    end: int
    confidence: float
    """c of its relation and gap for the question's relation."""


@dataclass(frozen=True)
class Rules:
    """The rules of a graph and the training facts that they apply to: those of a head in order of their begin."""

    n_entities: int
    n_relations: int
    """Reciprocals included."""
    n_timestamps: int
    """Those that are times: "no time" is none."""
    codes: Integers
    """(gap · R + r') · R + r of each rule, ascending."""
    confidences: Floats
    """c of each rule."""
    heads: Integers
    """head · T + begin of each fact, ascending."""
    facts: Ids
    """(n, 4) in the same order: relation, tail, begin, end."""
    longest: int
    """The longest interval's end less its begin."""

    @classmethod
    def of(cls, data: Dataset) -> Rules:
        """Return the rules of a graph's training facts."""
        return cls.mine(data.train, data.shape, has_no_time=data.has_no_time)

    @classmethod
    def mine(cls, facts: Ids, shape: Shape, *, has_no_time: bool = False) -> Rules:
        """Return the rules of ``facts``, (n, 4) or (n, 5), and their reciprocals.

        With ``has_no_time`` the last timestamp is none: facts at it are left out.
        """
        n_relations, n_timestamps = 2 * shape.n_relations, shape.n_timestamps - has_no_time
        found = with_reciprocals(facts, shape.n_relations)
        found = found[found[:, 3] < n_timestamps]
        head, relation, tail, begin, end = (found[:, at].astype(np.int64) for at in (0, 1, 2, 3, -1))
        codes, counts = _count_pairs(head * shape.n_entities + tail, relation, begin, end, n_relations)
        n_facts = np.bincount(relation, minlength=n_relations)
        order = np.lexsort((tail, relation, begin, head))
        return cls(
            n_entities=shape.n_entities,
            n_relations=n_relations,
            n_timestamps=n_timestamps,
            codes=codes,
            confidences=counts / (n_facts[codes // n_relations % n_relations] + SMOOTHING),
            heads=(head * n_timestamps + begin)[order],
            facts=np.stack((relation, tail, begin, end), axis=1)[order].astype(np.int32),
            longest=int((end - begin).max(initial=0)),
        )

    def evidence(self, queries: Ids) -> Evidence:
        """Return what speaks for the candidates of ``queries``, (b, 4): (head, relation, -, time) each."""
        return Evidence(*(np.concatenate(parts) for parts in zip(*self.pieces(queries), strict=True)))

    def pieces(self, queries: Ids) -> Iterator[Evidence]:
        """Yield the same in parts of whole queries, at least one, so that no more than a part need be there."""
        starts, counts = self._near(queries)
        return (self._evidence(queries, rows, starts, counts) for rows in _pieces(counts))

    def strongest(self, head: int, relation: int, tail: int, time: int) -> NearFact | None:
        """Return the fact that speaks most for an answer, of equal ones the first in time; None where none does."""
        starts, counts = self._near(np.array([[head, relation, tail, time]], dtype=np.int32))
        facts = self.facts[starts[0] : starts[0] + counts[0]].astype(np.int64)
        given, _, begin, end = facts[facts[:, 1] == tail].T
        gap = np.maximum(0, np.maximum(begin - time, time - end))
        near = gap <= HORIZON
        confidence = np.zeros(len(gap))
        confidence[near] = self._confidence(_class_of(gap[near]), given[near], np.full(near.sum(), relation))
        if not confidence.any():
            return None
        best = int(confidence.argmax())
        return NearFact(int(given[best]), int(begin[best]), int(end[best]), float(confidence[best]))

    def _near(self, queries: Ids) -> tuple[Integers, Integers]:
        """Return where the facts of each query's head begin that may be near its time, and how many there are."""
        head, time = queries[:, 0].astype(np.int64), queries[:, 3].astype(np.int64)
        first = np.maximum(time - HORIZON - self.longest, 0)
        last = np.minimum(time + HORIZON, self.n_timestamps - 1)
        starts = np.searchsorted(self.heads, head * self.n_timestamps + first)
        ends = np.searchsorted(self.heads, head * self.n_timestamps + last, side="right")
        return starts, np.where(time < self.n_timestamps, ends - starts, 0)

    def _evidence(self, queries: Ids, rows: range, starts: Integers, counts: Integers) -> Evidence:
        part = slice(rows.start, rows.stop)
        row = np.repeat(np.arange(rows.start, rows.stop), counts[part])
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        relation, tail, begin, end = self.facts[np.repeat(starts[part], counts[part]) + within].T.astype(np.int64)
        time, asked = queries[row, 3].astype(np.int64), queries[row, 1].astype(np.int64)
        gap = np.maximum(0, np.maximum(begin - time, time - end))
        near = gap <= HORIZON
        row, tail, relation, asked, gap = (column[near] for column in (row, tail, relation, asked, _class_of(gap)))
        pairs, at = np.unique(row * self.n_entities + tail, return_inverse=True)

        def sums(of_facts: Floats) -> Floats:
            found = np.bincount(at * N_GAPS + gap, of_facts, minlength=len(pairs) * N_GAPS)
            return found.astype(np.float64).reshape(-1, N_GAPS)

        said = sums(self._confidence(gap, relation, asked))
        columns = (100 * said, sums((relation == asked).astype(float)), 100 * said.sum(1, keepdims=True))
        features = np.log1p(np.concatenate(columns, axis=1))
        ones = np.ones((len(pairs), 1))
        return Evidence(pairs // self.n_entities, pairs % self.n_entities, np.concatenate((features, ones), axis=1))

    def _confidence(self, gap: Integers, given: Integers, asked: Integers) -> Floats:
        """Return c_gap(given → asked), each (n,); 0 where there is no such rule."""
        if not len(self.codes):
            return np.zeros(len(gap))
        codes = (gap * self.n_relations + given) * self.n_relations + asked
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, self.confidences[at], 0.0)


def _count_pairs(
    pair: Integers, relation: Integers, begin: Integers, end: Integers, n_relations: int
) -> tuple[Integers, Integers]:
    """Return the codes of all rules, ascending, and how many pairs of facts each has.

    The facts of the same head and tail stand in order of their begin, so the second of a pair begins no earlier: for
    one fact the next ones are near until the first that begins too late.
    """
    order = np.lexsort((begin, pair))
    pair, relation, begin, end = pair[order], relation[order], begin[order], end[order]
    found: dict[int, int] = {}
    first = np.arange(len(pair) - 1)
    step = 1
    while len(first):
        first = first[first + step < len(pair)]
        second = first + step
        near = (pair[first] == pair[second]) & (begin[second] <= end[first] + HORIZON)
        first, second = first[near], second[near]
        gap = _class_of(np.maximum(0, begin[second] - end[first]))
        for one, other in ((first, second), (second, first)):
            codes = (gap * n_relations + relation[one]) * n_relations + relation[other]
            for code, count in zip(*(array.tolist() for array in np.unique(codes, return_counts=True)), strict=True):
                found[code] = found.get(code, 0) + count
        step += 1
    codes = np.array(sorted(found), dtype=np.int64)
    return codes, np.array([found[code] for code in codes.tolist()], dtype=np.int64)


def _class_of(gap: Integers) -> Integers:
    """Return the class of each gap: 0, 1, 2 to 3, 4 to 7, …"""
    return np.frexp(gap)[1].astype(np.int64)


def _pieces(counts: Integers) -> Iterator[range]:
    """Yield ranges of queries that have at most ``LARGEST_PIECE`` facts together, or are one query; at least one."""
    start, total = 0, 0
    for at, count in enumerate(counts.tolist()):
        if total + count > LARGEST_PIECE and at > start:
            yield range(start, at)
            start, total = at, 0
        total += count
    yield range(start, len(counts))
