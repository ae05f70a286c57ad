"""What walking the entity table in chunks allocates. The code whose bytes this tells: tkbc/scoring/chunks.py."""

from __future__ import annotations

from memplan.memory.ledger import Allocation, DType, Ledger
from memplan.memory.operators import inside


def chunk_sizes(n_entities: int, chunk_size: int) -> list[int]:
    """Return the sizes of the chunks to tell: the first, and the last where it is ragged; others repeat the first."""
    ragged = n_entities % chunk_size
    return [chunk_size] + ([ragged] if ragged else [])


def label_positions(ledger: Ledger, b: int) -> tuple[Allocation, Allocation]:
    """Tell ``label_positions`` of b labels; return its two results."""
    position = _of_labels(ledger, "positions of the labels", b, "int64")
    not_before = _of_labels(ledger, "labels at or after the chunk's start", b, "bool")
    before_end = _of_labels(ledger, "labels before the chunk's end", b, "bool")
    inside = ledger.new("labels inside the chunk", b, dtype="bool")
    ledger.free(not_before, before_end)
    return position, inside


def _of_labels(ledger: Ledger, name: str, b: int, dtype: DType) -> Allocation:
    with inside(ledger, "int64 with a Python number"):
        return ledger.new(name, b, dtype=dtype)


def collect_label_scores(ledger: Ledger, b: int) -> None:
    """Tell ``collect_label_scores`` of b labels."""
    position, inside = label_positions(ledger, b)
    ledger.passing("scores found", b)
    ledger.free(position, inside)
