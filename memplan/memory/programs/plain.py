"""What the scores in plain PyTorch allocate. The code whose bytes this tells: tkbc/scoring/plain.py, reference.py."""

from __future__ import annotations

from memplan.memory.ledger import Allocation, DType, Ledger
from memplan.memory.operators import SCALAR, inside, passes
from memplan.workload import Precision, Workload

INPUT_TYPES: dict[Precision, DType] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Kept = tuple[Allocation, ...]
"""The differences that a forward keeps for its backward; nothing where there are none."""


def forward(ledger: Ledger, workload: Workload, b: int, c: int, *, keep: bool = False) -> tuple[Kept, Allocation]:
    """Tell a forward; return what it keeps (with ``keep``), and the scores."""
    inputs = _rounded(ledger, workload, b, c)
    tell = _products if workload.score == "dot" else _distances
    kept, scores = tell(ledger, workload, b, c, keep=keep)
    ledger.free(*inputs)
    return kept, scores


def backward(ledger: Ledger, workload: Workload, b: int, c: int, kept: Kept) -> None:
    """Tell a backward and the addition of its results to the totals; it frees what was kept."""
    inputs = _rounded(ledger, workload, b, c)
    if workload.score == "dot":
        _product_gradients(ledger, workload, b, c)
    else:
        difference, factor = _grad_difference(ledger, workload, b, c, kept)
        _distance_gradients(ledger, workload, b, c, difference)
        ledger.free(difference, *factor)
    ledger.free(*inputs)


def _rounded(ledger: Ledger, workload: Workload, b: int, c: int) -> Kept:
    """Tell the inputs in half precision; as float32 they are the tensors that are there."""
    if workload.precision == "fp32":
        return ()
    dtype = INPUT_TYPES[workload.precision]
    names = ("q",) if workload.score == "dot" else ("a", "w")
    query = [ledger.new(f"{name} in half precision", b, workload.width, dtype=dtype) for name in names]
    return (*query, ledger.new("scored entities in half precision", c, workload.width, dtype=dtype))


def _products(ledger: Ledger, workload: Workload, b: int, c: int, *, keep: bool) -> tuple[Kept, Allocation]:
    del keep  # the gradients need the inputs alone
    rounded: Kept = ()
    if workload.precision != "fp32":
        rounded_q = ledger.new("q, rounded", b, workload.width)
        rounded = (rounded_q, ledger.new("entities, rounded", c, workload.width))
    scores = ledger.new("scores", b, c, kind="scores")
    ledger.free(*rounded)
    return (), scores


def _distances(ledger: Ledger, workload: Workload, b: int, c: int, *, keep: bool) -> tuple[Kept, Allocation]:
    d, dtype = workload.rank, INPUT_TYPES[workload.precision]
    difference = _difference(ledger, workload, b, c)
    terms = ledger.new("|a − w · e|" if workload.score == "l1" else "(a − w · e)²", b, c, d, dtype=dtype)
    if not keep:
        ledger.free(difference)
    total = ledger.new("distances", b, c, kind="scores")
    if workload.precision != "fp32":
        passes(ledger, "sum of half precision in float32", b, c, d)
    if not keep:
        ledger.free(terms)
    scores = ledger.new("scores", b, c, kind="scores")
    ledger.free(total)
    if keep:
        ledger.free(terms)
    return ((difference,) if keep else ()), scores


def _difference(ledger: Ledger, workload: Workload, b: int, c: int) -> Allocation:
    dtype = INPUT_TYPES[workload.precision]
    product = ledger.new("w · e", b, c, workload.rank, dtype=dtype)
    difference = ledger.new("a − w · e", b, c, workload.rank, dtype=dtype)
    ledger.free(product)
    return difference


