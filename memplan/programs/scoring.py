"""What one call of a score's forward or backward allocates.

The code whose bytes this tells: tkbc/scoring/plain.py, dot_fused.py, l1_numba.py and l1_triton.py.
"""

from __future__ import annotations

from typing import NamedTuple

from memplan.ledger import Allocation, Ledger
from memplan.workload import Workload

L1_TILE = 720
"""Entities a tile of the fused L1 kernel on the CPU."""


class Graph(NamedTuple):
    """What a materialized forward keeps for its backward."""

    kept: tuple[Allocation, ...]


def needs_buffer(workload: Workload) -> bool:
    """Return whether scores are written into one buffer (else each forward returns new ones)."""
    return workload.scoring != "materialized"


def runs_numba(workload: Workload) -> bool:
    """Return whether the score is the fused L1 kernel on the CPU, which brings a softmax of its own."""
    return workload.scoring == "fused" and workload.score == "l1" and workload.device == "cpu"


def query_tensors(workload: Workload) -> int:
    """Return the (b, width) tensors of a query."""
    return 2 if workload.score == "l1" else 1


def forward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    """Tell a forward of b queries against c entities into the buffer."""
    if workload.scoring == "chunked":
        ledger.free(_plain_forward(ledger, workload, b, c))
    elif runs_numba(workload):
        parts, tile = l1_geometry(c, workload.threads)
        ledger.passing("packed tiles of entities", parts, workload.rank, tile)


def backward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    """Tell a backward that adds to the gradients of the query and of c entities."""
    if workload.scoring == "chunked":
        graph, scores = _plain_graph(ledger, workload, b, c)
        _plain_backward(ledger, workload, b, c, graph, scores)
    elif runs_numba(workload):
        parts, tile = l1_geometry(c, workload.threads)
        packed = ledger.new("packed tiles of entities", parts, workload.rank, tile)
        gradients = ledger.new("packed tiles of entity gradients", parts, workload.rank, tile)
        others = ledger.new("query gradients of the other threads", 2, parts - 1, b, workload.rank)
        ledger.free(packed, gradients, others)


def materialized_forward(ledger: Ledger, workload: Workload, b: int, *, grad: bool) -> tuple[Graph, Allocation]:
    """Tell a forward against all entities that returns its own scores; with ``grad`` its graph is kept."""
    if grad:
        return _plain_graph(ledger, workload, b, workload.n_entities)
    return Graph(()), _plain_forward(ledger, workload, b, workload.n_entities)


def materialized_backward(ledger: Ledger, workload: Workload, b: int, graph: Graph) -> None:
    """Tell the backward through the kept graph; the scores stay with the caller."""
    _plain_backward(ledger, workload, b, workload.n_entities, graph, None)


def l1_geometry(n_candidates: int, threads: int) -> tuple[int, int]:
    """Return (parts, tile) of the fused L1 kernel on the CPU: the threads that get work, the width of their tiles."""
    parts = min(threads, -(-n_candidates // L1_TILE))
    span = -(-n_candidates // parts)
    return parts, min(L1_TILE, span)


def _plain_forward(ledger: Ledger, workload: Workload, b: int, c: int) -> Allocation:
    """Tell the formula without gradients; return the scores."""
    if workload.score == "dot":
        return ledger.new("scores", b, c)
    d = workload.rank
    product = ledger.new("w · e", b, c, d)
    difference = ledger.new("a − w · e", b, c, d)
    ledger.free(product)
    magnitude = ledger.new("|a − w · e|", b, c, d)
    ledger.free(difference)
    total = ledger.new("distances", b, c)
    ledger.free(magnitude)
    scores = ledger.new("scores", b, c)
    ledger.free(total)
    return scores


def _plain_graph(ledger: Ledger, workload: Workload, b: int, c: int) -> tuple[Graph, Allocation]:
    """Tell the formula with gradients; return what autograd keeps, and the scores."""
    if workload.score == "dot":
        return Graph(()), ledger.new("scores", b, c)
    d = workload.rank
    product = ledger.new("w · e", b, c, d)
    difference = ledger.new("a − w · e", b, c, d)
    ledger.free(product)
    magnitude = ledger.new("|a − w · e|", b, c, d)
    total = ledger.new("distances", b, c)
    ledger.free(magnitude)
    scores = ledger.new("scores", b, c)
    ledger.free(total)
    return Graph((difference,)), scores


def _plain_backward(
    ledger: Ledger, workload: Workload, b: int, c: int, graph: Graph, scores: Allocation | None
) -> None:
    """Tell autograd's backward of the formula and the addition of its results to the totals."""
    d, width = workload.rank, workload.width
    if workload.score == "dot":
        grad_query = [ledger.new("gradient of q, plain", b, width)]
        grad_entities = ledger.new("gradient of the scored entities, plain", c, width)
    else:
        (difference,) = graph.kept
        grad_distance = ledger.new("gradient of the distances", b, c)
        sign = ledger.new("sign(a − w · e)", b, c, d)
        grad_difference = ledger.new("gradient of a − w · e", b, c, d)
        ledger.free(sign, difference, grad_distance)
        grad_product = ledger.new("gradient of w · e", b, c, d)
        grad_a = _sum_over(ledger, c, grad_difference, "gradient of a, plain", b, d)
        grad_w_terms = ledger.new("terms of the gradient of w", b, c, d)
        grad_e_terms = ledger.new("terms of the gradient of e", b, c, d)
        grad_w = _sum_over(ledger, c, grad_w_terms, "gradient of w, plain", b, d)
        grad_entities = _sum_over(ledger, b, grad_e_terms, "gradient of the scored entities, plain", c, d)
        ledger.free(grad_product)
        grad_query = [grad_a, grad_w]
    if scores is not None:
        ledger.free(scores)
    ledger.free(*grad_query, grad_entities)


def _sum_over(ledger: Ledger, size: int, terms: Allocation, name: str, *shape: int) -> Allocation:
    """Tell autograd's sum over a broadcast dimension; over a dimension of one there is nothing to sum, nor to copy."""
    if size == 1:
        return terms
    total = ledger.new(name, *shape)
    ledger.free(terms)
    return total
