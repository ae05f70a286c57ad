"""One optimizer step, written so that every allocation in it is named: on PyTorch's tensors and on ghosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from memplan.workload import Workload, share_of
from tkbc.models import MODELS, Batch
from tkbc.models.base import Encoding, gradient
from tkbc.models.used import UsedRows
from tkbc.scoring import PairwiseScore
from tkbc.scoring.pairs import PairScore
from tkbc.sharded import Processes
from tkbc.step.loss import PhaseMarker, no_phase, softmax_cross_entropy
from tkbc.step.optimizers import make_optimizer
from tkbc.step.rowwise import RowWise
from tkbc.step.sampled import sampled_softmax_cross_entropy
from tkbc.tensors import each, named, torch

if TYPE_CHECKING:
    from torch import Tensor


def _nothing() -> None:
    pass


def columns_of(workload: Workload) -> int:
    """Return the numbers of an example: head, relation, tail, time, and whether its time is to be predicted."""
    return 5 if workload.predicts_time else 4


class Stepper:
    """A model, its optimizer and room for its training examples on one device, trained as ``workload`` says.

    The step's mathematics does not depend on the micro-batch, the chunk or the scoring: the loss and the embedding
    regularizer are summed over micro-batches and divided by the examples of the batch, a short last batch by its own;
    the time regularizer is added once a step.
    """

    def __init__(
        self,
        workload: Workload,
        score: PairwiseScore,
        library: Any,
        *,
        learning_rate: float,
        generator: torch.Generator | None = None,
        init_scale: float | None = None,
        processes: Processes | None = None,
        phase: PhaseMarker = no_phase,
    ) -> None:
        """Allocate what lives as long as training does. ``library``: ``torch``, or that of ghosts."""
        self.workload = workload
        self.processes = processes or Processes(workload)
        self.phase = phase
        self.score = score
        device = workload.device
        with phase("setup"):
            self.model = MODELS[workload.model](workload, generator, init_scale, library, self.processes)
            self._make_gradients(library)
            if workload.unit_norm:
                self.model.project(*self.model.room_to_project())
            if workload.negatives is not None:
                self.model.used = UsedRows(self.model.entity, workload, library)
            self.optimizer = make_optimizer(workload.optimizer, self.model, learning_rate, device, library)
            shape = (columns_of(workload), workload.n_examples)
            examples = library.empty(shape, dtype=library.int32, device=device)
            self.examples: Tensor = named("training examples", examples, "data")
            totals = library.zeros((2, 2), dtype=library.float64, device=device)
            self.totals: Tensor = named("totals of the epoch", totals, "data")
            """Sums over the epoch's finished steps, of loss and N3 penalty; below them, with the step under way."""
            if device == "cuda":
                # The first product allocates cuBLAS's workspace for good: here, not among a step's tensors.
                one = named("one", library.ones((1, 1), device=device))
                named("one times one", library.mm(one, one))
                del one
        self.steps = 0
        """Optimizer steps taken. With negatives the next step's are a function of it."""
        self._changed: Literal["nothing", "some", "all"] = "nothing"
        """The tables that the step under way has changed: an attempt failed in its update, or before its projection."""

    def _make_gradients(self, library: Any) -> None:
        """Allocate every table's gradient, but of the entities' where a step uses only some."""
        for name, table in self.model.named_parameters():
            if table is not self.model.entity or self.workload.negatives is None:
                table.grad = named(f"gradient of {name}", library.zeros_like(table), "gradients")

    def draw(self, into: Tensor) -> None:
        """Write the next step's negatives, all different, to ``into``; nothing, where there are no numbers."""

    @property
    def is_between_steps(self) -> bool:
        """Whether every table is whole: no step failed between its update and its projection."""
        return self._changed == "nothing"

    def step(
        self, order: Tensor, between: Callable[[], None] = _nothing, checking: Callable[[], None] = _nothing
    ) -> None:
        """Take one optimizer step on the examples that ``order`` names: B of them, or fewer at the end of an epoch.

        ``between`` is called between micro-batches, ``checking`` when the gradients are whole and no table has changed
        yet; what they raise gives the step up. A step that failed, whatever it was at, is taken by calling this again
        with the same ``order``: nothing is counted twice.
        """
        if self.is_between_steps:
            self._accumulate(order, between)
        with self.phase("optimizer"):
            self._update(len(order), checking)
        self.totals[0].copy_(self.totals[1])
        self.steps += 1
        self._changed = "nothing"

    def _update(self, n_examples: int, checking: Callable[[], None]) -> None:
        """Turn sums into the step's gradient, check it, and change the tables."""
        if self.is_between_steps:
            self._finish_gradients(n_examples)
            checking()
        # Allocated before the first change to a table, so that running out of memory never leaves half an update.
        to_project = self.model.room_to_project() if self.workload.unit_norm else None
        if self._changed != "all":
            self._step_optimizer()
            self._changed = "all"
        if to_project is not None:
            self.model.project(*to_project)

    def _step_optimizer(self) -> None:
        try:
            self.optimizer.step()
        except BaseException:
            if isinstance(self.optimizer, RowWise) and self.optimizer.has_begun:
                self._changed = "some"
            else:
                # The step counts may have been raised; the tables, changed all at once, have not.
                for state in self.optimizer.state.values():
                    if "step" in state:
                        state["step"].fill_(self.steps)
            raise

    def _accumulate(self, order: Tensor, between: Callable[[], None]) -> None:
        """Fill the gradient tables with sums over the step's examples."""
        processes = self.processes
        self._use_rows(order)
        for _, of_table in self.model.gradients():
            of_table.zero_()
        if processes.replicas == 1:
            self.totals[1].copy_(self.totals[0])
        else:
            self.totals[1].zero_()
        size = self.workload.micro_batch_size
        mine = share_of(len(order), processes.replicas, processes.replica)
        for start in each(range(mine.start, mine.stop, size), order):
            if start > mine.start:
                between()
            self._micro_batch(order[start : min(start + size, mine.stop)])
        if processes.replicas > 1:
            processes.sum_over_replicas_(self.totals[1])
            self.totals[1].add_(self.totals[0])

    def _finish_gradients(self, n_examples: int) -> None:
        """Turn sums into means over the step's examples and add the time regularizer."""
        workload = self.workload
        for _, of_table in self.model.gradients():
            self.processes.sum_over_replicas_(of_table)
            of_table.div_(n_examples)
        if workload.time_reg > 0:
            self.model.regularize_time(workload.time_reg, no_time_emb=workload.no_time_emb)

    def _use_rows(self, order: Tensor) -> None:
        """Draw the step's negatives and give them and the entities of the step's examples their places."""
        used = self.model.used
        if used is None:
            return
        with self.phase("draw"):
            self.draw(used.drawn_ids)
            heads, tails = (named("entities of a step", self.examples[at].index_select(0, order)) for at in (0, 2))
            used.use(heads, tails)

    def _micro_batch(self, order: Tensor) -> None:
        """Add one micro-batch's gradient, a sum over its examples, and its loss to the totals."""
        model, phase = self.model, self.phase
        with phase("encode"):
            ids = named("micro-batch ids", self.examples.index_select(1, order), "data")
            head, relation, tail, time, *dated = ids
            batch = Batch(head, relation, tail, time)
            encoding = model.encode(batch)
            labels = self._labels(batch)
        loss, grad_query = self._entity_loss(batch, encoding, labels)
        with phase("encode backward"):
            self.totals[1, 0].add_(loss)
            del loss, labels
            model.encode_backward(batch, encoding, grad_query)
            del encoding, grad_query
        if dated:
            self._predict_time(batch, dated[0])
        if self.workload.emb_reg > 0:
            with phase("regularize"):
                self.totals[1, 1].add_(model.regularize(batch, self.workload.emb_reg))

    def _labels(self, batch: Batch) -> Tensor:
        """Return the rows that the labels have in what is scored, (b,) int64: beyond it, where it lacks a label."""
        used = self.model.used
        tails = batch.tail if used is None else used.places_of(batch.tail)
        return named("labels", tails.long(), "data")

    def _entity_loss(self, batch: Batch, encoding: Encoding, labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss of a micro-batch and its gradient with respect to the query; add the entities' to theirs."""
        model, workload, used = self.model, self.workload, self.model.used
        if used is None:
            return softmax_cross_entropy(
                self.score,
                encoding.query,
                model.entity,
                labels,
                gradient(model.entity),
                chunk_size=workload.chunk_size,
                processes=self.processes,
                phase=self.phase,
            )
        with self.phase("score"):
            rows = model.entity_rows(batch.tail, "rows of the labels")
            own = PairScore(workload.score, workload.precision, encoding.query, rows)
            del rows
        loss, grad_query, grad_rows = sampled_softmax_cross_entropy(
            self.score,
            encoding.query,
            used.drawn,
            own,
            labels,
            used.drawn_gradient,
            n_entities=workload.n_entities,
            chunk_size=workload.chunk_size,
            phase=self.phase,
        )
        with self.phase("score backward"):
            used.add(batch.tail, grad_rows)
        return loss, grad_query

    def _predict_time(self, batch: Batch, dated: Tensor) -> None:
        """Add the time-prediction loss of one micro-batch and its gradient: −log softmax over all timestamps.

        Facts that are open at both ends have no time to predict; they weigh 0, so that memory does not follow the data.
        """
        model, phase = self.model, self.phase
        with phase("encode"):
            encoding = model.encode_time(batch)
            labels = named("labels", batch.time.long(), "data")
            weights = named("weights of the time loss", dated.to(model.entity.dtype), "data")
        times = model.table("time")
        loss, grad_query = softmax_cross_entropy(
            self.score,
            encoding.query,
            times,
            labels,
            gradient(times),
            chunk_size=self.workload.time_chunk_size,
            weights=weights,
            phase=phase,
        )
        with phase("encode backward"):
            self.totals[1, 0].add_(loss)
            del loss, labels, weights
            model.encode_time_backward(batch, encoding, grad_query)
