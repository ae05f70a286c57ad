"""A run without numbers: the trainer's own code over ghosts, whose ledger says what the run would allocate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from memplan.memory.ghost import named
from memplan.memory.ghosts import Ghosts
from memplan.memory.ledger import Event, Ledger
from memplan.workload import Workload
from tkbc.ranking.rivals import NO_POSITIONS, rivals
from tkbc.scoring import score_without_kernels
from tkbc.step.finite import check_step
from tkbc.step.stepper import Stepper

if TYPE_CHECKING:
    from torch import Tensor

K = TypeVar("K")

REPEATED_STEPS = 2
"""Full steps of an epoch recorded for CUDA: the second meets the segments that the first has left."""


class _GhostStepper(Stepper):
    """A stepper that goes through each part of a step once; where it comes again, the ledger repeats what it recorded.

    A part is a micro-batch of some size, or the update after so many examples.
    """

    def __init__(self, workload: Workload, library: Ghosts) -> None:
        self._library = library
        self._micro_batches: dict[int, list[Event]] = {}
        self._updates: dict[int, list[Event]] = {}
        score = score_without_kernels(workload)
        super().__init__(workload, score, library, learning_rate=1.0, phase=lambda name: library.ledger.phase(name))

    def adopt(self, workload: Workload) -> None:
        """Go on with other sizes and scoring."""
        self.workload = self.model.workload = workload
        self.score = score_without_kernels(workload)
        self.processes.room = ()  # the last run's, which is no part of the next one's ledger
        self._micro_batches.clear()

    def _micro_batch(self, order: Tensor) -> None:
        self._once(self._micro_batches, len(order), lambda: super(_GhostStepper, self)._micro_batch(order))

    def _update(self, n_examples: int, checking: Callable[[], None]) -> None:
        self._once(self._updates, n_examples, lambda: super(_GhostStepper, self)._update(n_examples, checking))

    def _once(self, recorded: dict[K, list[Event]], part: K, run: Callable[[], None]) -> None:
        ledger = self._library.ledger
        if part in recorded:
            ledger.repeat(recorded[part])
            return
        before = len(ledger.events)
        run()
        recorded[part] = ledger.events[before:]


class Rehearsal:
    """A workload's setup on ghosts, from which runs start that differ in micro-batch, chunk and scoring alone."""

    def __init__(self, workload: Workload) -> None:
        # Its ghosts stand where the step's code says Tensor.
        self._library: Any = Ghosts(
            workload.device, deterministic=workload.deterministic, workspace_bytes=workload.workspace_bytes
        )
        library = self._library
        self._stepper = _GhostStepper(workload, library)
        self.set_up, library.ledger = library.ledger, Ledger(workload.device)

    def run(self, workload: Workload, *, training: bool = True, evaluation: bool = True) -> Ledger:
        """Return the ledger of a run: setup, an epoch, an evaluation, a checkpoint.

        All steps ask for the same tensors but for the last of an epoch, whose batch is short, so on the CPU one full
        step holds the peak. What a caching allocator reserves depends on history: for CUDA full steps and the short one
        are recorded. Nothing but the setup's tensors outlives an epoch or an evaluation, and the trainer returns unused
        segments between them, so each finds the allocator as setup left it: the larger of the two is the whole, and
        later epochs repeat the first. Without ``training`` or ``evaluation`` that part is left out.
        """
        ledger = self._start(workload)
        if training:
            self._epoch(workload)
            ledger.release_cache()
        if evaluation:
            self._evaluate(workload)
            ledger.release_cache()
        with ledger.phase("checkpoint"):
            pass  # tables and optimizer state are written from where they are
        self._library.ledger = Ledger(workload.device)
        return ledger

    def one_step(self, workload: Workload) -> Ledger:
        """Return the ledger of setup and a single full step, whatever it leaves alive."""
        ledger = self._start(workload)
        with ledger.phase("shuffle"):
            order = named("order of the examples", self._library.randperm(workload.n_examples), "data")
        self._step(order[: workload.batch_size])
        self._library.ledger = Ledger(workload.device)
        return ledger

    def _start(self, workload: Workload) -> Ledger:
        self._stepper.adopt(workload)
        ledger = self._library.ledger = self.set_up.copy()
        with ledger.phase("setup"):
            self._stepper.processes.make_room(workload, self._library)
        return ledger

    def _epoch(self, workload: Workload) -> None:
        ledger = self._library.ledger
        with ledger.phase("shuffle"):
            order = named("order of the examples", self._library.randperm(workload.n_examples), "data")
        for n_examples in recorded_steps(workload):
            self._step(order[:n_examples])

    def _step(self, order: Tensor) -> None:
        stepper = self._stepper
        stepper.steps = 0
        stepper.step(order, checking=lambda: check_step(stepper, "", ""))

    def _evaluate(self, workload: Workload) -> None:
        library = self._library
        with library.ledger.phase("evaluation"):
            ids = library.empty((4, workload.eval_batch_size), library.int32, workload.device)
            ids = named("query ids", ids, "data")
            raised = NO_POSITIONS if workload.rules else None
            rivals(self._stepper.model, self._stepper.score, ids, NO_POSITIONS, workload.eval_chunk_size, raised)


def recorded_steps(workload: Workload) -> list[int]:
    """Return the examples of each step of an epoch that is recorded: on CUDA full ones and the short last one."""
    if workload.device != "cuda":
        return [workload.batch_size]
    full_steps, last = divmod(workload.n_examples, workload.batch_size)
    return [workload.batch_size] * min(full_steps, REPEATED_STEPS) + ([last] if last else [])
