"""The score of each query and one entity of its own, with its gradients: what is no table of scores.

Inputs are rounded where ``precision`` is a half one; everything after that is float32, as in the scores over tables.
With f = |·| or (·)², g = ∂L/∂s and D = −g f'(a − w·e):

    ``l1``, ``l2``   s = −Σ_k f(a_k − w_k e_k)   ∂a = D    ∂w = −D ∘ e    ∂e = −D ∘ w
    ``dot``          s = Σ_k q_k e_k             ∂q = g e  ∂e = g q
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memplan.workload import Precision, Score
from tkbc.scoring.rounded import HALF_TYPES
from tkbc.tensors import named, of_type

if TYPE_CHECKING:
    from torch import Tensor

    from memplan.memory.ledger import DType


class PairScore:
    """The scores of a batch of pairs, and after them their gradients.

    Shapes:
        query: tensors of (b, width); rows: (b, width), the entities'.
    """

    def __init__(self, score: Score, precision: Precision, query: tuple[Tensor, ...], rows: Tensor) -> None:
        self._score = score
        half = HALF_TYPES.get(precision)
        if half is not None:
            *query_, rows = (_rounded(tensor, half) for tensor in (*query, rows))
            query = tuple(query_)
        self._query, self._rows = query, rows
        self._difference = None
        if score == "dot":
            terms = named("terms of the pairs' scores", query[0] * rows)
        else:
            a, w = query
            self._difference = named("a − w · e of the pairs", a.clone()).addcmul_(w, rows, value=-1)
            terms = self._difference.abs() if score == "l1" else self._difference.square()
            terms = named("terms of the pairs' scores", terms).neg_()
        self.scores: Tensor = named("scores of the pairs", terms.sum(1))
        """(b,)."""

    def backward(self, grad_scores: Tensor, grad_query: tuple[Tensor, ...]) -> Tensor:
        """Add the gradient of Σ grad_scores · scores to ``grad_query``; return that of the rows, (b, width). Once."""
        of_row = grad_scores[:, None]
        if self._difference is None:
            grad_query[0].addcmul_(self._rows, of_row)
            return named("gradient of the pairs' rows", self._query[0] * of_row)
        slope = self._difference.sign_() if self._score == "l1" else self._difference.mul_(2)
        minus_d = slope.mul_(of_row)
        grad_a, grad_w = grad_query
        grad_a.sub_(minus_d)
        grad_w.addcmul_(minus_d, self._rows)
        return minus_d.mul_(self._query[1])


def _rounded(tensor: Tensor, half: DType) -> Tensor:
    in_half = named("pairs in half precision", tensor.to(of_type(tensor, half)))
    return named("pairs, rounded", in_half.to(tensor.dtype))
