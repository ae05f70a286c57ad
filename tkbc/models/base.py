"""What every model is: a query encoder over embedding tables. The score against the entity table is not its concern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from memplan.catalog.recipes import Recipe
from memplan.workload import ModelTraits, Workload
from tkbc.models.regularizers import n3, smoothness
from tkbc.models.used import UsedRows
from tkbc.sharded import Processes
from tkbc.sharded.processes import add_to_own, gathered
from tkbc.tensors import each, in_any_order, named, torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class Batch(NamedTuple):
    """A micro-batch of examples as ids, each (b,) and int32; relations run over 2R, reciprocals included."""

    head: Tensor
    relation: Tensor
    tail: Tensor
    time: Tensor


class Encoding(NamedTuple):
    """A query for the score, tensors of (b, width), and what the backward of the encoder needs."""

    query: tuple[Tensor, ...]
    saved: tuple[Tensor, ...]


class Model(ABC):
    """Embedding tables with an encoder, its gradient and its regularizers, all written out.

    Gradients are written by hand and added straight into each table's one gradient table (``table.grad``), so that a
    step allocates nothing but what the encoder names; tests compare them with autograd in float64. All gradients are
    sums over examples until the trainer divides by the batch.
    """

    traits: ClassVar[ModelTraits]
    """What kind of model it is. A class that says so is a model that can be trained, by the class's name."""
    recipes: ClassVar[tuple[Recipe, ...]] = ()
    """How to train it; of several for the same dataset the first is the default."""
    initial_scale: ClassVar[float] = 1e-2
    """Standard deviation of the initial embeddings, where the user gives none."""

    entity: Tensor

    def __init__(
        self,
        workload: Workload,
        generator: torch.Generator | None = None,
        init_scale: float | None = None,
        library: Any = None,
        processes: Processes | None = None,
    ) -> None:
        """Make the tables, each an attribute of its name, by PyTorch or by another ``library`` of tensors.

        Where ``processes`` hold the entity table between them, ``entity`` is this one's own rows.
        """
        if library is None:
            import torch as library
        self.workload = workload
        self.processes = processes or Processes(workload)
        self.used: UsedRows | None = None
        """Where a step changes only the entities that it uses: their rows' gradient, in place of the table's."""
        self._tables: dict[str, Tensor] = {}
        scale = self.initial_scale if init_scale is None else init_scale
        for name, (n_rows, width) in self.tables(workload).items():
            own = self.processes.rows if name == "entity" else range(n_rows)
            table = library.empty((len(own), width), dtype=library.float32, device=workload.device)
            draw_rows(named(f"{name} table", table, "parameters"), own, n_rows, scale, generator)
            self._tables[name] = table
            setattr(self, name, table)

    @staticmethod
    @abstractmethod
    def tables(workload: Workload) -> dict[str, tuple[int, int]]:
        """Return the shape of each embedding table, by name; rows of entity, relation and time tables by their ids."""

    @abstractmethod
    def encode(self, batch: Batch) -> Encoding:
        """Return the query of (head, relation, ?, time)."""

    @abstractmethod
    def encode_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through the encoder to the tables' gradients; may overwrite its arguments."""

    @abstractmethod
    def encode_time(self, batch: Batch) -> Encoding:
        """Return the query of (head, relation, tail, ?), to be scored against the time table by the model's own score.

        Equal to the score of (head, relation, tail, τ) for every τ, up to what is the same for all of them.
        """

    @abstractmethod
    def encode_time_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through ``encode_time`` to the tables' gradients; may overwrite its arguments."""

    @abstractmethod
    def regularize(self, batch: Batch, weight: float) -> Tensor:
        """Return the batch's N3 penalty, weight · Σ |f|³ over its factors, and add its gradient to the tables'."""

    def table(self, name: str) -> Tensor:
        """Return one of the tables by name."""
        return self._tables[name]

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Return the tables with their names, always in one order."""
        return self._tables.items()

    def parameters(self) -> Iterable[Tensor]:
        """Return the tables, always in one order."""
        return self._tables.values()

    def gradients(self) -> Iterable[tuple[str, Tensor]]:
        """Return the tables' gradients with the tables' names; of used rows alone where the entities' is that."""
        for name, table in self._tables.items():
            if name == "entity" and self.used is not None:
                yield name, self.used.gradient
            else:
                yield name, gradient(table)

    def regularize_time(self, weight: float, *, no_time_emb: bool) -> Tensor:
        """Return the smoothness of consecutive timestamps and add its gradient; see ``regularizers.smoothness``."""
        time = self.table("time")
        n = len(time) - int(no_time_emb)
        return smoothness(time[:n], gradient(time)[:n], weight, is_complex=self.traits.is_complex)

    def entity_rows(self, ids: Tensor, name: str) -> Tensor:
        """Return a new tensor with the rows of the entity table that ``ids`` names, (b, width), whoever owns them."""
        found = gathered(self.processes, self.entity, ids, name)
        self.processes.sum_over_shards_(found)
        return found

    def add_entity_rows(self, ids: Tensor, values: Tensor) -> None:
        """Add ``values``, (b, width), to the rows of the entities' gradient that ``ids`` names.

        May overwrite ``values``.
        """
        if self.used is not None:
            self.used.add(ids, values)
        else:
            add_to_own(self.processes, gradient(self.entity), ids, values)

    def _regularize_entities(self, ids: Tensor, weight: float) -> Tensor:
        """Return the N3 penalty of the entities that ``ids`` names and add its gradient to the table's.

        Each process takes its own rows: those of others are 0 to it, and so are their penalty and gradient.
        """
        own = gathered(self.processes, self.entity, ids, "gathered rows")
        penalty, grad_factor = n3(own, weight, is_complex=self.traits.is_complex)
        self.add_entity_rows(ids, grad_factor)
        self.processes.sum_over_shards_(penalty)
        return penalty

    def _regularize_rows(self, table: Tensor, ids: Tensor, weight: float) -> Tensor:
        """Return the N3 penalty of the table's rows that ``ids`` names and add its gradient to the table's."""
        penalty, grad_factor = n3(rows(table, ids, "gathered rows"), weight, is_complex=self.traits.is_complex)
        add_rows(table, ids, grad_factor)
        return penalty

    def room_to_project(self) -> tuple[Tensor, Tensor]:
        """Return the rows to project, (n, width), and room for their norms, (n, 1): all entities, or room for the used.

        Those of used rows are read when they are projected.
        """
        projected = self.entity
        if self.used is not None:
            projected = named("used rows", projected.new_empty(tuple(self.used.gradient.shape)))
        return projected, named("norms of the entities", projected.new_empty((len(projected), 1)))

    def project(self, projected: Tensor, norms: Tensor) -> None:
        """Scale every entity, or every used one, to unit L2 norm (a zero row stays zero); allocates nothing."""
        if self.used is not None:
            torch.index_select(self.entity, 0, self.used.ids, out=projected)
        torch.linalg.vector_norm(projected, dim=1, keepdim=True, out=norms)
        projected.div_(norms.clamp_min_(1e-12))
        if self.used is not None:
            with in_any_order(self.entity):  # where an entity comes twice, both rows are the same
                self.entity.index_copy_(0, self.used.ids, projected)


