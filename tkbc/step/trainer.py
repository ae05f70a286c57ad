"""The step over PyTorch's tensors, with the data it trains on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from memplan.workload import Workload
from tkbc.data.dataset import with_reciprocals
from tkbc.data.ids import Ids
from tkbc.data.intervals import draw_times
from tkbc.scoring import PairwiseScore, make_score
from tkbc.sharded import Processes
from tkbc.step.loss import PhaseMarker, no_phase
from tkbc.step.stepper import Stepper
from tkbc.step.transfer import send
from tkbc.step.waiting import waiting

NEGATIVES = 1
"""What sets apart the numbers drawn for negatives from others of the same seed."""


def make_score_of(workload: Workload) -> PairwiseScore:
    """Return the score of a workload."""
    return make_score(workload.score, workload.scoring, workload.device, workload.threads, workload.precision)


class Trainer(Stepper):
    """A ``Stepper`` over PyTorch's tensors with its training examples, in an order for each epoch."""

    def __init__(
        self,
        workload: Workload,
        facts: Ids,
        *,
        learning_rate: float,
        seed: int = 0,
        init_scale: float | None = None,
        processes: Processes | None = None,
        phase: PhaseMarker = no_phase,
    ) -> None:
        self.seed = seed
        super().__init__(
            workload,
            make_score_of(workload),
            torch,
            learning_rate=learning_rate,
            generator=torch.Generator(workload.device).manual_seed(seed),
            init_scale=init_scale,
            processes=processes,
            phase=phase,
        )
        with phase("setup"):
            self.processes.make_room(workload, torch)
        # Columns, not rows: a micro-batch's heads then lie side by side, as index_select wants its ids.
        examples = np.ascontiguousarray(with_reciprocals(facts, workload.n_relations).T)
        self._intervals: tuple[Ids, Ids] | None = None
        if workload.predicts_time:
            begin, end = self._intervals = examples[3].copy(), examples[4].copy()
            examples[4] = (begin > 0) | (end < workload.n_timestamps - 1)
        # A model that knows no time needs no end.
        self.examples.copy_(torch.from_numpy(examples[: len(self.examples)]))

    def set_learning_rate(self, rate: float) -> None:
        """Take the next steps at this rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def adopt(self, workload: Workload) -> None:
        """Go on with other micro-batches, chunks or scoring, which change no result: the next step uses them."""
        if workload.scoring != self.workload.scoring:
            self.score = make_score_of(workload)
        self.workload = self.model.workload = workload

    def persistent_tensors(self) -> Iterator[Tensor]:
        """Yield every tensor that lives as long as the trainer."""
        used = self.model.used
        if used is not None:
            yield from used.tensors()
        for parameter in self.model.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
            for state in self.optimizer.state[parameter].values():
                if isinstance(state, Tensor):
                    yield state
        yield self.examples
        yield self.totals
        yield from self.processes.room

    def draw(self, into: Tensor) -> None:
        """Write the next step's negatives, all different, to ``into``: a function of seed and step alone.

        Drawn on the host, the same for every device; nobody waits for the copy.
        """
        generator = np.random.default_rng(np.random.SeedSequence([self.seed, self.steps, NEGATIVES]))
        send(generator.choice(self.workload.n_entities, len(into), replace=False, shuffle=False), into)

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
