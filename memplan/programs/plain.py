"""What the scores in plain PyTorch allocate. The code whose bytes this tells: tkbc/scoring/plain.py, reference.py."""

from __future__ import annotations

from typing import NamedTuple

from memplan.ledger import Allocation, DType, Ledger
from memplan.programs.scalars import SCALAR
from memplan.workload import Precision, Workload

INPUT_TYPES: dict[Precision, DType] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Graph(NamedTuple):
    """What a forward with gradients keeps for its backward."""

    leaves: tuple[Allocation, ...]
    kept: tuple[Allocation, ...]


def forward(ledger: Ledger, workload: Workload, b: int, c: int) -> Allocation:
    """Tell the formula without gradients; return the scores."""
    leaves = _leaves(ledger, workload, b, c)
    _, scores = _formula(ledger, workload, b, c, grad=False)
    ledger.free(*leaves)
    return scores


def graph(ledger: Ledger, workload: Workload, b: int, c: int) -> tuple[Graph, Allocation]:
    """Tell the formula with gradients; return what autograd keeps, and the scores."""
    leaves = _leaves(ledger, workload, b, c)
    kept, scores = _formula(ledger, workload, b, c, grad=True)
    return Graph(leaves, kept), scores


def backward(ledger: Ledger, workload: Workload, b: int, c: int, graph: Graph, scores: Allocation | None) -> None:
    """Tell autograd's backward of the formula and the addition of its results to the totals."""
    scaled = [_scaled_gradient(ledger, workload, b, c)] if workload.precision == "fp16" else []
    tell = _dot_gradients if workload.score == "dot" else _distance_gradients
    grad_query, grad_entities = tell(ledger, workload, b, c, graph)
    if workload.precision != "fp32":
        # Adding half precision to float32 in place: PyTorch's CPU operators convert the operand first.
        for gradient in (*grad_query, grad_entities):
            if ledger.device == "cpu":
                ledger.passing(f"{gradient.name}, as float32", *gradient.shape)
    ledger.free(*scaled, *grad_query, grad_entities, *graph.leaves)
    if scores is not None:
        ledger.free(scores)


def _scaled_gradient(ledger: Ledger, workload: Workload, b: int, c: int) -> Allocation:
    """Tell ``loss_scale`` and the scores' gradient times it, which lives on."""
    for _ in range(2 if workload.score == "dot" else 3):
        ledger.passing("largest input", *SCALAR, dtype="float16")
    for n in (c, b):
        sums = ledger.new("sums of the scores' gradient", n)
        largest = ledger.new("largest sum", *SCALAR)
        ledger.free(sums, largest)
    scalars = []
    if ledger.device == "cpu":
        scalars = [ledger.new("loss scale", *SCALAR, dtype="float64"), ledger.new("loss scale, cast", *SCALAR)]
    scaled = ledger.new("gradient of the scores, scaled", b, c, kind="scores")
    ledger.free(*scalars)
    return scaled


def _leaves(ledger: Ledger, workload: Workload, b: int, c: int) -> tuple[Allocation, ...]:
    """Tell the inputs in half precision; as float32 they are the tensors that are there."""
    if workload.precision == "fp32":
        return ()
    dtype = INPUT_TYPES[workload.precision]
    names = ("q",) if workload.score == "dot" else ("a", "w")
    query = [ledger.new(f"{name} in half precision", b, workload.width, dtype=dtype) for name in names]
    return (*query, ledger.new("scored entities in half precision", c, workload.width, dtype=dtype))


