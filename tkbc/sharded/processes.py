"""The processes that train together, as one of them sees them.

They form a mesh: ``shards`` processes hold the entity table between them, each a range of its rows with their gradient
and optimizer state, and ``replicas`` such groups take a part each of every batch. All other tables are everywhere, and
every process changes its copy in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from memplan.errors import FailedElsewhereError
from memplan.workload import Workload
from tkbc.tensors import named, positions_in

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Reduction = Literal["sum", "largest"]


class Processes:
    """One process of a mesh that sends nothing: all there is, or one whose step runs on ghosts.

    A subclass sends. What is summed is the same afterwards in all that took part, to the last bit. Tensors that die
    within a step are sent by way of room that lives as long as the run: a library that sends in the background may keep
    what it was given a little longer than the step does, and memory would differ from run to run.
    """

    def __init__(self, workload: Workload) -> None:
        self.index = workload.process
        self.shards, self.replicas = workload.shards, workload.replicas
        self.rows = workload.own_entities
        """The rows of the entity table that are this process's own."""
        self.shard, self.replica = workload.process % workload.shards, workload.process // workload.shards
        self.room: tuple[Tensor, ...] = ()
        """What lives as long as the run, for what is sent."""

    @property
    def n(self) -> int:
        """How many there are."""
        return self.shards * self.replicas

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.index == 0

    def make_room(self, workload: Workload, library: Any) -> None:
        """Allocate room for what is sent with these sizes, from the ``library`` of the step's tensors."""
        self.room = ()
        if self.shards > 1:
            n, device = workload.eval_batch_size, workload.device
            widest = max(workload.micro_batch_size, n) * workload.width
            rows = library.empty((widest,), dtype=library.float32, device=device)
            counts = library.empty((2 * n,), dtype=library.float64, device=device)
            self.room = (
                named("room for rows that are sent", rows, "data"),
                named("room for counts that are sent", counts, "data"),
            )

    def sum_over_shards_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes that hold the entity table between them."""
        if self.shards > 1:
            self._by_way_of_room(tensor, "sum")

    def largest_of_shards_(self, tensor: Tensor) -> None:
        """Replace each element of ``tensor`` by the largest over those processes."""
        if self.shards > 1:
            self._by_way_of_room(tensor, "largest")

    def _by_way_of_room(self, tensor: Tensor, how: Reduction) -> None:
        rows, counts = self.room
        room = (counts if tensor.element_size() == 8 else rows)[: tensor.numel()].view_as(tensor)
        room.copy_(tensor)
        self._reduce_over_shards_(room, how)
        tensor.copy_(room)

    def _reduce_over_shards_(self, tensor: Tensor, how: Reduction) -> None:
        pass

    def sum_over_replicas_(self, tensor: Tensor) -> None:
        """Replace ``tensor``, which lives as long as the run, by its sum over the processes that own the same rows."""

    def agree(self, *here: bool) -> tuple[bool, ...]:
        """Return which of these hold in any process: all ask at the same point of their work."""
        return here

    def together(self, action: Callable[[], T]) -> T:
        """Return what ``action`` returns, once it has succeeded in every process.

        Raises:
            FailedElsewhereError: it raised in another process; where it raised here, that.
        """
        try:
            result = action()
        except Exception:
            self.agree(True)
            raise
        (failed,) = self.agree(False)
        if failed:
            raise FailedElsewhereError
        return result


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
