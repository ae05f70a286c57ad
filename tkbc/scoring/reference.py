"""The scores as plain formulas: what every other implementation is tested against, and what a reader should read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from memplan.workload import Score

Formula = Callable[[tuple[Tensor, ...], Tensor], Tensor]


def dot(query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
    """Return q · e for every query and entity: (b, width) and (c, width) give (b, c)."""
    (q,) = query
    return q @ entities.T


def weighted_l1(query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
    """Return −Σ_k |a_k − w_k e_k| for every query (a, w) and entity e: (b, d), (b, d) and (c, d) give (b, c).

    The distance of PairRE (Chao et al., ACL 2021, arXiv 2011.03798). Builds (b, c, d) tensors, up to two at once
    without and three with gradients: the memory that this project exists to avoid.
    """
    a, w = query
    return -(a[:, None, :] - w[:, None, :] * entities).abs().sum(-1)


FORMULAS: dict[Score, Formula] = {"dot": dot, "l1": weighted_l1}
