"""What every model is: a query encoder over embedding tables. The score against the entity table is not its concern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memplan.workload import Workload
from tkbc.models.regularizers import n3, smoothness


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


class Model(nn.Module, ABC):
    """Embedding tables with an encoder, its gradient and its regularizers, all written out.

    Gradients are written by hand and added straight into each table's one gradient table (``parameter.grad``), so that
    a step allocates nothing but what the encoder names; tests compare them with autograd in float64. All gradients are
    sums over examples until the trainer divides by the batch.
    """

    initial_scale: ClassVar[float] = 1e-2
    """Standard deviation of the initial embeddings, where the user gives none."""

    entity: nn.Parameter

    def __init__(
        self, workload: Workload, generator: torch.Generator | None = None, init_scale: float | None = None
    ) -> None:
        super().__init__()
        self.workload = workload
        self.traits = workload.traits
        for name, rows in self.tables(workload).items():
            table = torch.empty((rows, workload.width), dtype=torch.float32, device=workload.device)
            table.normal_(0.0, self.initial_scale if init_scale is None else init_scale, generator=generator)
            self.register_parameter(name, nn.Parameter(table))

    @staticmethod
    @abstractmethod
    def tables(workload: Workload) -> dict[str, int]:
        """Return the rows of each embedding table, by name."""

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

    def table(self, name: str) -> nn.Parameter:
        """Return one of the tables by name."""
        return self.get_parameter(name)

    def regularize_time(self, weight: float, *, no_time_emb: bool) -> Tensor:
        """Return the smoothness of consecutive timestamps and add its gradient; see ``regularizers.smoothness``."""
        time = self.table("time")
        n = len(time) - int(no_time_emb)
        return smoothness(time[:n], gradient(time)[:n], weight, is_complex=self.traits.is_complex)

    def _regularize_rows(self, table: nn.Parameter, ids: Tensor, weight: float) -> Tensor:
        """Return the N3 penalty of the table's rows that ``ids`` names and add its gradient to the table's."""
        penalty, grad_factor = n3(rows(table, ids), weight, is_complex=self.traits.is_complex)
        add_rows(table, ids, grad_factor)
        return penalty

    def new_norms(self) -> Tensor:
        """Return room for the norms of the entities, (N, 1)."""
        return self.entity.new_empty((len(self.entity), 1), requires_grad=False)

    def project(self, norms: Tensor) -> None:
        """Scale every entity to unit L2 norm (a zero row stays zero), by way of ``norms``; allocates nothing."""
        torch.linalg.vector_norm(self.entity, dim=1, keepdim=True, out=norms)
        self.entity.div_(norms.clamp_min_(1e-12))


def rows(table: Tensor, ids: Tensor) -> Tensor:
    """Return a new tensor with the rows of ``table`` that ``ids`` names: (n, width) and (b,) give (b, width)."""
    return table.index_select(0, ids)


def gradient(parameter: Tensor) -> Tensor:
    """Return the parameter's gradient table, which the trainer allocates once."""
    assert parameter.grad is not None, "the trainer allocates every gradient table before the first step"
    return parameter.grad


def add_rows(parameter: Tensor, ids: Tensor, values: Tensor) -> None:
    """Add ``values``, (b, width), to the rows of the parameter's gradient that ``ids`` names; repeats add up."""
    gradient(parameter).index_add_(0, ids, values)
