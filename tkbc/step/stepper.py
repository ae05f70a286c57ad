"""One optimizer step, written so that every allocation in it is named: on PyTorch's tensors and on ghosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memplan.workload import Workload, share_of
from tkbc.models import MODELS, Batch
from tkbc.models.base import gradient
from tkbc.scoring import PairwiseScore
from tkbc.sharded import Processes
from tkbc.step.loss import PhaseMarker, no_phase, softmax_cross_entropy
from tkbc.step.optimizers import make_optimizer
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
            for name, table in self.model.named_parameters():
                table.grad = named(f"gradient of {name}", library.zeros_like(table), "gradients")
            if workload.unit_norm:
                self.model.project(self.model.new_norms())
            tables = self.model.named_parameters()
            self.optimizer = make_optimizer(workload.optimizer, tables, learning_rate, device, library)
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
        """Optimizer steps taken."""
        self._updated = False
        """The step under way has changed the tables already: an attempt failed between update and projection."""

    @property
    def is_between_steps(self) -> bool:
        """Whether every table is whole: no step failed between its update and its projection."""
        return not self._updated

    def step(
        self, order: Tensor, between: Callable[[], None] = _nothing, checking: Callable[[], None] = _nothing
    ) -> None:
        """Take one optimizer step on the examples that ``order`` names: B of them, or fewer at the end of an epoch.

        ``between`` is called between micro-batches, ``checking`` when the gradients are whole and no table has changed
        yet; what they raise gives the step up. A step that failed, whatever it was at, is taken by calling this again
        with the same ``order``: nothing is counted twice.
        """
        if not self._updated:
            self._accumulate(order, between)
        with self.phase("optimizer"):
            self._update(len(order), checking)
        self.totals[0].copy_(self.totals[1])
        self.steps += 1
        self._updated = False

    def _update(self, n_examples: int, checking: Callable[[], None]) -> None:
        """Turn sums into the step's gradient, check it, and change the tables."""
        if not self._updated:
            self._finish_gradients(n_examples)
            checking()
        # Allocated before the first change to a table, so that running out of memory never leaves half an update.
        norms = self.model.new_norms() if self.workload.unit_norm else None
        if not self._updated:
            try:
                self.optimizer.step()
            except BaseException:
                # The step counts may have been raised; the tables, changed all at once, have not.
                for state in self.optimizer.state.values():
                    if "step" in state:
                        state["step"].fill_(self.steps)
                raise
            self._updated = True
        if norms is not None:
            self.model.project(norms)

    def _accumulate(self, order: Tensor, between: Callable[[], None]) -> None:
        """Fill the gradient tables with sums over the step's examples."""
        processes = self.processes
        for parameter in self.model.parameters():
            gradient(parameter).zero_()
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
        for parameter in self.model.parameters():
            self.processes.sum_over_replicas_(gradient(parameter))
            gradient(parameter).div_(n_examples)
        if workload.time_reg > 0:
            self.model.regularize_time(workload.time_reg, no_time_emb=workload.no_time_emb)

    def _micro_batch(self, order: Tensor) -> None:
        """Add one micro-batch's gradient, a sum over its examples, and its loss to the totals."""
        model, phase = self.model, self.phase
        with phase("encode"):
            ids = named("micro-batch ids", self.examples.index_select(1, order), "data")
            head, relation, tail, time, *dated = ids
            batch = Batch(head, relation, tail, time)
            encoding = model.encode(batch)
            labels = named("labels", batch.tail.long(), "data")
        loss, grad_query = softmax_cross_entropy(
            self.score,
            encoding.query,
            model.entity,
            labels,
            gradient(model.entity),
            chunk_size=self.workload.chunk_size,
            processes=self.processes,
            phase=phase,
        )
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
