"""Half precision: the score's inputs are rounded to bfloat16 or float16, everything after that is float32.

Parameters, optimizer state, scores and gradients stay float32, so nothing underflows and no loss scaling is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memplan.workload import Precision
from tkbc.tensors import named, of_type

if TYPE_CHECKING:
    from torch import Tensor

    from memplan.memory.ledger import DType
    from tkbc.scoring.choosing import PairwiseScore

HALF_TYPES: dict[Precision, DType] = {"bf16": "bfloat16", "fp16": "float16"}


class Rounded:
    """A score that is given its inputs rounded, as float32 again: nothing saved, the same results as in half precision.

    The fused L1 score on CUDA is not wrapped: it rounds by itself, into copies that it needs anyway.
    """

    def __init__(self, inner: PairwiseScore, precision: Precision) -> None:
        self.inner = inner
        self.dtype = HALF_TYPES[precision]

    @property
    def needs_buffer(self) -> bool:
        """Whether ``forward`` writes into the ``out`` that it is given."""
        return self.inner.needs_buffer

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Return the (b, c) scores of the rounded inputs."""
        rounded = tuple(self._round(q, "query") for q in query)
        return self.inner.forward(rounded, self._round(entities, "entities"), out, grad=grad)

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients at the rounded inputs to ``grad_query`` and ``grad_entities``."""
        rounded = tuple(self._round(q, "query") for q in query)
        self.inner.backward(rounded, self._round(entities, "entities"), grad_scores, grad_query, grad_entities)

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores into probabilities, in place; return its log-sum-exp, (b,)."""
        return self.inner.softmax_(scores)

    @property
    def keeps_scores(self) -> bool:
        """Whether the scores outlive ``log_sum_exp_``."""
        return self.inner.keeps_scores

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,)."""
        return self.inner.log_sum_exp_(scores)

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores into exp(score − shift of its row), in place."""
        self.inner.exp_(scores, shift)

    def forget(self) -> None:
        """Free what a forward kept for its backward."""
        self.inner.forget()

    def _round(self, tensor: Tensor, name: str) -> Tensor:
        half = named(f"{name} in half precision", tensor.to(of_type(tensor, self.dtype)))
        return named(f"{name}, rounded", half.to(tensor.dtype))
