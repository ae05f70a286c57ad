"""The fused L1 score on CUDA: the sizes that decide its allocations, and what they are.

The code whose bytes this tells: tkbc/scoring/l1_triton.py, which takes its sizes from here. They follow from shapes
alone, not from the GPU, so that a plan holds on any.
"""

from __future__ import annotations

from memplan.memory.ledger import Allocation, Ledger
from memplan.memory.programs.plain import INPUT_TYPES
from memplan.workload import Workload

TILE = 64
"""Queries, and entities, of a program's tile."""
DIMENSIONS = 32
"""Dimensions of a program's tile of gradients."""
VECTOR = 4
"""Numbers loaded at once, so rows of inputs begin at multiples of it."""
PROGRAMS = 1024
"""Programs wanted of the backward to the queries: a large GPU runs some 500 at once, and a second round evens out."""
SPAN = 512
"""Entities that a part has at least: below, its partial sums cost more than it gains."""


def columns(n: int) -> int:
    """Return the columns of a transposed copy of n rows: whole tiles."""
    return -(-n // TILE) * TILE


def row_width(rank: int) -> int:
    """Return the numbers from one row of inputs to the next in the backward: whole vectors."""
    return -(-rank // VECTOR) * VECTOR


def parts_of(n_queries: int, n_entities: int, rank: int) -> int:
    """Return the parts into which the backward to the queries cuts the entities; their sums are added in order."""
    tiles = -(-n_queries // TILE) * -(-rank // DIMENSIONS)
    return max(1, min(PROGRAMS // tiles, n_entities // SPAN))


def copies_rows(workload: Workload) -> bool:
    """Return whether the backward reads copies of its inputs: rounded ones, or rows of whole vectors."""
    return workload.precision != "fp32" or workload.rank % VECTOR != 0


def forward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    """Tell a forward of b queries against c entities into the buffer."""
    dtype = INPUT_TYPES[workload.precision]
    packed = [
        ledger.new(f"{name}, transposed", workload.rank, columns(n), dtype=dtype)
        for name, n in (("a", b), ("−w", b), ("entities", c))
    ]
    ledger.free(*packed)


def backward(ledger: Ledger, workload: Workload, b: int, c: int) -> None:
    """Tell a backward that adds to the gradients of the query and of c entities."""
    dtype = INPUT_TYPES[workload.precision]
    rows: list[Allocation] = []
    if copies_rows(workload):
        width = row_width(workload.rank)
        rows = [
            ledger.new(f"rows of {name}", n, width, dtype=dtype) for name, n in (("a", b), ("w", b), ("entities", c))
        ]
    parts = parts_of(b, c, workload.rank)
    if parts > 1:
        ledger.passing("query gradients of the other parts", parts - 1, 2, b, workload.rank)
    ledger.free(*rows)
