"""What the PairRE family's tables and encoder allocate. The code whose bytes this tells: tkbc/models/pairre.py."""

from __future__ import annotations

from memplan.memory.ledger import Allocation, Ledger
from memplan.memory.programs import regularizers
from memplan.memory.programs.encoder import Encoding
from memplan.memory.programs.rows import add_rows
from memplan.workload import Workload


def tables(workload: Workload) -> dict[str, int]:
    """Return the rows of each embedding table; every row holds d floats."""
    relations = 2 * workload.n_relations
    tables = {"entity": workload.n_entities}
    if workload.traits.is_static:
        tables |= {"relation_head": relations, "relation_tail": relations}
    if workload.traits.is_temporal:
        tables |= {"relation_head_temporal": relations, "relation_tail_temporal": relations}
        tables |= {"time": workload.n_timestamps}
    return tables


def encode(ledger: Ledger, workload: Workload, b: int) -> Encoding:
    """Tell ``PairREFamily.encode`` on b examples."""
    d = workload.width
    saved = [ledger.new("head rows", b, d)]
    if workload.traits.is_temporal:
        saved.append(ledger.new("time rows", b, d))
        saved.append(ledger.new("temporal head-relation rows", b, d))
    saved.append(ledger.new("head relation at its time", b, d))
    if workload.traits.is_temporal:
        saved.append(ledger.new("temporal tail-relation rows", b, d))
    w = ledger.new("query w", b, d)
    a = ledger.new("query a", b, d)
    if workload.score == "dot":
        return Encoding((ledger.new("query q = a ∘ w", b, d),), (*saved, a, w))
    return Encoding((a, w), tuple(saved))


def encode_backward(ledger: Ledger, workload: Workload, b: int) -> None:
    """Tell ``PairREFamily.encode_backward``: everything is written over what is there."""
    add_rows(ledger, workload, b, "entity", *(["time"] if workload.traits.is_temporal else []), "relation")


def encode_time(ledger: Ledger, workload: Workload, b: int) -> Encoding:
    """Tell ``PairREFamily.encode_time`` on b examples."""
    names = ["head rows", "tail rows", "temporal head-relation rows", "temporal tail-relation rows"]
    if workload.traits.is_static:
        names += ["static head-relation rows", "static tail-relation rows"]
    saved = tuple(ledger.new(name, b, workload.width) for name in names)
    query = tuple(ledger.new(f"query {name} for the time", b, workload.width) for name in ("a", "w"))
    return Encoding(query, saved)


def encode_time_backward(ledger: Ledger, workload: Workload, b: int) -> None:
    """Tell ``PairREFamily.encode_time_backward``: everything is written over what is there."""
    add_rows(ledger, workload, b, "entity", "relation")


def regularize(ledger: Ledger, workload: Workload, b: int) -> Allocation:
    """Tell ``PairREFamily.regularize`` on b examples; return the penalty, which lives on."""
    value = regularizers.rows(ledger, workload, b, "entity")
    if workload.n3_parts:
        for side in ("head", "tail"):
            if workload.traits.is_static:
                ledger.free(regularizers.rows(ledger, workload, b, "relation"))
            if workload.traits.is_temporal:
                _regularize_at_time(ledger, workload, b, side)
        ledger.free(regularizers.rows(ledger, workload, b, "entity"))
        return value
    factor = ledger.new("sum of relation rows", b, workload.width)
    ledger.passing("relation rows", b, workload.width)
    penalty, gradient = regularizers.n3(ledger, b, workload.width, is_complex=False)
    add_rows(ledger, workload, b, "relation")
    ledger.free(factor, penalty, gradient)
    ledger.free(regularizers.rows(ledger, workload, b, "entity"))
    return value


def _regularize_at_time(ledger: Ledger, workload: Workload, b: int, side: str) -> None:
    """Tell ``PairREFamily._regularize_at_time``, its penalty freed by the caller."""
    d = workload.width
    relation = ledger.new(f"temporal {side}-relation rows", b, d)
    time = ledger.new("time rows", b, d)
    product = ledger.new("relation part at its time", b, d)
    penalty, gradient = regularizers.n3(ledger, b, d, is_complex=False)
    add_rows(ledger, workload, b, "relation", "time")
    ledger.free(relation, time, product, gradient, penalty)
