"""ContinuousPairRE: PairRE whose dimensions a relation lets fade in and out with time, a wave over the timestamps.

With the timestamp scaled to τ in [0, 1], two vectors W and b of all relations, and one number α_r in [0, 1] a relation:

    g = α_r · cos(W τ + b) + 1 − α_r        −‖g ∘ (e_h ∘ r^H − e_t ∘ r^T)‖₁

α_r = 0 is PairRE (Chao et al., ACL 2021, arXiv 2011.03798), α_r = 1 a wave alone. The gate goes into both parts of the
query, a = g ∘ e_h ∘ r^H and w = g ∘ r^T, so every score and scoring serves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memplan.catalog.recipes import Recipe
from memplan.workload import ModelTraits, Workload
from tkbc.models.base import Batch, Encoding, add_rows, gradient, rows
from tkbc.models.pairre import SETTINGS, STATIC, PairREFamily
from tkbc.tensors import named, torch

if TYPE_CHECKING:
    from torch import Tensor


class _Saved(NamedTuple):
    """What the backward needs, in the notation above; (b, d) where nothing else is said."""

    head: Tensor
    relation_head: Tensor
    head_part: Tensor
    """e_h ∘ r^H."""
    tail_part: Tensor
    """r^T."""
    alpha: Tensor
    """(b, 1)."""
    dip: Tensor
    """cos(Wτ + b) − 1."""
    sine: Tensor
    """sin(Wτ + b)."""
    gate: Tensor
    basis: Tensor
    """The factors of W and b, (2, b): τ, and ones."""


class ContinuousPairRE(PairREFamily):
    """−‖(e_h ∘ r^H − e_t ∘ r^T) ∘ (α_r · cos(Wτ + b) + 1 − α_r)‖₁, the timestamp as a number, not as a row.

    α_r is the logistic function of a number in the table ``relation_gate``; W and b are the rows of ``wave``. N3 is
    PairRE's: over e_h, the relation's vectors and e_t.
    """

    traits = ModelTraits(is_complex=False, is_static=True, is_temporal=False, is_continuous=True)
    recipes = (Recipe("plain", None, "PairRE's", {**SETTINGS, **STATIC}, 0.2, 30, cooldown=0.25),)

    @staticmethod
    def tables(workload: Workload) -> dict[str, tuple[int, int]]:
        """Return the shape of each embedding table: PairRE's, a number a relation, and two vectors."""
        gate = {"relation_gate": (2 * workload.n_relations, 1), "wave": (2, workload.width)}
        return PairREFamily.tables(workload) | gate

    def encode(self, batch: Batch) -> Encoding:
        """Return the query of (head, relation, ?, time)."""
        head = self.entity_rows(batch.head, "head rows")
        relation_head = rows(self.table("relation_head"), batch.relation, "head relation")
        head_part = named("head at its relation", head * relation_head)
        tail_part = rows(self.table("relation_tail"), batch.relation, "tail relation")
        alpha = rows(self.table("relation_gate"), batch.relation, "alpha").sigmoid_()
        basis = self._basis(batch.time)
        sine = named("phase of the wave", torch.mm(basis.T, self.table("wave")))
        dip = named("cosine less one", sine.cos()).sub_(1)
        sine.sin_()
        gate = named("gate", dip * alpha).add_(1)
        a, w = named("query a", head_part * gate), named("query w", tail_part * gate)
        saved = _Saved(head, relation_head, head_part, tail_part, alpha, dip, sine, gate, basis)
        if self.workload.score == "dot":
            return Encoding((named("query q = a ∘ w", a * w),), (*saved, a, w))
        return Encoding((a, w), tuple(saved))

    def _basis(self, time: Tensor) -> Tensor:
        """Return τ and ones, (2, b): the timestamps scaled to [0, 1]."""
        basis = named("time scaled, and ones", self.entity.new_ones((2, len(time))))
        basis[0].copy_(time).div_(max(1, self.workload.n_timestamps - 1))
        return basis

    def encode_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through the encoder to the tables' gradients; overwrites its arguments."""
        saved = _Saved(*encoding.saved[: len(_Saved._fields)])
        if self.workload.score == "dot":
            *_, a, w = encoding.saved
            (grad_q,) = grad_query
            grad_w, grad_a = a.mul_(grad_q), grad_q.mul_(w)
        else:
            grad_a, grad_w = grad_query
        grad_gate = saved.head_part.mul_(grad_a).addcmul_(saved.tail_part, grad_w)
        grad_a.mul_(saved.gate)
        add_rows(self.table("relation_tail"), batch.relation, grad_w.mul_(saved.gate))
        self.add_entity_rows(batch.head, saved.relation_head.mul_(grad_a))
        add_rows(self.table("relation_head"), batch.relation, grad_a.mul_(saved.head))
        # ∂α = Σ_k ∂g ∘ (cos − 1), and ∂α / ∂(what the table holds) = α (1 − α)
        grad_alpha = named("gradient of alpha", saved.dip.mul_(grad_gate).sum(1))[:, None]
        grad_alpha.mul_(saved.alpha)
        add_rows(self.table("relation_gate"), batch.relation, grad_alpha.addcmul_(grad_alpha, saved.alpha, value=-1))
        # ∂(Wτ + b) = −α ∘ sin ∘ ∂g
        grad_phase = grad_gate.mul_(saved.sine).mul_(saved.alpha)
        gradient(self.table("wave")).addmm_(saved.basis, grad_phase, alpha=-1)