def _product_gradients(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    width = workload.width
    for of, other, rows, others in (("the scored entities", "q", c, b), ("q", "entities", b, c)):
        rounded = [] if workload.precision == "fp32" else [ledger.new(f"{other}, rounded", others, width)]
        gradient = ledger.new(f"gradient of {of}, plain", rows, width)
        ledger.free(*rounded)
        ledger.free(gradient)


def _grad_difference(ledger: Ledger, workload: Workload, b: int, c: int, kept: Kept) -> tuple[Allocation, Kept]:
    """Tell D = ∂L/∂(a − w · e): in the place of differences computed again, beside those that were kept.

    Return it, and the factor that it is still to be multiplied with where that is a tensor.
    """
    d, dtype = workload.rank, INPUT_TYPES[workload.precision]
    slope_name = "sign(a − w · e)" if workload.score == "l1" else "2 (a − w · e)"
    if not kept:
        difference = _difference(ledger, workload, b, c)
        if workload.score == "l2":
            passes(ledger, "with a Python number", dtype=dtype)
        minus_grad, factor = _minus_grad(ledger, workload, b, c)
        ledger.free(minus_grad)
        return difference, factor
    minus_grad, factor = _minus_grad(ledger, workload, b, c)
    if workload.score == "l2":
        with inside(ledger, "with a Python number", dtype=dtype):
            slope = ledger.new(slope_name, b, c, d, dtype=dtype)
    else:
        slope = ledger.new(slope_name, b, c, d, dtype=dtype)
    grad_difference = ledger.new("gradient of a − w · e", b, c, d, dtype=dtype)
    ledger.free(slope, minus_grad, *kept)
    return grad_difference, factor


def _minus_grad(ledger: Ledger, workload: Workload, b: int, c: int) -> tuple[Allocation, Kept]:
    """Tell ``_Plain._scaled``: minus the scores' gradient, scaled for float16, in the inputs' type, and its factor."""
    scale: Kept = ()
    if workload.precision == "fp16":
        scale = (_loss_scale_on_device if ledger.device == "cuda" else _loss_scale)(ledger, b, c)
    minus_scale = [ledger.new("minus the scale", *SCALAR) for _ in scale]
    with inside(ledger, "with a Python number", dtype="float32"):
        minus_grad = ledger.new("minus the scores' gradient", b, c, kind="scores")
    ledger.free(*minus_scale)
    if workload.precision == "fp32":
        return minus_grad, scale
    half = ledger.new("minus the scores' gradient, in half precision", b, c, dtype=INPUT_TYPES[workload.precision])
    ledger.free(minus_grad)
    return half, scale


def _loss_scale(ledger: Ledger, b: int, c: int) -> Kept:
    """Tell ``loss_scale`` of a, w and the entities."""
    for rows in (b, b, c):
        with ledger.temporary("largest of each input row", rows, dtype="float16"):
            ledger.passing("largest input", *SCALAR, dtype="float16")
    for n in (c, b):
        with ledger.temporary("sums of the scores' gradient", n):
            ledger.passing("largest sum", *SCALAR)
    return ()


def _loss_scale_on_device(ledger: Ledger, b: int, c: int) -> Kept:
    """Tell ``loss_scale_on_device`` of a, w and the entities; return the scale."""
    as_half = _largest(ledger, "input row", "float16", (b, b, c))
    bound = _largest(ledger, "sum of the scores' gradient", "float32", (c, b))
    largest = ledger.new("largest input", *SCALAR)
    ledger.free(as_half)
    for _ in range(2):
        ledger.passing("factor of the bound", *SCALAR)
    scale = ledger.new("scale", *SCALAR)
    mantissa = (ledger.new("mantissa", *SCALAR), ledger.new("exponent", *SCALAR, dtype="int32"))
    above, below = (ledger.new("bound in range", *SCALAR, dtype="bool") for _ in range(2))
    both = ledger.new("bound in range", *SCALAR, dtype="bool")
    ledger.free(above, below)
    with ledger.temporary("bound out of range", *SCALAR, dtype="bool"):
        ledger.free(both)
    ledger.free(bound, largest, *mantissa)
    return (scale,)


def _largest(ledger: Ledger, of: str, dtype: DType, sizes: tuple[int, ...]) -> Allocation:
    """Tell the largest of several vectors' largest; return it."""
    each = []
    for n in sizes:
        with ledger.temporary(f"largest of each {of}", n, dtype=dtype):
            each.append(ledger.new(f"largest {of}", *SCALAR, dtype=dtype))
    stacked = ledger.new(f"largest {of}, of each tensor", len(each), dtype=dtype)
    ledger.free(*each)
    largest = ledger.new(f"largest {of}", *SCALAR, dtype=dtype)
    ledger.free(stacked)
    return largest


def _distance_gradients(ledger: Ledger, workload: Workload, b: int, c: int, grad_difference: Allocation) -> None:
    d = workload.rank
    _add_sum(ledger, workload, "a", c, b)
    terms = ledger.new("terms of the gradient of w", b, c, d, dtype=grad_difference.dtype)
    total = _sum_over(ledger, workload, "w", c, b)
    ledger.free(terms)
    _add(ledger, workload, total)
    _add_sum(ledger, workload, "the scored entities", b, c)


def _add_sum(ledger: Ledger, workload: Workload, of: str, n: int, rows: int) -> None:
    _add(ledger, workload, _sum_over(ledger, workload, of, n, rows))


def _sum_over(ledger: Ledger, workload: Workload, of: str, n: int, rows: int) -> Allocation:
    """Tell ``sum_over`` of n terms for each of ``rows`` rows; return its result."""
    dtype = INPUT_TYPES[workload.precision]
    ones = [ledger.new("ones", 1, 1, n, dtype=dtype)] if ledger.device == "cuda" else []
    total = ledger.new(f"gradient of {of}, plain", rows, workload.rank, dtype=dtype)
    ledger.free(*ones)
    return total


def _add(ledger: Ledger, workload: Workload, gradient: Allocation) -> None:
    if workload.precision != "fp32":
        passes(ledger, "half precision added to float32", *gradient.shape)
    ledger.free(gradient)
