"""The processes that train together, as one of them sees them.

They form a mesh: ``shards`` processes hold the entity table between them, each a range of its rows with their gradient
and optimizer state, and ``replicas`` such groups take a part each of every batch. All other tables are everywhere, and
every process changes its copy in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memplan.workload import Workload
from tkbc.tensors import named, positions_in

if TYPE_CHECKING:
    from torch import Tensor


class Processes:
    """One process of a mesh that sends nothing: all there is, or one whose step runs on ghosts.

    A subclass sends; what is summed is the same afterwards in all that took part, to the last bit.
    """

    def __init__(self, workload: Workload) -> None:
        self.shards, self.replicas = workload.shards, workload.replicas
        self.rows = workload.own_entities
        """The rows of the entity table that are this process's own."""
        self.replica = workload.process // workload.shards

    @property
    def n(self) -> int:
        """How many there are."""
        return self.shards * self.replicas

    def sum_over_shards_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes that hold the entity table between them."""

    def largest_of_shards_(self, tensor: Tensor) -> None:
        """Replace each element of ``tensor`` by the largest over those processes."""

    def sum_over_replicas_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes that own the same rows."""

    def any(self, here: bool) -> bool:
        """Return whether ``here`` holds in any process: all ask at the same point of their work."""
        return here


def gathered(processes: Processes, own: Tensor, ids: Tensor, name: str) -> Tensor:
    """Return the rows of the entity table that ``ids`` names, and zeros for those that other processes own.

    Shapes:
        own: (n, width), the process's own rows; ids: (b,) of all entities; returns a new (b, width).
    """
    if processes.shards == 1:
        return named(name, own.index_select(0, ids))
    if len(processes.rows) == 0:
        return named(name, own.new_zeros((len(ids), own.shape[1])))
    position, inside = positions_in(ids, processes.rows.start, len(processes.rows))
    found = named(name, own.index_select(0, position))
    return found.masked_fill_(named("rows of other processes", ~inside)[:, None], 0.0)


def add_to_own(processes: Processes, own: Tensor, ids: Tensor, values: Tensor) -> None:
    """Add ``values``, (b, width), to the rows of ``own`` that ``ids`` names; other processes add to the others.

    Overwrites ``values`` where the table is split.
    """
    if processes.shards == 1:
        own.index_add_(0, ids, values)
    elif len(processes.rows) > 0:
        position, inside = positions_in(ids, processes.rows.start, len(processes.rows))
        values.masked_fill_(named("rows of other processes", ~inside)[:, None], 0.0)
        own.index_add_(0, position, values)


def over_all_shards_(processes: Processes, log_sum_exp: Tensor, label_score: Tensor) -> Tensor | None:
    """Turn a shard's log-sum-exp and its labels' scores, 0 for those of others, into those over all entities.

    With l_w of shard w and m the largest: log Σ_w exp l_w = m + log Σ_w exp(l_w − m). Sends 3 b numbers. Returns the
    shard's share of the sum of exponentials, (b,): probabilities over its own entities times this are those over all.
    None where the table is whole.

    Shapes:
        log_sum_exp, label_score: (b,), both overwritten.
    """
    if processes.shards == 1:
        return None
    largest = named("largest log-sum-exp of a shard", log_sum_exp.clone())
    processes.largest_of_shards_(largest)
    share = named("share of the sum of exponentials", log_sum_exp - largest).exp_()
    log_sum_exp.copy_(share)
    processes.sum_over_shards_(log_sum_exp)
    processes.sum_over_shards_(label_score)
    share.div_(log_sum_exp)
    log_sum_exp.log_().add_(largest)
    return share
