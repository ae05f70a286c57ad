"""What TNTPairRE's tables and encoder allocate. The code whose bytes this tells: tkbc/models/pairre.py."""

from __future__ import annotations

from memplan.ledger import Allocation, Ledger
from memplan.programs import regularizers
from memplan.programs.encoder import Encoding
from memplan.workload import Workload


def tables(workload: Workload) -> dict[str, int]:
    """Return the rows of each embedding table; every row holds d floats."""
    relations = 2 * workload.n_relations
    return {
        "entity": workload.n_entities,
        "relation_head": relations,
        "relation_tail": relations,
        "relation_head_temporal": relations,
        "relation_tail_temporal": relations,
        "time": workload.n_timestamps,
    }


def encode(ledger: Ledger, b: int, width: int) -> Encoding:
    """Tell ``TNTPairRE.encode`` on b examples."""
    head = ledger.new("head rows", b, width)
    time = ledger.new("time rows", b, width)
    head_temporal = ledger.new("temporal head-relation rows", b, width)
    head_relation = ledger.new("head relation at its time", b, width)
    tail_temporal = ledger.new("temporal tail-relation rows", b, width)
    w = ledger.new("query w", b, width)
    a = ledger.new("query a", b, width)
    return Encoding((a, w), (head, time, head_temporal, head_relation, tail_temporal))


def encode_backward(ledger: Ledger, b: int, width: int) -> None:
    """Tell ``TNTPairRE.encode_backward``: everything is written over what is there."""


def regularize(ledger: Ledger, b: int, width: int) -> Allocation:
    """Tell ``TNTPairRE.regularize`` on b examples; return the penalty, which lives on."""
    value = _regularize_entity(ledger, b, width)
    factor = ledger.new("sum of relation rows", b, width)
    ledger.passing("relation rows", b, width)
    penalty, gradient = regularizers.n3(ledger, b, width, is_complex=False)
    ledger.free(factor, penalty, gradient)
    ledger.free(_regularize_entity(ledger, b, width))
    return value


def _regularize_entity(ledger: Ledger, b: int, width: int) -> Allocation:
    entity_rows = ledger.new("entity rows", b, width)
    penalty, gradient = regularizers.n3(ledger, b, width, is_complex=False)
    ledger.free(entity_rows, gradient)
    return penalty
