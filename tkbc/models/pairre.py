"""The PairRE family: paired relation vectors with a static part, a temporal part or both.

The score of (h, r, t, τ) compares e_h ∘ r^H_τ with e_t ∘ r^T_τ, by default by −‖·‖₁ of the difference. PairRE: Chao et
al., ACL 2021, arXiv 2011.03798; static and temporal parts follow TNTComplEx (Lacroix et al., ICLR 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memplan.catalog.datasets import DEMO
from memplan.catalog.recipes import Reached, Recipe
from memplan.workload import ModelTraits, Workload
from tkbc.models.base import Batch, Encoding, Model, add_rows, rows
from tkbc.models.regularizers import n3
from tkbc.tensors import named, torch

if TYPE_CHECKING:
    from torch import Tensor


SETTINGS: dict[str, Any] = {
    "batch_size": 1000, "optimizer": "adagrad", "rank": 100, "emb_reg": 1e-2, "n3_parts": True, "time_reg": 1e-2,
    "unit_norm": False,
}  # fmt: skip
DEMO_SETTINGS = {**SETTINGS, "batch_size": 500}
STATIC = {"time_reg": 0.0}
GUIDE: dict[str, Any] = {"rank": 64, "optimizer": "adagrad", "emb_reg": 1e-5, "unit_norm": True}


class PairREFamily(Model):
    """The encoder that the three models share.

    The query is (a, w) with a = e_h ∘ r^H_τ and w = r^T_τ for the scores ``l1`` and ``l2``, and q = a ∘ w for ``dot``.
    N3 applies to e_h, the sum of the relation's vectors, and e_t, as the guide's learner does it; with ``n3_parts`` to
    e_h, e_t and each part of the relation at its time, as TNTComplEx has it: r^H, r^T, r^{H,t} ∘ τ, r^{T,t} ∘ τ.
    """

    @staticmethod
    def tables(workload: Workload) -> dict[str, tuple[int, int]]:
        """Return the shape of each embedding table; every row holds d floats."""
        d, relations = workload.width, (2 * workload.n_relations, workload.width)
        tables = {"entity": (workload.n_entities, d)}
        if workload.traits.is_static:
            tables |= {"relation_head": relations, "relation_tail": relations}
        if workload.traits.is_temporal:
            tables |= {"relation_head_temporal": relations, "relation_tail_temporal": relations}
            tables |= {"time": (workload.n_timestamps, d)}
        return tables

    def encode(self, batch: Batch) -> Encoding:
        """Return the query of (head, relation, ?, time)."""
        head = self.entity_rows(batch.head, "head rows")
        time = rows(self.table("time"), batch.time, "time rows") if self.traits.is_temporal else None
        head_relation, head_temporal = self._relation_at(time, "head", batch.relation, "head relation at its time")
        w, tail_temporal = self._relation_at(time, "tail", batch.relation, "query w")
        a = named("query a", head * head_relation)
        saved = (head, head_relation) if time is None else (head, head_relation, time, head_temporal, tail_temporal)
        if self.workload.score == "dot":
            return Encoding((named("query q = a ∘ w", a * w),), (a, w, *saved))
        return Encoding((a, w), saved)

    def _relation_at(self, time: Tensor | None, side: str, relation: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Return a side's relation vectors at their time, and the rows of its temporal part (if it has none, again).

        PairRE: r. TPairRE: r^t ∘ τ. TNTPairRE: r + r^t ∘ τ.
        """
        if time is None:
            static = rows(self.table(f"relation_{side}"), relation, name)
            return static, static
        temporal = rows(self.table(f"relation_{side}_temporal"), relation, f"temporal {side}-relation rows")
        if self.traits.is_static:
            return rows(self.table(f"relation_{side}"), relation, name).addcmul_(temporal, time), temporal
        return named(name, temporal * time), temporal

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
        self.add_entity_rows(batch.head, head_relation.mul_(grad_a))
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
        head, tail = self.entity_rows(batch.head, "head rows"), self.entity_rows(batch.tail, "tail rows")
        head_temporal, tail_temporal = (
            rows(self.table(f"relation_{side}_temporal"), batch.relation, f"temporal {side}-relation rows")
            for side in ("head", "tail")
        )
        saved: tuple[Tensor, ...] = (head, tail, head_temporal, tail_temporal)
        if self.traits.is_static:
            head_static, tail_static = (
                rows(self.table(f"relation_{side}"), batch.relation, f"static {side}-relation rows")
                for side in ("head", "tail")
            )
            a = named("query a for the time", head * head_static).addcmul_(tail, tail_static, value=-1)
            saved = (*saved, head_static, tail_static)
        else:
            a = named("query a for the time", torch.zeros_like(head))
        w = named("query w for the time", tail * tail_temporal).addcmul_(head, head_temporal, value=-1)
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
        self.add_entity_rows(batch.head, grad_head)
        self.add_entity_rows(batch.tail, grad_tail)
        scratch = grad_head
        add_rows(self.table("relation_tail_temporal"), batch.relation, torch.mul(grad_w, tail, out=scratch))
        add_rows(self.table("relation_head_temporal"), batch.relation, grad_w.mul_(head).neg_())
        if static:
            add_rows(self.table("relation_head"), batch.relation, torch.mul(grad_a, head, out=scratch))
            add_rows(self.table("relation_tail"), batch.relation, grad_a.mul_(tail).neg_())

    def regularize(self, batch: Batch, weight: float) -> Tensor:
        """Return the batch's N3 penalty and add its gradient to the tables'."""
        value = self._regularize_entities(batch.head, weight)
        if self.workload.n3_parts:
            for side in ("head", "tail"):
                if self.traits.is_static:
                    value.add_(self._regularize_rows(self.table(f"relation_{side}"), batch.relation, weight))
                if self.traits.is_temporal:
                    value.add_(self._regularize_at_time(side, batch, weight))
            return value.add_(self._regularize_entities(batch.tail, weight))
        relations = [self.table(name) for name in PairREFamily.tables(self.workload) if name.startswith("relation")]
        factor = rows(relations[0], batch.relation, "sum of relation rows")
        for table in relations[1:]:
            factor.add_(rows(table, batch.relation, "relation rows"))
        penalty, grad_factor = n3(factor, weight, is_complex=False)
        for table in relations:
            add_rows(table, batch.relation, grad_factor)
        value.add_(penalty)
        del factor, penalty, grad_factor
        return value.add_(self._regularize_entities(batch.tail, weight))

    def _regularize_at_time(self, side: str, batch: Batch, weight: float) -> Tensor:
        """Return the N3 penalty of a side's r ∘ τ and add its gradient to both tables'."""
        table = self.table(f"relation_{side}_temporal")
        relation = rows(table, batch.relation, f"temporal {side}-relation rows")
        time = rows(self.table("time"), batch.time, "time rows")
        product = named("relation part at its time", relation * time)
        penalty, grad = n3(product, weight, is_complex=False)
        add_rows(table, batch.relation, torch.mul(grad, time, out=product))
        add_rows(self.table("time"), batch.time, grad.mul_(relation))
        return penalty


