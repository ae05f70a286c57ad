"""What the streamed softmax loss allocates. The code whose bytes this tells: tkbc/step/loss.py, and
tkbc/scoring/softmax_torch.py, softmax_numba.py and softmax_triton.py."""

from __future__ import annotations

from memplan.memory.ledger import Allocation, Ledger
from memplan.memory.operators import passes
from memplan.memory.programs import plain, scoring
from memplan.memory.programs.chunks import chunk_sizes, collect_label_scores, label_positions
from memplan.memory.programs.plain import Kept
from memplan.workload import Workload


def softmax_cross_entropy(
    ledger: Ledger, workload: Workload, b: int, n: int, chunk: int
) -> tuple[Allocation, list[Allocation]]:
    """Tell the loss of b examples over n candidates, ``chunk`` of them at once, weighted or not.

    Returns its value and the gradient of the query, which live on.
    """
    sizes = chunk_sizes(n, chunk)
    buffered = scoring.needs_buffer(workload)
    kept: Kept = ()
    with ledger.phase("score"):
        scores = ledger.new("scores, then their gradient", b, chunk, kind="scores") if buffered else None
        log_sum_exp = ledger.new("log-sum-exp", b)
        label_score = ledger.new("scores of the labels", b)
        for c in sizes:
            if buffered:
                scoring.forward(ledger, workload, b, c)
            else:
                kept, scores = plain.forward(ledger, workload, b, c, keep=True)
            collect_label_scores(ledger, b)
            _softmax_in_place(ledger, workload, b)
        difference = ledger.new("losses", b)
        loss = ledger.new("loss")
        ledger.free(difference, label_score)
    assert scores is not None
    with ledger.phase("score backward"):
        grad_query = [
            ledger.new("gradient of the query", b, workload.width) for _ in range(scoring.query_tensors(workload))
        ]
        # From the last chunk to the first; a score that brings its softmax still has the last one's scores.
        for c in reversed(sizes):
            has_scores = scoring.brings_softmax(workload) and c < chunk
            if chunk < n and not has_scores:
                scoring.forward(ledger, workload, b, c)
            _subtract_one_at_labels(ledger, workload, b, c)
            if buffered:
                scoring.backward(ledger, workload, b, c)
            else:
                plain.backward(ledger, workload, b, c, kept)
        ledger.free(scores, log_sum_exp)
    return loss, grad_query


def _subtract_one_at_labels(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    position, inside = label_positions(ledger, b)
    with ledger.temporary("minus ones", b):
        if workload.deterministic:
            passes(ledger, "deterministic scatter_add_", b, b * c)
    ledger.free(position, inside)


def _softmax_in_place(ledger: Ledger, workload: Workload, b: int) -> None:
    log_sum_exp = ledger.new("largest scores, then log-sum-exp of the chunk", b)
    if not scoring.brings_softmax(workload):
        ledger.passing("largest probabilities", b)
    ledger.free(log_sum_exp)
