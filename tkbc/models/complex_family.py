# Its bytes are told by memplan/programs/complex_family.py.
"""TNTComplEx: complex vectors with a temporal and a static relation, scored by a dot product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memplan.workload import Workload
from tkbc.models.base import Batch, Encoding, Model, add_rows, rows
from tkbc.regularizers import n3


class TNTComplEx(Model):
    """Re⟨e_h, r ∘ τ + s, conj(e_t)⟩ over C^d (Lacroix et al., ICLR 2020, arXiv 2004.04926).

    A row holds d real parts, then d imaginary parts, so that with q = e_h · (r ∘ τ + s) the score is the plain dot
    product of two rows. N3 applies to the moduli of 2^(1/3) e_h, r ∘ τ, s and 2^(1/3) e_t, as in tkbc's own code.
    """

    score = "dot"
    is_complex = True

    relation: nn.Parameter
    relation_static: nn.Parameter

    @staticmethod
    def tables(workload: Workload) -> dict[str, int]:
        """Return the rows of each embedding table; every row holds 2d floats."""
        relations = 2 * workload.n_relations
        return {
            "entity": workload.n_entities,
            "relation": relations,
            "relation_static": relations,
            "time": workload.n_timestamps,
        }

    def encode(self, batch: Batch) -> Encoding:
        """Return the query (q,) of (head, relation, ?, time)."""
        head = rows(self.entity, batch.head)
        relation = rows(self.relation, batch.relation)
        time = rows(self.time, batch.time)
        full_relation = rows(self.relation_static, batch.relation)
        add_product(full_relation, relation, time)
        q = torch.zeros_like(head)
        add_product(q, head, full_relation)
        return Encoding((q,), (head, relation, time, full_relation))

    def encode_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through the encoder to the tables' gradients; overwrites its arguments."""
        head, relation, time, full_relation = encoding.saved
        (grad_q,) = grad_query
        out = torch.zeros_like(head)
        add_product(out, grad_q, full_relation, conjugate=True)
        add_rows(self.entity, batch.head, out)
        grad_full_relation = full_relation.zero_()
        add_product(grad_full_relation, grad_q, head, conjugate=True)
        add_rows(self.relation_static, batch.relation, grad_full_relation)
        add_product(out.zero_(), grad_full_relation, time, conjugate=True)
        add_rows(self.relation, batch.relation, out)
        add_product(out.zero_(), grad_full_relation, relation, conjugate=True)
        add_rows(self.time, batch.time, out)

    def regularize(self, batch: Batch, weight: float) -> Tensor:
        """Return the batch's N3 penalty and add its gradient to the tables'."""
        # (2^(1/3))³ = 2: the factor on the entities' moduli is a weight of 2 on their cubes.
        value = self._regularize_rows(self.entity, batch.head, 2 * weight)
        value.add_(self._regularize_rows(self.entity, batch.tail, 2 * weight))
        value.add_(self._regularize_rows(self.relation_static, batch.relation, weight))
        relation = rows(self.relation, batch.relation)
        time = rows(self.time, batch.time)
        product = torch.zeros_like(relation)
        add_product(product, relation, time)
        penalty, grad_product = n3(product, weight, is_complex=True)
        add_product(product.zero_(), grad_product, time, conjugate=True)
        add_rows(self.relation, batch.relation, product)
        add_product(product.zero_(), grad_product, relation, conjugate=True)
        add_rows(self.time, batch.time, product)
        return value.add_(penalty)

    def _regularize_rows(self, table: Tensor, ids: Tensor, weight: float) -> Tensor:
        penalty, grad_factor = n3(rows(table, ids), weight, is_complex=True)
        add_rows(table, ids, grad_factor)
        return penalty


def add_product(out: Tensor, x: Tensor, y: Tensor, *, conjugate: bool = False) -> None:
    """Add the complex product x ∘ y (x ∘ conj(y) with ``conjugate``) to ``out``; all (b, 2d), no temporary."""
    half = x.shape[1] // 2
    x_re, x_im, y_re, y_im = x[:, :half], x[:, half:], y[:, :half], y[:, half:]
    sign = -1.0 if conjugate else 1.0
    out[:, :half].addcmul_(x_re, y_re).addcmul_(x_im, y_im, value=-sign)
    out[:, half:].addcmul_(x_im, y_re).addcmul_(x_re, y_im, value=sign)
