"""What TNTComplEx's tables and encoder allocate. The code whose bytes this tells: tkbc/models/complex_family.py."""

from __future__ import annotations

from memplan.ledger import Allocation, Ledger
from memplan.programs import regularizers
from memplan.programs.encoder import Encoding
from memplan.workload import Workload


def tables(workload: Workload) -> dict[str, int]:
    """Return the rows of each embedding table; every row holds 2d floats."""
    relations = 2 * workload.n_relations
    return {
        "entity": workload.n_entities,
        "relation": relations,
        "relation_static": relations,
        "time": workload.n_timestamps,
    }


def encode(ledger: Ledger, b: int, width: int) -> Encoding:
    """Tell ``TNTComplEx.encode`` on b examples."""
    head = ledger.new("head rows", b, width)
    relation = ledger.new("relation rows", b, width)
    time = ledger.new("time rows", b, width)
    full_relation = ledger.new("relation at its time", b, width)
    q = ledger.new("query q", b, width)
    return Encoding((q,), (head, relation, time, full_relation))


def encode_backward(ledger: Ledger, b: int, width: int) -> None:
    """Tell ``TNTComplEx.encode_backward`` on b examples."""
    ledger.passing("gradient of gathered rows", b, width)


def regularize(ledger: Ledger, b: int, width: int) -> Allocation:
    """Tell ``TNTComplEx.regularize`` on b examples; return the penalty, which lives on."""
    value = _regularize_rows(ledger, b, width)
    ledger.free(_regularize_rows(ledger, b, width))
    ledger.free(_regularize_rows(ledger, b, width))
    relation = ledger.new("relation rows", b, width)
    time = ledger.new("time rows", b, width)
    product = ledger.new("relation by time", b, width)
    penalty, gradient = regularizers.n3(ledger, b, width, is_complex=True)
    ledger.free(relation, time, product, gradient, penalty)
    return value


def _regularize_rows(ledger: Ledger, b: int, width: int) -> Allocation:
    factor = ledger.new("gathered rows", b, width)
    penalty, gradient = regularizers.n3(ledger, b, width, is_complex=True)
    ledger.free(factor, gradient)
    return penalty