def _formula(
    ledger: Ledger, workload: Workload, b: int, c: int, *, grad: bool
) -> tuple[tuple[Allocation, ...], Allocation]:
    dtype = INPUT_TYPES[workload.precision]
    is_half = workload.precision != "fp32"
    if workload.score == "dot":
        inputs: tuple[Allocation, ...] = ()
        if is_half:
            rounded_q = ledger.new("q, rounded", b, workload.width)
            inputs = (rounded_q, ledger.new("entities, rounded", c, workload.width))
        scores = ledger.new("scores", b, c, kind="scores")
        if grad:
            return inputs, scores
        ledger.free(*inputs)
        return (), scores
    d = workload.rank
    product = ledger.new("w · e", b, c, d, dtype=dtype)
    difference = ledger.new("a − w · e", b, c, d, dtype=dtype)
    ledger.free(product)
    terms = ledger.new("|a − w · e|" if workload.score == "l1" else "(a − w · e)²", b, c, d, dtype=dtype)
    if not grad:
        ledger.free(difference)
    total = ledger.new("distances", b, c, kind="scores")
    if is_half and ledger.device == "cpu":
        ledger.passing("terms, as float32", b, c, d)  # a CPU sum converts its whole operand first; a CUDA one does not
    ledger.free(terms)
    scores = ledger.new("scores", b, c, kind="scores")
    ledger.free(total)
    return ((difference,) if grad else ()), scores


def _dot_gradients(
    ledger: Ledger, workload: Workload, b: int, c: int, graph: Graph
) -> tuple[list[Allocation], Allocation]:
    width = workload.width
    grad_entities = ledger.new("gradient of the scored entities, plain", c, width)
    grad_q = ledger.new("gradient of q, plain", b, width)
    if workload.precision == "fp32":
        return [grad_q], grad_entities
    ledger.free(*graph.kept)
    halves = []
    for gradient in (grad_entities, grad_q):
        name = f"{gradient.name}, in half precision"
        halves.append(ledger.new(name, *gradient.shape, dtype=INPUT_TYPES[workload.precision]))
        ledger.free(gradient)
    return [halves[1]], halves[0]


def _distance_gradients(
    ledger: Ledger, workload: Workload, b: int, c: int, graph: Graph
) -> tuple[list[Allocation], Allocation]:
    d, dtype = workload.rank, INPUT_TYPES[workload.precision]
    (difference,) = graph.kept
    grad_distance = ledger.new("gradient of the distances", b, c, kind="scores")
    if dtype != "float32":
        cast = ledger.new("gradient of the distances, spread out in half precision", b, c, d, dtype=dtype)
        ledger.free(grad_distance)
        grad_distance = cast
    if workload.score == "l1":
        factors = [ledger.new("sign(a − w · e)", b, c, d, dtype=dtype)]
    else:
        factors = [ledger.new("(a − w · e) to the power of 1", b, c, d, dtype=dtype)]
        scalars = []
        if ledger.device == "cpu":
            scalars = [ledger.new("2", *SCALAR, dtype="float64"), ledger.new("2, cast", *SCALAR, dtype=dtype)]
        factors.append(ledger.new("2 (a − w · e)", b, c, d, dtype=dtype))
        ledger.free(*scalars)
    grad_difference = ledger.new("gradient of a − w · e", b, c, d, dtype=dtype)
    ledger.free(*factors, difference, grad_distance)
    grad_product = ledger.new("gradient of w · e", b, c, d, dtype=dtype)
    grad_a = _sum_over(ledger, c, grad_difference, "gradient of a, plain", b, d)
    grad_w_terms = ledger.new("terms of the gradient of w", b, c, d, dtype=dtype)
    grad_e_terms = ledger.new("terms of the gradient of e", b, c, d, dtype=dtype)
    grad_w = _sum_over(ledger, c, grad_w_terms, "gradient of w, plain", b, d)
    grad_entities = _sum_over(ledger, b, grad_e_terms, "gradient of the scored entities, plain", c, d)
    ledger.free(grad_product)
    return [grad_a, grad_w], grad_entities


def _sum_over(ledger: Ledger, size: int, terms: Allocation, name: str, *shape: int) -> Allocation:
    """Tell autograd's sum over a broadcast dimension; over a dimension of one there is nothing to sum, nor to copy."""
    if size == 1:
        return terms
    total = ledger.new(name, *shape, dtype=terms.dtype)
    ledger.free(terms)
    return total
