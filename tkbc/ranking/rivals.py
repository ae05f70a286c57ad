"""The candidates that score higher than a query's target and those that tie, on PyTorch's tensors and on ghosts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tkbc.models import Batch, Model
from tkbc.scoring import PairwiseScore
from tkbc.scoring.chunks import chunk_view, collect_label_scores, new_buffer
from tkbc.tensors import each, in_any_order, named, of_type

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 8192
"""(query, entity) pairs handed to the device at a time: fixed, so that memory does not follow the data."""


class Positions(NamedTuple):
    """Positions of a query with an entity, in the order in which the chunks of scores ask for them."""

    positions: Tensor | None
    """Of each pair in its chunk's scores, (m,) int64 on the host; None where there are none."""
    ends: Sequence[int]
    """How many positions there are up to the end of each chunk."""
    values: Tensor | None = None
    """Of each pair, (m,) float32 on the host, where pairs have values."""


NO_POSITIONS = Positions(None, ())


def rivals(
    model: Model,
    score: PairwiseScore,
    ids: Tensor,
    excluded: Positions,
    chunk_size: int,
    raised: Positions | None = None,
) -> Tensor:
    """Return how many candidates score higher than each query's tail and how many tie, (2, b) float64; NaN where a
    score is.

    Args:
        excluded: the known true tails, to be left out.
        raised: pairs, each once, whose score is first raised by their value.

    Shapes:
        ids: (4, b) int32, of head, relation, tail and time.
    """
    entities, processes = model.entity, model.processes
    n_queries, n_entities = ids.shape[1], len(entities)
    chunk_size = max(1, min(chunk_size, n_entities))
    query = model.encode(Batch(*ids)).query
    labels = named("labels", ids[2].long())
    filtered = _Filtered(excluded, labels)
    raising = None if raised is None else _Raised(raised, labels, entities)
    buffer = new_buffer(score, entities, n_queries, chunk_size, "evaluation scores")
    target = named("scores of the targets", entities.new_zeros(n_queries))
    counts = entities.new_zeros((2, n_queries), dtype=of_type(entities, "float64"))
    signs, untied = named("counts of rivals", counts)

    def scores_of(start: int) -> Tensor:
        chunk = entities[start : start + chunk_size]
        scores = score.forward(query, chunk, chunk_view(buffer, n_queries, len(chunk)), grad=False)
        if raising is not None:
            raising.add_to(scores, start // chunk_size)
        return scores

    starts = range(0, n_entities, chunk_size)
    scores = None
    for start in each(starts, entities):
        scores = scores_of(start)
        collect_label_scores(scores, labels, processes.rows.start + start, target)
    processes.sum_over_shards_(target)
    for start in each(starts, entities):
        if len(starts) > 1 or scores is None:
            # Free the last chunk's scores first: without a buffer two would live at once.
            scores = None
            scores = scores_of(start)
        # 0 where all is well, NaN where a score is NaN or overflowed: sign() below would pass NaN off as a tie.
        largest = named("largest scores", scores.amax(1))
        untied.add_(largest.sub_(largest))
        del largest
        filtered.exclude(scores, start // chunk_size)
        # In place: 1 where a rival scores higher, 0 where it ties, -1 where lower. Two sums then count all three
        # without a table of booleans. Sums of ones are exact in float32 below 2^24 candidates a chunk.
        scores.sub_(target[:, None]).sign_()
        signs.add_(named("sums of signs", scores.sum(1)))
        untied.add_(named("sums of signs", scores.abs_().sum(1)))
    processes.sum_over_shards_(counts)
    signs.add_(untied).div_(2)  # higher
    # The target ties with itself: it is one of the ties counted here, and not one of its own rivals.
    untied.neg_().add_(model.workload.n_entities - 1)  # ties
    return counts


class Pieces:
    """A batch's pairs, chunk after chunk, through buffers of ``PIECE`` positions and their values.

    All pairs lie on the host in the order in which the chunks ask for them. The buffers hold a piece of them at a
    time, so a batch takes as few copies as its pairs fill pieces, mostly one, however many chunks there are.
    """

    def __init__(self, pairs: Positions, rooms: dict[str, Tensor]) -> None:
        """Take ``pairs`` through ``rooms``, the buffers by the name of what they hold."""
        self._pairs, self._rooms = pairs, rooms
        self._done = 0

    def of(self, chunk: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the pairs of chunk number ``chunk`` in parts; call it for chunk after chunk, or from 0 again."""
        if self._pairs.positions is None:
            return
        if chunk == 0:
            self._done = 0
        while self._done < self._pairs.ends[chunk]:
            at = self._done % PIECE
            if at == 0:
                for name, room in self._rooms.items():
                    piece = getattr(self._pairs, name)[self._done : self._done + PIECE]
                    room[: len(piece)].copy_(piece, non_blocking=True)
            last = min(at + self._pairs.ends[chunk] - self._done, PIECE)
            yield tuple(room[at:last] for room in self._rooms.values())
            self._done += last - at


class _Filtered:
    """A batch's known true tails."""

    def __init__(self, excluded: Positions, like: Tensor) -> None:
        self._pieces = Pieces(excluded, {"positions": named("filter positions", like.new_empty(PIECE))})

    def exclude(self, scores: Tensor, chunk: int) -> None:
        """Set the scores of chunk number ``chunk``, (b, c), to −inf at its pairs."""
        for (positions,) in self._pieces.of(chunk):
            scores.view(-1).index_fill_(0, positions, -math.inf)


class _Raised:
    """A batch's pairs whose scores are raised."""

    def __init__(self, raised: Positions, positions_like: Tensor, values_like: Tensor) -> None:
        positions = named("positions of raised scores", positions_like.new_empty(PIECE))
        values = named("what scores are raised by", values_like.new_empty(PIECE))
        self._pieces = Pieces(raised, {"positions": positions, "values": values})

    def add_to(self, scores: Tensor, chunk: int) -> None:
        """Add to the scores of chunk number ``chunk``, (b, c), the values of its pairs."""
        for positions, values in self._pieces.of(chunk):
            with in_any_order(scores):  # no position comes twice
                scores.view(-1).index_add_(0, positions, values)
