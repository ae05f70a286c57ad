"""What the ComplEx family's tables and encoder allocate.

The code whose bytes this tells: tkbc/models/complex_family.py.
"""

from __future__ import annotations

from memplan.memory.ledger import Allocation, Ledger
from memplan.memory.programs import regularizers
from memplan.memory.programs.encoder import Encoding
from memplan.memory.programs.rows import add_rows
from memplan.workload import Workload


def tables(workload: Workload) -> dict[str, int]:
    """Return the rows of each embedding table; every row holds 2d floats."""
    relations = 2 * workload.n_relations
    tables = {"entity": workload.n_entities, "relation": relations}
    if workload.traits.is_static and workload.traits.is_temporal:
        tables |= {"relation_static": relations}
    if workload.traits.is_temporal:
        tables |= {"time": workload.n_timestamps}
    return tables


def encode(ledger: Ledger, workload: Workload, b: int) -> Encoding:
    """Tell ``ComplExFamily.encode`` on b examples."""
    width = workload.width
    saved = [ledger.new("head rows", b, width), ledger.new("relation rows", b, width)]
    if workload.traits.is_temporal:
        saved.append(ledger.new("time rows", b, width))
        saved.append(ledger.new("relation at its time", b, width))
    return Encoding((ledger.new("query q", b, width),), tuple(saved))


def encode_backward(ledger: Ledger, workload: Workload, b: int) -> None:
    """Tell ``ComplExFamily.encode_backward`` on b examples."""
    with ledger.temporary("gradient of gathered rows", b, workload.width):
        add_rows(ledger, workload, b, "entity", "relation", *(["time"] if workload.traits.is_temporal else []))


def encode_time(ledger: Ledger, workload: Workload, b: int) -> Encoding:
    """Tell ``ComplExFamily.encode_time`` on b examples."""
    width = workload.width
    names = ("head rows", "relation rows", "tail rows", "head by relation")
    saved = tuple(ledger.new(name, b, width) for name in names)
    return Encoding((ledger.new("query q for the time", b, width),), saved)


def encode_time_backward(ledger: Ledger, workload: Workload, b: int) -> None:
    """Tell ``ComplExFamily.encode_time_backward`` on b examples."""
    with ledger.temporary("gradient of gathered rows", b, workload.width):
        add_rows(ledger, workload, b, "entity", "relation")


def regularize(ledger: Ledger, workload: Workload, b: int) -> Allocation:
    """Tell ``ComplExFamily.regularize`` on b examples; return the penalty, which lives on."""
    width = workload.width
    value = regularizers.rows(ledger, workload, b, "entity")
    ledger.free(regularizers.rows(ledger, workload, b, "entity"))
    if workload.traits.is_static:
        ledger.free(regularizers.rows(ledger, workload, b, "relation"))
    if workload.traits.is_temporal:
        relation = ledger.new("relation rows", b, width)
        time = ledger.new("time rows", b, width)
        product = ledger.new("relation by time", b, width)
        penalty, gradient = regularizers.n3(ledger, b, width, is_complex=True)
        add_rows(ledger, workload, b, "relation", "time")
        ledger.free(relation, time, product, gradient, penalty)
    return value
