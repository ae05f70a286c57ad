"""What the regularizers allocate. The code whose bytes this tells: tkbc/models/regularizers.py."""

from __future__ import annotations

from memplan.memory.ledger import Allocation, Ledger
from memplan.memory.operators import SCALAR, passes
from memplan.memory.programs.rows import add_rows
from memplan.workload import Workload


def n3(ledger: Ledger, rows: int, width: int, *, is_complex: bool) -> tuple[Allocation, Allocation]:
    """Tell ``n3`` on a (rows, width) factor; return its value and its gradient, which live on."""
    modulus = ledger.new("moduli", rows, width // 2 if is_complex else width)
    gradient = ledger.new("N3 gradient", rows, width)
    value = ledger.new("N3 penalty", *SCALAR)
    passes(ledger, "with a Python number")
    ledger.free(modulus)
    return value, gradient


def rows(ledger: Ledger, workload: Workload, b: int, table: str) -> Allocation:
    """Tell the regularizer of b rows of one table (``Model._regularize_rows``); return the penalty, which lives on."""
    factor = ledger.new("gathered rows", b, workload.width)
    penalty, gradient = n3(ledger, b, workload.width, is_complex=workload.traits.is_complex)
    ledger.free(factor)
    add_rows(ledger, workload, b, table)
    ledger.free(gradient)
    return penalty


def smoothness(ledger: Ledger, n: int, width: int, *, is_complex: bool) -> None:
    """Tell ``smoothness`` over n timestamps, its value freed by the caller."""
    if n < 2:
        ledger.passing("time penalty", *SCALAR)
        return
    difference = ledger.new("differences of timestamps", n - 1, width)
    if is_complex:
        value, gradient = n3(ledger, n - 1, width, is_complex=True)
        ledger.free(gradient)
    else:
        value = ledger.new("time penalty", *SCALAR)
        passes(ledger, "with a Python number")
    ledger.free(value, difference)
