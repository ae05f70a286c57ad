"""What walking the entity table in chunks allocates. The code whose bytes this tells: tkbc/chunks.py."""

from __future__ import annotations

from memplan.ledger import Allocation, Ledger
from memplan.programs.scalars import with_integer_operand


def chunk_sizes(n_entities: int, chunk_size: int) -> list[int]:
    """Return the sizes of the chunks to tell: the first, and the last where it is ragged; others repeat the first."""
    ragged = n_entities % chunk_size
    return [chunk_size] + ([ragged] if ragged else [])


def label_positions(ledger: Ledger, b: int) -> tuple[Allocation, Allocation]:
    """Tell ``label_positions`` of b labels; return its two results."""
    position = with_integer_operand(ledger, "positions of the labels", b, dtype="int64")
    not_before = with_integer_operand(ledger, "labels at or after the chunk's start", b, dtype="bool")
    before_end = with_integer_operand(ledger, "labels before the chunk's end", b, dtype="bool")
    inside = ledger.new("labels inside the chunk", b, dtype="bool")
    ledger.free(not_before, before_end)
    return position, inside


def collect_label_scores(ledger: Ledger, b: int) -> None:
    """Tell ``collect_label_scores`` of b labels."""
    position, inside = label_positions(ledger, b)
    ledger.passing("scores found", b)
    ledger.free(position, inside)
