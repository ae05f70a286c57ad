# Its bytes are told by memplan/memory/programs/pairre.py.
"""The PairRE family: paired relation vectors with a static part, a temporal part or both.

The score of (h, r, t, τ) compares e_h ∘ r^H_τ with e_t ∘ r^T_τ, by default by −‖·‖₁ of the difference. PairRE: Chao et
al., ACL 2021, arXiv 2011.03798; static and temporal parts follow TNTComplEx (Lacroix et al., ICLR 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memplan.workload import Workload
from tkbc.models.base import Batch, Encoding, Model, add_rows, rows
from tkbc.models.regularizers import n3


class PairREFamily(Model):
    """The encoder that the three models share.

    The query is (a, w) with a = e_h ∘ r^H_τ and w = r^T_τ for the scores ``l1`` and ``l2``, and q = a ∘ w for ``dot``.
    N3 applies to e_h, the sum of the relation's vectors, and e_t, as the guide's learner does it; with ``n3_parts`` to
    e_h, e_t and each part of the relation at its time, as TNTComplEx has it: r^H, r^T, r^{H,t} ∘ τ, r^{T,t} ∘ τ.
    """

    @staticmethod
    def tables(workload: Workload) -> dict[str, int]:
        """Return the rows of each embedding table; every row holds d floats."""
        relations = 2 * workload.n_relations
        tables = {"entity": workload.n_entities}
        if workload.traits.is_static:
            tables |= {"relation_head": relations, "relation_tail": relations}
        if workload.traits.is_temporal:
            tables |= {"relation_head_temporal": relations, "relation_tail_temporal": relations}
            tables |= {"time": workload.n_timestamps}
        return tables

    def encode(self, batch: Batch) -> Encoding:
        """Return the query of (head, relation, ?, time)."""
        head = rows(self.entity, batch.head)
        time = rows(self.table("time"), batch.time) if self.traits.is_temporal else None
        head_relation, head_temporal = self._relation_at(time, "relation_head", batch.relation)
        w, tail_temporal = self._relation_at(time, "relation_tail", batch.relation)
        a = head * head_relation
        saved = (head, head_relation) if time is None else (head, head_relation, time, head_temporal, tail_temporal)
        if self.workload.score == "dot":
            return Encoding((a * w,), (a, w, *saved))
        return Encoding((a, w), saved)

    def _relation_at(self, time: Tensor | None, side: str, relation: Tensor) -> tuple[Tensor, Tensor]:
        """Return a side's relation vectors at their time, and the rows of its temporal part (if it has none, again).

        PairRE: r. TPairRE: r^t ∘ τ. TNTPairRE: r + r^t ∘ τ.
        """
        if time is None:
            static = rows(self.table(side), relation)
            return static, static
        temporal = rows(self.table(f"{side}_temporal"), relation)
        if self.traits.is_static:
            return rows(self.table(side), relation).addcmul_(temporal, time), temporal
        return temporal * time, temporal

    def encode_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through the encoder to the tables' gradients; overwrites its arguments."""
        saved = list(encoding.saved)
        if self.workload.score == "dot":
            a, w, *saved = saved
            (grad_q,) = grad_query
            grad_w, grad_a = a.mul_(grad_q), grad_q.mul_(w)
        else:
            grad_a, grad_w = grad_query
        head, head_relation, *temporal = saved
        add_rows(self.entity, batch.head, head_relation.mul_(grad_a))
        grad_head_relation = grad_a.mul_(head)
        if self.traits.is_static:
            add_rows(self.table("relation_head"), batch.relation, grad_head_relation)
            add_rows(self.table("relation_tail"), batch.relation, grad_w)
        if self.traits.is_temporal:
            time, head_temporal, tail_temporal = temporal
            grad_time = head_temporal.mul_(grad_head_relation).addcmul_(tail_temporal, grad_w)
            add_rows(self.table("time"), batch.time, grad_time)
            add_rows(self.table("relation_head_temporal"), batch.relation, grad_head_relation.mul_(time))
            add_rows(self.table("relation_tail_temporal"), batch.relation, grad_w.mul_(time))

    def encode_time(self, batch: Batch) -> Encoding:
        """Return the query (a, w) of (head, relation, tail, ?), for the scores ``l1`` and ``l2``.

        e_h ∘ r^H_τ − e_t ∘ r^T_τ = a − w ∘ τ with a = e_h ∘ r^H − e_t ∘ r^T and w = e_t ∘ r^{T,t} − e_h ∘ r^{H,t};
        without static parts a = 0.
        """
        head, tail = rows(self.entity, batch.head), rows(self.entity, batch.tail)
        head_temporal = rows(self.table("relation_head_temporal"), batch.relation)
        tail_temporal = rows(self.table("relation_tail_temporal"), batch.relation)
        saved: tuple[Tensor, ...] = (head, tail, head_temporal, tail_temporal)
        if self.traits.is_static:
            head_static = rows(self.table("relation_head"), batch.relation)
            tail_static = rows(self.table("relation_tail"), batch.relation)
            a = (head * head_static).addcmul_(tail, tail_static, value=-1)
            saved = (*saved, head_static, tail_static)
        else:
            a = torch.zeros_like(head)
        w = (tail * tail_temporal).addcmul_(head, head_temporal, value=-1)
        return Encoding((a, w), saved)

    def encode_time_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through ``encode_time`` to the tables' gradients; overwrites its arguments."""
        head, tail, head_temporal, tail_temporal, *static = encoding.saved
        grad_a, grad_w = grad_query
        grad_head, grad_tail = head_temporal.mul_(grad_w).neg_(), tail_temporal.mul_(grad_w)
        if static:
            head_static, tail_static = static
            grad_head.addcmul_(head_static, grad_a)
            grad_tail.addcmul_(tail_static, grad_a, value=-1)
        add_rows(self.entity, batch.head, grad_head)
        add_rows(self.entity, batch.tail, grad_tail)
        scratch = grad_head
        add_rows(self.table("relation_tail_temporal"), batch.relation, torch.mul(grad_w, tail, out=scratch))
        add_rows(self.table("relation_head_temporal"), batch.relation, grad_w.mul_(head).neg_())
        if static:
            add_rows(self.table("relation_head"), batch.relation, torch.mul(grad_a, head, out=scratch))
            add_rows(self.table("relation_tail"), batch.relation, grad_a.mul_(tail).neg_())

    def regularize(self, batch: Batch, weight: float) -> Tensor:
        """Return the batch's N3 penalty and add its gradient to the tables'."""
        value = self._regularize_rows(self.entity, batch.head, weight)
        if self.workload.n3_parts:
            for side in ("relation_head", "relation_tail"):
                if self.traits.is_static:
                    value.add_(self._regularize_rows(self.table(side), batch.relation, weight))
                if self.traits.is_temporal:
                    value.add_(self._regularize_at_time(self.table(f"{side}_temporal"), batch, weight))
            return value.add_(self._regularize_rows(self.entity, batch.tail, weight))
        relations = [self.table(name) for name in self.tables(self.workload) if name.startswith("relation")]
        factor = rows(relations[0], batch.relation)
        for table in relations[1:]:
            factor.add_(rows(table, batch.relation))
        penalty, grad_factor = n3(factor, weight, is_complex=False)
        for table in relations:
            add_rows(table, batch.relation, grad_factor)
        value.add_(penalty)
        del factor, penalty, grad_factor
        return value.add_(self._regularize_rows(self.entity, batch.tail, weight))

    def _regularize_at_time(self, table: nn.Parameter, batch: Batch, weight: float) -> Tensor:
        """Return the N3 penalty of r ∘ τ, r from the relation ``table``, and add its gradient to both tables'."""
        relation, time = rows(table, batch.relation), rows(self.table("time"), batch.time)
        product = relation * time
        penalty, grad = n3(product, weight, is_complex=False)
        add_rows(table, batch.relation, torch.mul(grad, time, out=product))
        add_rows(self.table("time"), batch.time, grad.mul_(relation))
        return penalty


class PairRE(PairREFamily):
    """−‖e_h ∘ r^H − e_t ∘ r^T‖₁: without time."""


class TPairRE(PairREFamily):
    """−‖e_h ∘ r^H_τ − e_t ∘ r^T_τ‖₁ with r^H_τ = r^{H,t} ∘ τ and r^T_τ = r^{T,t} ∘ τ."""

    # Every term is a product of three embeddings, scored by dot or L2 of six: at 1e-2 the gradients are smaller than
    # Adagrad's ε, and the loss stays at ln N.
    initial_scale = 1e-1


class TNTPairRE(PairREFamily):
    """−‖e_h ∘ r^H_τ − e_t ∘ r^T_τ‖₁ with r^H_τ = r^H + r^{H,t} ∘ τ and r^T_τ = r^T + r^{T,t} ∘ τ."""
