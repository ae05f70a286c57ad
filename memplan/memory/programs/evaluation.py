"""What filtered ranking allocates. The code whose bytes this tells: tkbc/ranking/evaluation.py."""

from __future__ import annotations

from memplan.memory.ledger import Ledger
from memplan.memory.programs import plain, scoring
from memplan.memory.programs.chunks import chunk_sizes, collect_label_scores
from memplan.memory.programs.encoder import ModelProgram
from memplan.workload import Workload

FILTER_PIECE = 8192
"""Filtered (query, entity) pairs handed to the device at a time."""


def evaluate(ledger: Ledger, workload: Workload, model: ModelProgram) -> None:
    """Tell the ranking of one full batch of queries."""
    b, chunk = workload.eval_batch_size, workload.eval_chunk_size
    sizes = chunk_sizes(workload.n_entities, chunk)
    with ledger.phase("evaluation"):
        ids = ledger.new("query ids", 4, b, dtype="int32", kind="data")
        encoding = model.encode(ledger, workload, b)
        ledger.free(*encoding.saved)
        kept = [
            ids,
            *encoding.query,
            ledger.new("labels", b, dtype="int64"),
            ledger.new("filter positions", FILTER_PIECE, dtype="int64"),
        ]
        buffered = scoring.needs_buffer(workload)
        if buffered:
            kept.append(ledger.new("evaluation scores", b, chunk, kind="scores"))
        kept.append(ledger.new("scores of the targets", b))
        kept.append(ledger.new("counts of rivals", 2, b, dtype="float64"))
        for c in sizes:
            if buffered:
                scoring.forward(ledger, workload, b, c)
            else:
                _, scores = plain.forward(ledger, workload, b, c)
                kept.append(scores)
            collect_label_scores(ledger, b)
        for c in sizes:
            if chunk < workload.n_entities:
                scoring.forward(ledger, workload, b, c)
            ledger.passing("largest scores", b)
            ledger.passing("sums of signs", b)
        ledger.free(*kept)
