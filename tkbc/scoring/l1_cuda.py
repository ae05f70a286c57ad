"""The fused L1 score on CUDA without its kernels: sizes that decide its allocations, and the allocations.

The sizes follow from shapes alone, not from the GPU, so that a plan holds on any. This much needs neither PyTorch nor
Triton. l1_triton.py adds the kernels; without them it allocates the same and computes nothing, which is what the
planner asks of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tkbc.scoring.rounded import HALF_TYPES
from tkbc.scoring.softmax_torch import KernelSoftmax
from tkbc.tensors import named, of_type, torch

if TYPE_CHECKING:
    from torch import Tensor

    from memplan.workload import Precision

TILE = 64
"""Queries, and entities, of a program's tile."""
DIMENSIONS = 32
"""Dimensions of a program's tile of gradients."""
VECTOR = 4
"""Numbers loaded at once, so rows of inputs begin at multiples of it."""
PROGRAMS = 1024
"""Programs wanted of the backward to the queries: a large GPU runs some 500 at once, and a second round evens out."""
SPAN = 512
"""Entities that a part has at least: below, its partial sums cost more than it gains."""


def columns(n: int) -> int:
    """Return the columns of a transposed copy of n rows: whole tiles."""
    return -(-n // TILE) * TILE


def row_width(rank: int) -> int:
    """Return the numbers from one row of inputs to the next in the backward: whole vectors."""
    return -(-rank // VECTOR) * VECTOR


def parts_of(n_queries: int, n_entities: int, rank: int) -> int:
    """Return the parts into which the backward to the queries cuts the entities; their sums are added in order."""
    tiles = -(-n_queries // TILE) * -(-rank // DIMENSIONS)
    return max(1, min(PROGRAMS // tiles, n_entities // SPAN))


class L1OnCuda(KernelSoftmax):
    """−Σ_k |a_k − w_k e_k| and its gradients by kernels that a subclass adds.

    Inputs are rounded where ``precision`` is a half one; results and sums are float32.
    """

    needs_buffer = True

    def __init__(self, precision: Precision = "fp32") -> None:
        self.dtype = HALF_TYPES.get(precision, "float32")

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        assert out is not None
        a, w = query
        packed_a = self._transposed(a, "a")
        negative_w = self._transposed(w, "−w", negative=True)
        packed_e = self._transposed(entities, "entities")
        self._forward((packed_a, negative_w, packed_e), out, len(a), *entities.shape)
        return out

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores at the rounded inputs to ``grad_query`` and ``grad_entities``."""
        inputs = zip((*query, entities), ("a", "w", "entities"), strict=True)
        rows = tuple(self._rows(tensor, name) for tensor, name in inputs)
        grad_scores = grad_scores.contiguous()
        n_queries, n_entities, rank = len(grad_scores), *entities.shape
        parts = parts_of(n_queries, n_entities, rank)
        others = None
        if parts > 1:
            others = grad_scores.new_empty((parts - 1, 2, n_queries, rank))
            others = named("query gradients of the other parts", others)
        self._to_queries(rows, grad_scores, grad_query, others)
        del others
        self._to_entities(rows, grad_scores, grad_entities)

    def _transposed(self, tensor: Tensor, name: str, *, negative: bool = False) -> Tensor:
        """Return a copy, (rank, columns), rounded; what stands in columns beyond the rows is left as it comes."""
        packed = tensor.new_empty((tensor.shape[1], columns(len(tensor))), dtype=of_type(tensor, self.dtype))
        packed = named(f"{name}, transposed", packed)
        used = packed[:, : len(tensor)]
        if negative:
            torch.mul(tensor.T, -1, out=used)
        else:
            used.copy_(tensor.T)
        return packed

    def _rows(self, tensor: Tensor, name: str) -> Tensor:
        """Return the tensor, rounded, with rows that begin at whole vectors: itself where it is so already."""
        rank, dtype = tensor.shape[1], of_type(tensor, self.dtype)
        if tensor.dtype == dtype and rank % VECTOR == 0:
            return tensor.contiguous()
        rows = named(f"rows of {name}", tensor.new_empty((len(tensor), row_width(rank)), dtype=dtype))
        rows[:, :rank].copy_(tensor)
        return rows

    def _forward(
        self, packed: tuple[Tensor, Tensor, Tensor], out: Tensor, n_queries: int, n_entities: int, rank: int
    ) -> None:
        pass

    def _to_queries(
        self, rows: tuple[Tensor, ...], grad_scores: Tensor, grad_query: tuple[Tensor, ...], others: Tensor | None
    ) -> None:
        pass

    def _to_entities(self, rows: tuple[Tensor, ...], grad_scores: Tensor, grad_entities: Tensor) -> None:
        pass
