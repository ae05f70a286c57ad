"""What one call of a score's forward or backward allocates.

The code whose bytes this tells: tkbc/scoring/rounded.py, dot_fused.py, l2_fused.py and l1_numba.py; the plain
scorings are told in plain.py, and l1_triton.py in l1_cuda.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memplan.memory.ledger import Ledger
from memplan.memory.programs import l1_cuda, plain
from memplan.workload import Workload

L1_TILE = 720
"""Entities a tile of the fused L1 kernel on the CPU."""


def needs_buffer(workload: Workload) -> bool:
    """Return whether scores are written into one buffer (else each forward returns new ones)."""
    return workload.scoring != "materialized"


def runs_numba(workload: Workload) -> bool:
    """Return whether the score is the fused L1 kernel on the CPU."""
    return brings_softmax(workload) and workload.device == "cpu"


def runs_triton(workload: Workload) -> bool:
    """Return whether the score is the fused L1 kernel on CUDA."""
    return brings_softmax(workload) and workload.device == "cuda"


def brings_softmax(workload: Workload) -> bool:
    """Return whether the score brings a softmax of its own, which also keeps the scores beside their log-sum-exp."""
    return workload.scoring == "fused" and workload.score == "l1"


def query_tensors(workload: Workload) -> int:
    """Return the (b, width) tensors of a query."""
    return 1 if workload.score == "dot" else 2


def forward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    """Tell a forward of b queries against c entities into the buffer."""
    if workload.scoring == "chunked":
        _, scores = plain.forward(ledger, workload, b, c)
        ledger.free(scores)
        return
    if runs_triton(workload):
        l1_cuda.forward(ledger, workload, b, c)
        return
    with _rounded(ledger, workload, b, c):
        if workload.score == "l2":
            _fused_l2_forward(ledger, workload, b, c)
        elif runs_numba(workload):
            parts, tile = l1_geometry(c, workload.threads)
            ledger.passing("packed tiles of entities", parts, workload.rank, tile)


def backward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    """Tell a backward that adds to the gradients of the query and of c entities."""
    if workload.scoring == "chunked":
        plain.backward(ledger, workload, b, c, ())
        return
    if runs_triton(workload):
        l1_cuda.backward(ledger, workload, b, c)
        return
    with _rounded(ledger, workload, b, c):
        if workload.score == "l2":
            _fused_l2_backward(ledger, workload, b, c)
        elif runs_numba(workload):
            parts, tile = l1_geometry(c, workload.threads)
            packed = ledger.new("packed tiles of entities", parts, workload.rank, tile)
            gradients = ledger.new("packed tiles of entity gradients", parts, workload.rank, tile)
            others = ledger.new("query gradients of the other threads", 2, parts - 1, b, workload.rank)
            ledger.free(packed, gradients, others)


def l1_geometry(n_candidates: int, threads: int) -> tuple[int, int]:
    """Return (parts, tile) of the fused L1 kernel on the CPU: the threads that get work, the width of their tiles."""
    parts = min(threads, -(-n_candidates // L1_TILE))
    span = -(-n_candidates // parts)
    return parts, min(L1_TILE, span)


@contextmanager
def _rounded(ledger: Ledger, workload: Workload, b: int, c: int) -> Iterator[None]:
    """Tell the inputs of a fused score in half precision, rounded and float32 again."""
    if workload.precision == "fp32":
        yield
        return
    inputs = []
    for name, n in [("query", b)] * query_tensors(workload) + [("entities", c)]:
        half = ledger.new(f"{name} in half precision", n, workload.width, dtype=plain.INPUT_TYPES[workload.precision])
        inputs.append(ledger.new(f"{name}, rounded", n, workload.width))
        ledger.free(half)
    yield
    ledger.free(*inputs)


def _fused_l2_forward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    factor = ledger.new("a ∘ w, then w², then a²", b, workload.rank)
    ledger.passing("squares of entities", c, workload.rank)
    ledger.passing("‖a‖²", b)
    ledger.free(factor)


def _fused_l2_backward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    product = ledger.new("G · E, then G · E², then a ∘ w, then w²", b, workload.rank)
    squares = ledger.new("squares of entities, then Gᵀ · w²", c, workload.rank)
    ledger.passing("sums of the scores' gradient", b)
    ledger.free(product, squares)