class PairRE(PairREFamily):
    """−‖e_h ∘ r^H − e_t ∘ r^T‖₁: without time."""

    traits = ModelTraits(is_complex=False, is_static=True, is_temporal=False)
    recipes = (
        Recipe("demo", DEMO.name, "TNTPairRE's", {**DEMO_SETTINGS, **STATIC}, 0.2, 30, 0.248, cooldown=0.25),
        Recipe("plain", None, "TNTPairRE's", {**SETTINGS, **STATIC}, 0.2, 30, 0.462, cooldown=0.25),
    )


class TPairRE(PairREFamily):
    """−‖e_h ∘ r^H_τ − e_t ∘ r^T_τ‖₁ with r^H_τ = r^{H,t} ∘ τ and r^T_τ = r^{T,t} ∘ τ."""

    traits = ModelTraits(is_complex=False, is_static=False, is_temporal=True)
    recipes = (
        Recipe("demo", DEMO.name, "TNTPairRE's", DEMO_SETTINGS, 0.2, 30, 0.326, cooldown=0.25),
        Recipe("plain", None, "TNTPairRE's", SETTINGS, 0.2, 30, 0.507, cooldown=0.25),
    )
    # Every term is a product of three embeddings, scored by dot or L2 of six: at 1e-2 the gradients are smaller than
    # Adagrad's ε, and the loss stays at ln N.
    initial_scale = 1e-1


class TNTPairRE(PairREFamily):
    """−‖e_h ∘ r^H_τ − e_t ∘ r^T_τ‖₁ with r^H_τ = r^H + r^{H,t} ∘ τ and r^T_τ = r^T + r^{T,t} ∘ τ."""

    traits = ModelTraits(is_complex=False, is_static=True, is_temporal=True)
    recipes = (
        Recipe("demo", DEMO.name, "tried here", DEMO_SETTINGS, 0.2, 30, 0.373, cooldown=0.25),
        Recipe(
            "icews14", "ICEWS14", "docs/results.md",
            {**SETTINGS, "rank": 280, "emb_reg": 2.5e-2, "rules": True}, 0.4, 20, 0.631, cooldown=0.7,
        ),
        Recipe(
            "embeddings", "ICEWS14", "docs/results.md",
            {**SETTINGS, "rank": 280, "emb_reg": 2.5e-2}, 0.2, 90, 0.575, cooldown=0.25,
            variants=(
                Reached({"learning_rate": 0.3, "max_epochs": 40, "cooldown": 0.6}, 0.574, "docs/results.md; made once"),
                Reached({"rank": 800, "max_epochs": 14, "cooldown": 0.0}, 0.590, "docs/results.md; once, still rising"),
                Reached({"rank": 2000, "max_epochs": 14, "cooldown": 0.4}, 0.614, "docs/results.md; made once"),
            ),
        ),
        Recipe("plain", None, "docs/results.md", SETTINGS, 0.2, 30, 0.517, cooldown=0.25),
        Recipe(
            "guide", "ICEWS14", "the TNTPairRE memory guide",
            {**GUIDE, "batch_size": 256, "time_reg": 1e-4}, 1e-3, 100, 0.153,
        ),
        Recipe(
            "guide", "ICEWS05-15", "the TNTPairRE memory guide",
            {**GUIDE, "batch_size": 200, "time_reg": 1e-3}, 1e-3, 100,
        ),
        Recipe(
            "guide", "YAGO15K", "the TNTPairRE memory guide",
            {**GUIDE, "batch_size": 128, "time_reg": 1.0, "no_time_emb": True}, 1e-3, 100,
        ),
    )  # fmt: skip
