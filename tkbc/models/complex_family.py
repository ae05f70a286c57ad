"""The ComplEx family: complex vectors with a static relation, a temporal one or both, scored by a dot product.

ComplEx: Trouillon et al., ICML 2016, arXiv 1606.06357. TComplEx and TNTComplEx: Lacroix et al., ICLR 2020, arXiv
2004.04926.
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
    "batch_size": 1000, "optimizer": "adagrad", "rank": 156, "emb_reg": 1e-2, "time_reg": 1e-2
}  # fmt: skip
DEMO_SETTINGS = {**SETTINGS, "batch_size": 500, "rank": 50}
STATIC = {"time_reg": 0.0}
TKBC = "tkbc's README (Lacroix et al., ICLR 2020)"


class ComplExFamily(Model):
    """The encoder that the three models share: Re⟨e_h, ρ, conj(e_t)⟩ over C^d with ρ the relation at its time.

    A row holds d real parts, then d imaginary parts, so that with q = e_h · ρ the score is the plain dot product of two
    rows. N3 applies to the moduli of e_h, of ρ's parts, each by itself, and of e_t, with tkbc's own factors.
    """

    entity_factor = 1.0
    """Factor on the cubes of the entities' moduli."""

    @staticmethod
    def tables(workload: Workload) -> dict[str, tuple[int, int]]:
        """Return the shape of each embedding table; every row holds 2d floats."""
        relations = (2 * workload.n_relations, workload.width)
        tables = {"entity": (workload.n_entities, workload.width), "relation": relations}
        if workload.traits.is_static and workload.traits.is_temporal:
            tables |= {"relation_static": relations}
        if workload.traits.is_temporal:
            tables |= {"time": (workload.n_timestamps, workload.width)}
        return tables

    def encode(self, batch: Batch) -> Encoding:
        """Return the query (q,) of (head, relation, ?, time)."""
        head = self.entity_rows(batch.head, "head rows")
        relation = rows(self.table("relation"), batch.relation, "relation rows")
        temporal: tuple[Tensor, ...] = ()
        full_relation = relation
        if self.traits.is_temporal:
            time = rows(self.table("time"), batch.time, "time rows")
            name = "relation at its time"
            if self.traits.is_static:
                full_relation = rows(self.table("relation_static"), batch.relation, name)
            else:
                full_relation = named(name, torch.zeros_like(relation))
            add_product(full_relation, relation, time)
            temporal = (relation, time)
        q = named("query q", torch.zeros_like(head))
        add_product(q, head, full_relation)
        return Encoding((q,), (head, full_relation, *temporal))

    def encode_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through the encoder to the tables' gradients; overwrites its arguments."""
        head, full_relation, *temporal = encoding.saved
        (grad_q,) = grad_query
        out = named("gradient of gathered rows", torch.zeros_like(head))
        add_product(out, grad_q, full_relation, conjugate=True)
        self.add_entity_rows(batch.head, out)
        grad_full_relation = full_relation.zero_()
        add_product(grad_full_relation, grad_q, head, conjugate=True)
        if not self.traits.is_temporal:
            add_rows(self.table("relation"), batch.relation, grad_full_relation)
            return
        if self.traits.is_static:
            add_rows(self.table("relation_static"), batch.relation, grad_full_relation)
        relation, time = temporal
        self._add_product_rows(batch, relation, time, grad_full_relation, out)

    def encode_time(self, batch: Batch) -> Encoding:
        """Return the query (q,) of (head, relation, tail, ?): q = conj(e_h ∘ r) ∘ e_t, so that q · τ = Re⟨e_h, r ∘ τ,
        conj(e_t)⟩.

        TNTComplEx's static term is the same for all timestamps of an example: a softmax over them does not see it.
        """
        head = self.entity_rows(batch.head, "head rows")
        relation = rows(self.table("relation"), batch.relation, "relation rows")
        tail = self.entity_rows(batch.tail, "tail rows")
        product = named("head by relation", torch.zeros_like(head))
        add_product(product, head, relation)
        q = named("query q for the time", torch.zeros_like(head))
        add_product(q, tail, product, conjugate=True)
        return Encoding((q,), (head, relation, tail, product))

    def encode_time_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through ``encode_time`` to the tables' gradients; overwrites its arguments."""
        head, relation, tail, product = encoding.saved
        (grad_q,) = grad_query
        out = named("gradient of gathered rows", torch.zeros_like(head))
        add_product(out, grad_q, product)
        self.add_entity_rows(batch.tail, out)
        # q = e_t ∘ conj(p) gives ∂p = e_t ∘ conj(∂q).
        grad_product = product.zero_()
        add_product(grad_product, tail, grad_q, conjugate=True)
        add_product(out.zero_(), grad_product, relation, conjugate=True)
        self.add_entity_rows(batch.head, out)
        add_product(out.zero_(), grad_product, head, conjugate=True)
        add_rows(self.table("relation"), batch.relation, out)

    def regularize(self, batch: Batch, weight: float) -> Tensor:
        """Return the batch's N3 penalty and add its gradient to the tables'."""
        value = self._regularize_entities(batch.head, self.entity_factor * weight)
        value.add_(self._regularize_entities(batch.tail, self.entity_factor * weight))
        if not self.traits.is_temporal:
            return value.add_(self._regularize_rows(self.table("relation"), batch.relation, weight))
        if self.traits.is_static:
            value.add_(self._regularize_rows(self.table("relation_static"), batch.relation, weight))
        relation = rows(self.table("relation"), batch.relation, "relation rows")
        time = rows(self.table("time"), batch.time, "time rows")
        product = named("relation by time", torch.zeros_like(relation))
        add_product(product, relation, time)
        penalty, grad_product = n3(product, weight, is_complex=True)
        self._add_product_rows(batch, relation, time, grad_product, product)
        return value.add_(penalty)

    def _add_product_rows(self, batch: Batch, relation: Tensor, time: Tensor, grad: Tensor, out: Tensor) -> None:
        """Add the gradient of relation ∘ time to both tables' gradients; overwrites ``out``."""
        add_product(out.zero_(), grad, time, conjugate=True)
        add_rows(self.table("relation"), batch.relation, out)
        add_product(out.zero_(), grad, relation, conjugate=True)
        add_rows(self.table("time"), batch.time, out)


