"""Ways to score and to train that the fused kernel is compared with, each as its users would write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from memplan.workload import Workload

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(a, w, entities, labels) to the mean cross-entropy of −Σ_k |a_k − w_k e_k| over all entities."""
CHUNK = 2000
"""Entities that the code which the guide describes scores at a time."""


def scores(a: Tensor, w: Tensor, entities: Tensor) -> Tensor:
    """The formula, which builds (b, N, d) tensors."""
    return -(a[:, None, :] - w[:, None, :] * entities).abs().sum(-1)


def plain(a: Tensor, w: Tensor, entities: Tensor, labels: Tensor) -> Tensor:
    """Plain PyTorch."""
    return nn.functional.cross_entropy(scores(a, w, entities), labels)


def in_chunks(a: Tensor, w: Tensor, entities: Tensor, labels: Tensor) -> Tensor:
    """Chunks of entities whose graphs are all kept until the backward: the way that the guide's code takes."""
    parts = [scores(a, w, part) for part in entities.split(CHUNK)]
    return nn.functional.cross_entropy(torch.cat(parts, dim=1), labels)


def compiled() -> Loss:
    """torch.compile of plain PyTorch."""
    return torch.compile(plain)  # type: ignore[no-any-return]


def keops() -> Loss:
    """KeOps: a symbolic (b, N, d) expression, reduced without being built.

    Raises:
        ImportError: pykeops is not installed (pip install pykeops).
    """
    from pykeops.torch import LazyTensor

    def loss(a: Tensor, w: Tensor, entities: Tensor, labels: Tensor) -> Tensor:
        symbolic = LazyTensor(a[:, None, :]) - LazyTensor(w[:, None, :]) * LazyTensor(entities[None, :, :])
        log_sum_exp: Tensor = (-(symbolic.abs().sum(-1))).logsumexp(dim=1)[:, 0]
        return (log_sum_exp + (a - w * entities[labels]).abs().sum(-1)).mean()

    return loss


class Straightforward(nn.Module):
    """TNTPairRE as one would write it first: embeddings, autograd, and one of the losses above."""

    def __init__(self, workload: Workload, loss: Loss) -> None:
        super().__init__()
        relations = 2 * workload.n_relations
        self.loss = loss
        self.entity = nn.Embedding(workload.n_entities, workload.rank)
        self.relations = nn.ModuleList([nn.Embedding(relations, workload.rank) for _ in range(4)])
        self.time = nn.Embedding(workload.n_timestamps, workload.rank)
        for table in self.parameters():
            table.data *= 1e-2
        self.optimizer = torch.optim.Adagrad(self.parameters(), lr=0.1)

    def step(self, batch: Tensor) -> None:
        """One step: loss, N3, smoothness, backward, Adagrad, projection."""
        h, r, t, tau = batch
        time_rows = self.time(tau)
        head, tail, head_temporal, tail_temporal = (table(r) for table in self.relations)
        lhs = self.entity(h)
        a = lhs * (head + head_temporal * time_rows)
        w = tail + tail_temporal * time_rows
        factors = (lhs, head + tail + head_temporal + tail_temporal, self.entity(t))
        penalty = sum((factor.abs() ** 3).sum() for factor in factors) / len(h)
        loss = self.loss(a, w, self.entity.weight, t.long()) + 1e-3 * penalty
        difference = self.time.weight[1:] - self.time.weight[:-1]
        loss = loss + 1e-2 * (difference**2).sum() / len(difference)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.entity.weight /= self.entity.weight.norm(dim=1, keepdim=True)

    def persistent_bytes(self) -> int:
        """What lives on between steps: parameters, gradients, optimizer state."""
        state: list[Any] = [t for entry in self.optimizer.state.values() for t in entry.values()]
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        return sum(tensor.nbytes for tensor in [*self.parameters(), *gradients, *state])


def two_products(a: Tensor, w: Tensor, entities: Tensor, grad_scores: Tensor) -> tuple[Tensor, ...]:
    """a·Eᵀ + w·Eᵀ and its gradients by autograd: the ComplEx family's work at the same rank."""
    leaves = [tensor.detach().requires_grad_() for tensor in (a, w, entities)]
    product = leaves[0] @ leaves[2].T + leaves[1] @ leaves[2].T
    return torch.autograd.grad(product, leaves, grad_scores)


class TwoProductsInPlace:
    """The same into and onto tensors that are there: the best that matrix products can do."""

    def forward(self, query: tuple[Tensor, Tensor], entities: Tensor, out: Tensor) -> None:
        """Write the sum of both products."""
        a, w = query
        torch.mm(a, entities.T, out=out)
        out.addmm_(w, entities.T)

    def backward(
        self,
        query: tuple[Tensor, Tensor],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, Tensor],
        grad_entities: Tensor,
    ) -> None:
        """Add all gradients; both queries have the same one, which is computed for each as the ComplEx family does."""
        for part, gradient in zip(query, grad_query, strict=True):
            gradient.addmm_(grad_scores, entities)
            grad_entities.addmm_(grad_scores.T, part)
