# Its bytes are told by memplan/memory/programs/chunks.py.
"""Walking the entity table in chunks: what the loss and the evaluation share."""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_view(buffer: Tensor | None, n_queries: int, n_candidates: int) -> Tensor | None:
    """Return the start of ``buffer`` as a contiguous (b, c): a ragged last chunk is narrower than the buffer."""
    return None if buffer is None else buffer.view(-1)[: n_queries * n_candidates].view(n_queries, n_candidates)


def label_positions(labels: Tensor, start: int, n_candidates: int) -> tuple[Tensor, Tensor]:
    """Return each label's column in the chunk that begins at ``start``, and whether it lies inside.

    Shapes:
        labels: (b,) int64; returns columns clamped to the chunk, (b,) int64, and (b,) bool.
    """
    position = labels - start
    inside = (position >= 0) & (position < n_candidates)
    return position.clamp_(0, n_candidates - 1), inside


def collect_label_scores(scores: Tensor, labels: Tensor, start: int, into: Tensor) -> None:
    """Write the score of each label that lies in this chunk of scores, (b, c), to ``into``, (b,)."""
    position, inside = label_positions(labels, start, scores.shape[1])
    torch.where(inside, scores.gather(1, position[:, None])[:, 0], into, out=into)