class ComplEx(ComplExFamily):
    """Re⟨e_h, r, conj(e_t)⟩: without time. N3 over |e_h|, |r|, |e_t|."""

    traits = ModelTraits(is_complex=True, is_static=True, is_temporal=False)
    recipes = (
        Recipe("demo", DEMO.name, "TNTComplEx's", {**DEMO_SETTINGS, **STATIC}, 0.1, 30, 0.275),
        Recipe("tkbc", None, "TNTComplEx's", {**SETTINGS, **STATIC}, 0.1, 50, 0.468),
    )
    initial_scale = 1e-3


class TComplEx(ComplExFamily):
    """Re⟨e_h, r ∘ τ, conj(e_t)⟩. N3 over |e_h|, |r ∘ τ|, |e_t|."""

    traits = ModelTraits(is_complex=True, is_static=False, is_temporal=True)
    recipes = (
        Recipe("demo", DEMO.name, "TNTComplEx's", DEMO_SETTINGS, 0.1, 30, 0.428),
        Recipe("tkbc", None, "TNTComplEx's", SETTINGS, 0.1, 50, 0.561),
    )


class TNTComplEx(ComplExFamily):
    """Re⟨e_h, r ∘ τ + s, conj(e_t)⟩. N3 over 2^(1/3) |e_h|, |r ∘ τ|, |s| and 2^(1/3) |e_t|."""

    traits = ModelTraits(is_complex=True, is_static=True, is_temporal=True)
    recipes = (
        Recipe("demo", DEMO.name, "tried here", DEMO_SETTINGS, 0.1, 30, 0.416),
        Recipe("tkbc", None, TKBC, SETTINGS, 0.1, 50, 0.562),
        Recipe(
            "tkbc-1560", "ICEWS14", "tkbc's author, on its issue tracker: test MRR 0.62",
            {**SETTINGS, "rank": 1560, "emb_reg": 5e-3}, 0.1, 100,
            variants=(Reached({"max_epochs": 10}, 0.6045, "docs/results.md; made twice"),),
        ),
    )  # fmt: skip
    entity_factor = 2.0  # (2^(1/3))³


def add_product(out: Tensor, x: Tensor, y: Tensor, *, conjugate: bool = False) -> None:
    """Add the complex product x ∘ y (x ∘ conj(y) with ``conjugate``) to ``out``; all (b, 2d), no temporary."""
    (re, im), (x_re, x_im), (y_re, y_im) = (tensor.chunk(2, 1) for tensor in (out, x, y))
    sign = -1.0 if conjugate else 1.0
    re.addcmul_(x_re, y_re).addcmul_(x_im, y_im, value=-sign)
    im.addcmul_(x_im, y_re).addcmul_(x_re, y_im, value=sign)
