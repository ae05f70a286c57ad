# Its bytes are told by memplan/programs/pairre.py.
"""TNTPairRE: paired relation vectors with a static and a temporal part, scored by a weighted L1 distance."""

from __future__ import annotations

from torch import Tensor, nn

from memplan.workload import Workload
from tkbc.models.base import Batch, Encoding, Model, add_rows, rows
from tkbc.regularizers import n3


class TNTPairRE(Model):
    """−‖e_h ∘ r^H_τ − e_t ∘ r^T_τ‖₁ with r^H_τ = r^H + r^{H,t} ∘ τ and r^T_τ = r^T + r^{T,t} ∘ τ.

    The query is (a, w) with a = e_h ∘ r^H_τ and w = r^T_τ. PairRE: Chao et al., ACL 2021, arXiv 2011.03798; the
    static and temporal parts follow TNTComplEx. N3 applies to e_h, the sum of the four relation vectors, and e_t.
    """

    score = "l1"
    is_complex = False

    relation_head: nn.Parameter
    relation_tail: nn.Parameter
    relation_head_temporal: nn.Parameter
    relation_tail_temporal: nn.Parameter

    @staticmethod
    def tables(workload: Workload) -> dict[str, int]:
        """Return the rows of each embedding table; every row holds d floats."""
        relations = 2 * workload.n_relations
        return {
            "entity": workload.n_entities,
            "relation_head": relations,
            "relation_tail": relations,
            "relation_head_temporal": relations,
            "relation_tail_temporal": relations,
            "time": workload.n_timestamps,
        }

    def encode(self, batch: Batch) -> Encoding:
        """Return the query (a, w) of (head, relation, ?, time)."""
        head = rows(self.entity, batch.head)
        time = rows(self.time, batch.time)
        head_temporal = rows(self.relation_head_temporal, batch.relation)
        head_relation = rows(self.relation_head, batch.relation).addcmul_(head_temporal, time)
        tail_temporal = rows(self.relation_tail_temporal, batch.relation)
        w = rows(self.relation_tail, batch.relation).addcmul_(tail_temporal, time)
        a = head * head_relation
        return Encoding((a, w), (head, time, head_temporal, head_relation, tail_temporal))

    def encode_backward(self, batch: Batch, encoding: Encoding, grad_query: tuple[Tensor, ...]) -> None:
        """Add the gradient through the encoder to the tables' gradients; overwrites its arguments."""
        head, time, head_temporal, head_relation, tail_temporal = encoding.saved
        grad_a, grad_w = grad_query
        add_rows(self.entity, batch.head, head_relation.mul_(grad_a))
        grad_head_relation = grad_a.mul_(head)
        add_rows(self.relation_head, batch.relation, grad_head_relation)
        add_rows(self.relation_tail, batch.relation, grad_w)
        grad_time = head_temporal.mul_(grad_head_relation).addcmul_(tail_temporal, grad_w)
        add_rows(self.time, batch.time, grad_time)
        add_rows(self.relation_head_temporal, batch.relation, grad_head_relation.mul_(time))
        add_rows(self.relation_tail_temporal, batch.relation, grad_w.mul_(time))

    def regularize(self, batch: Batch, weight: float) -> Tensor:
        """Return the batch's N3 penalty and add its gradient to the tables'."""
        value = self._regularize_entity(batch.head, weight)
        relations = (
            self.relation_head,
            self.relation_tail,
            self.relation_head_temporal,
            self.relation_tail_temporal,
        )
        factor = rows(relations[0], batch.relation)
        for table in relations[1:]:
            factor.add_(rows(table, batch.relation))
        penalty, grad_factor = n3(factor, weight, is_complex=False)
        for table in relations:
            add_rows(table, batch.relation, grad_factor)
        value.add_(penalty)
        del factor, penalty, grad_factor
        return value.add_(self._regularize_entity(batch.tail, weight))

    def _regularize_entity(self, ids: Tensor, weight: float) -> Tensor:
        penalty, grad_factor = n3(rows(self.entity, ids), weight, is_complex=False)
        add_rows(self.entity, ids, grad_factor)
        return penalty
