"""The L1 score in plain PyTorch, a few entities at a time: for types that the fused kernels of a device do not take."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from tkbc.scoring.plain import Chunked
from tkbc.scoring.softmax_torch import TorchSoftmax

ELEMENTS = 2**24
"""Terms, (b, c, d), at a time: a tensor of 128 MiB in float64, of which three are alive at the peak."""


class SlicedL1(TorchSoftmax):
    """−Σ_k |a_k − w_k e_k| and its gradients in the inputs' own type, with bounded temporaries."""

    needs_buffer = True

    def __init__(self, elements: int = ELEMENTS) -> None:
        self.elements = elements
        self._plain = Chunked("l1")

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: nothing is kept)."""
        assert out is not None
        for part in self._slices(query[0], entities):
            self._plain.forward(query, entities[part], out[:, part], grad=grad)
        return out

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        for part in self._slices(query[0], entities):
            self._plain.backward(query, entities[part], grad_scores[:, part], grad_query, grad_entities[part])

    def _slices(self, a: Tensor, entities: Tensor) -> Iterator[slice]:
        size = max(1, self.elements // max(1, a.numel()))
        return (slice(start, start + size) for start in range(0, len(entities), size))
