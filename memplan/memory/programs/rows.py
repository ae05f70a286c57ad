"""What adding rows to a gradient table allocates. The code whose bytes this tells: tkbc/models/base.py."""

from __future__ import annotations

from memplan.memory.ledger import Ledger
from memplan.memory.operators import passes
from memplan.workload import Workload


def add_rows(ledger: Ledger, workload: Workload, b: int, *tables: str) -> None:
    """Tell ``add_rows`` of b rows to each table, one after another; "relation…" names any relation table."""
    if not workload.deterministic:
        return
    highest = {"entity": workload.n_entities, "time": workload.n_timestamps}
    for table in tables:
        n_rows = highest.get(table, 2 * workload.n_relations)
        passes(ledger, "deterministic index_add_", b, workload.width, n_rows)
