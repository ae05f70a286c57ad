"""The scores as plain formulas: what every other implementation is tested against, and what a reader should read.

Inputs in half precision give float32 scores: the terms are computed as the inputs come, their sum in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from memplan.workload import Score

Formula = Callable[[tuple[Tensor, ...], Tensor], Tensor]


def dot(query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
    """Return q · e for every query and entity: (b, width) and (c, width) give (b, c)."""
    (q,) = query
    return q.to(_sum_type(q)) @ entities.to(_sum_type(q)).T


def weighted_l1(query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
    """Return −Σ_k |a_k − w_k e_k| for every query (a, w) and entity e: (b, d), (b, d) and (c, d) give (b, c).

    The distance of PairRE (Chao et al., ACL 2021, arXiv 2011.03798). Builds (b, c, d) tensors, up to two at once
    without and three with gradients: the memory that this project exists to avoid.
    """
    a, w = query
    return -(a[:, None, :] - w[:, None, :] * entities).abs().sum(-1, dtype=_sum_type(a))


def weighted_l2(query: tuple[Tensor, ...], entities: Tensor) -> Tensor:
    """Return −Σ_k (a_k − w_k e_k)², shapes as in ``weighted_l1``: the squared distance that the guide proposes."""
    a, w = query
    return -(a[:, None, :] - w[:, None, :] * entities).square().sum(-1, dtype=_sum_type(a))


def _sum_type(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


FORMULAS: dict[Score, Formula] = {"dot": dot, "l1": weighted_l1, "l2": weighted_l2}
