# Its bytes are told by memplan/memory/programs/step.py.
"""One optimizer step, told so that every allocation in it is named: the code whose bytes memplan predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from memplan.workload import Workload
from tkbc.data.dataset import Ids, with_reciprocals
from tkbc.data.intervals import draw_times
from tkbc.models import MODELS, Batch
from tkbc.models.base import gradient
from tkbc.scoring import PairwiseScore, make_score
from tkbc.step.loss import PhaseMarker, no_phase, softmax_cross_entropy
from tkbc.step.optimizers import make_optimizer
from tkbc.step.waiting import waiting


def make_score_of(workload: Workload) -> PairwiseScore:
    """Return the score of a workload."""
    return make_score(workload.score, workload.scoring, workload.device, workload.threads, workload.precision)


def _nothing() -> None:
    pass


class Trainer:
    """A model, its optimizer and its training examples on one device, trained as ``workload`` says.

    The step's mathematics does not depend on the micro-batch, the chunk or the scoring: the loss and the embedding
    regularizer are summed over micro-batches and divided by the examples of the batch, a short last batch by its own;
    the time regularizer is added once a step.
    """

    def __init__(
        self,
        workload: Workload,
        facts: Ids,
        *,
        learning_rate: float,
        seed: int = 0,
        init_scale: float | None = None,
        phase: PhaseMarker = no_phase,
    ) -> None:
        self.workload = workload
        self.seed = seed
        self.phase = phase
        device = workload.device
        self.score = make_score_of(workload)
        with phase("setup"):
            generator = torch.Generator(device).manual_seed(seed)
            self.model = MODELS[workload.model](workload, generator, init_scale)
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter, requires_grad=False)
            if workload.unit_norm:
                with torch.no_grad():
                    self.model.project(self.model.new_norms())
            self.optimizer = make_optimizer(workload.optimizer, self.model.parameters(), learning_rate, device)
            # Columns, not rows: a micro-batch's heads then lie side by side, as index_select wants its ids.
            examples = np.ascontiguousarray(with_reciprocals(facts, workload.n_relations).T)
            self._intervals: tuple[Ids, Ids] | None = None
            if workload.predicts_time:
                begin, end = self._intervals = examples[3].copy(), examples[4].copy()
                examples[4] = (begin > 0) | (end < workload.n_timestamps - 1)
            else:
                examples = examples[:4]  # a model that knows no time needs no end
            self.examples = torch.empty(examples.shape, dtype=torch.int32, device=device)
            self.examples.copy_(torch.from_numpy(examples))
            self.totals = torch.zeros((2, 2), dtype=torch.float64, device=device)
            """Sums over the epoch's finished steps, of loss and N3 penalty; below them, with the step under way."""
            if device == "cuda":
                # The first product allocates cuBLAS's workspace for good: here, not among a step's tensors.
                one = torch.ones((1, 1), device=device)
                torch.mm(one, one)
                del one
        self.steps = 0
        """Optimizer steps taken."""
        self._updated = False
        """The step under way has changed the tables already: an attempt failed between update and projection."""

    def set_learning_rate(self, rate: float) -> None:
        """Take the next steps at this rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def adopt(self, workload: Workload) -> None:
        """Go on with other micro-batches, chunks or scoring, which change no result: the next step uses them."""
        if workload.scoring != self.workload.scoring:
            self.score = make_score_of(workload)
        self.workload = self.model.workload = workload

    @property
    def is_between_steps(self) -> bool:
        """Whether every table is whole: no step failed between its update and its projection."""
        return not self._updated

    def persistent_tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that lives as long as the trainer."""
        for parameter in self.model.parameters():
            yield parameter
            yield gradient(parameter)
            for state in self.optimizer.state[parameter].values():
                if isinstance(state, Tensor):
                    yield state
        yield self.examples
        yield self.totals

    def shuffled(self, epoch: int) -> Tensor:
        """Return the order of the examples in ``epoch``, (2 · n_facts,) int64: a function of seed and epoch alone.

        Examples that hold over an interval take their timestamp for the epoch here, drawn uniformly inside it: a
        function of seed, epoch and example alone.
        """
        if self._intervals is not None:
            times = torch.from_numpy(draw_times(*self._intervals, self.seed, epoch))
            with waiting("order of an epoch"):
                self.examples[3].copy_(times)
        (seed,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
        with self.phase("shuffle"):
            order = torch.randperm(self.examples.shape[1], generator=torch.Generator().manual_seed(int(seed)))
            with waiting("order of an epoch"):
                return order.to(self.workload.device)

    @torch.no_grad()
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
            if not self._updated:
                self._finish_gradients(len(order))
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
        self.totals[0].copy_(self.totals[1])
        self.steps += 1
        self._updated = False

    def _accumulate(self, order: Tensor, between: Callable[[], None]) -> None:
        """Fill the gradient tables with sums over the step's examples."""
        for parameter in self.model.parameters():
            gradient(parameter).zero_()
        self.totals[1].copy_(self.totals[0])
        size = self.workload.micro_batch_size
        for start in range(0, len(order), size):
            if start > 0:
                between()
            self._micro_batch(order[start : start + size])

    def _finish_gradients(self, n_examples: int) -> None:
        """Turn sums into means over the step's examples and add the time regularizer."""
        workload = self.workload
        for parameter in self.model.parameters():
            gradient(parameter).div_(n_examples)
        if workload.time_reg > 0:
            self.model.regularize_time(workload.time_reg, no_time_emb=workload.no_time_emb)

    def _micro_batch(self, order: Tensor) -> None:
        """Add one micro-batch's gradient, a sum over its examples, and its loss to the totals."""
        model, phase = self.model, self.phase
        with phase("encode"):
            head, relation, tail, time, *dated = self.examples.index_select(1, order)
            batch = Batch(head, relation, tail, time)
            encoding = model.encode(batch)
            labels = batch.tail.long()
        loss, grad_query = softmax_cross_entropy(
            self.score,
            encoding.query,
            model.entity.detach(),
            labels,
            gradient(model.entity),
            chunk_size=self.workload.chunk_size,
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
            labels = batch.time.long()
            weights = dated.to(model.entity.dtype)
        times = model.table("time")
        loss, grad_query = softmax_cross_entropy(
            self.score,
            encoding.query,
            times.detach(),
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