DRAWN_ROWS = 4096
"""Rows of a table drawn at a time."""
_ALIKE = 16
"""On the CPU PyTorch draws this many normal numbers at a time: pieces of whole groups are what one piece would be."""


def draw_rows(own: Tensor, rows: range, n_rows: int, scale: float, generator: torch.Generator | None) -> None:
    """Fill ``own``, the given ``rows`` of a table of ``n_rows``, with normal numbers of standard deviation ``scale``.

    They are the same however the table is divided: everyone draws all rows, piece after piece, and keeps its own.
    """
    # The last piece takes what would be too little for one of its own.
    starts = range(0, max(1, n_rows - _ALIKE + 1), DRAWN_ROWS)
    last_start = starts[-1]
    scratch = None
    if len(rows) < n_rows:
        largest = max(min(n_rows, DRAWN_ROWS), n_rows - last_start)
        scratch = named("rows drawn", own.new_empty((largest, own.shape[1])))
    for start in each(starts, own):
        stop = n_rows if start == last_start else start + DRAWN_ROWS
        if scratch is None:
            own[start:stop].normal_(0.0, scale, generator=generator)
            continue
        drawn = scratch[: stop - start].normal_(0.0, scale, generator=generator)
        first, last = max(start, rows.start), min(stop, rows.stop)
        if first < last:
            own[first - rows.start : last - rows.start].copy_(drawn[first - start : last - start])


def rows(table: Tensor, ids: Tensor, name: str) -> Tensor:
    """Return a new tensor with the rows of ``table`` that ``ids`` names: (n, width) and (b,) give (b, width)."""
    return named(name, table.index_select(0, ids))


def gradient(table: Tensor) -> Tensor:
    """Return the table's gradient, which the trainer allocates once."""
    assert table.grad is not None, "the trainer allocates every gradient table before the first step"
    return table.grad


def add_rows(table: Tensor, ids: Tensor, values: Tensor) -> None:
    """Add ``values``, (b, width), to the rows of the table's gradient that ``ids`` names; repeats add up."""
    gradient(table).index_add_(0, ids, values)
