"""Walking the entity table in chunks: what the loss and the evaluation share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tkbc.tensors import named, positions_in, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tkbc.scoring.choosing import PairwiseScore


def new_buffer(score: PairwiseScore, entities: Tensor, n_queries: int, chunk_size: int, name: str) -> Tensor | None:
    """Return room for the (b, C) scores of a chunk, of the entities' type, for a score that writes into it."""
    if not score.needs_buffer:
        return None
    return named(name, entities.new_empty((n_queries, chunk_size)), "scores")


def chunk_view(buffer: Tensor | None, n_queries: int, n_candidates: int) -> Tensor | None:
    """Return the start of ``buffer`` as a contiguous (b, c): a ragged last chunk is narrower than the buffer."""
    return None if buffer is None else buffer.view(-1)[: n_queries * n_candidates].view(n_queries, n_candidates)


def collect_label_scores(scores: Tensor, labels: Tensor, start: int, into: Tensor) -> None:
    """Write the score of each label that lies in this chunk of scores, (b, c), to ``into``, (b,)."""
    position, inside = positions_in(labels, start, scores.shape[1])
    found = named("scores found", scores.gather(1, position[:, None])[:, 0])
    torch.where(inside, found, into, out=into)
