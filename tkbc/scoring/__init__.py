"""The pairwise scores, each in up to three scorings behind one function, ``make_score``.

A score takes a query, a tuple of (b, width) tensors, and rows of the entity table, (c, width), and gives (b, c):

    dot   q · e                        query (q,)
    l1    −Σ_k |a_k − w_k e_k|         query (a, w)
    l2    −Σ_k (a_k − w_k e_k)²        query (a, w)

``materialized`` scores all entities in plain PyTorch and keeps the graph, ``chunked`` does so a chunk of entities at a
time and recomputes in backward, ``fused`` builds no tensor larger than the scores. All three give the same numbers.

For a model of one's own: ``weighted_l1`` and ``softmax_cross_entropy``, differentiable operators on the fused l1 score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tkbc.scoring.choosing import PairwiseScore, make_score, score_without_kernels

if TYPE_CHECKING:
    from tkbc.scoring.operators import softmax_cross_entropy, weighted_l1

__all__ = ["PairwiseScore", "make_score", "score_without_kernels", "softmax_cross_entropy", "weighted_l1"]


def __getattr__(name: str) -> object:
    """Return an operator for one's own model; it is declared to PyTorch only where it is asked for."""
    if name in ("weighted_l1", "softmax_cross_entropy"):
        from tkbc.scoring import operators

        return getattr(operators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
