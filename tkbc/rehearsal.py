"""A run without numbers: the trainer's own code over ghosts, whose ledger says what the run would allocate."""

from __future__ import annotations

from types import SimpleNamespace

from memplan.ghost import Ghosts, named
from memplan.ghost_optim import library_of_optimizers
from memplan.ledger import Ledger
from memplan.workload import Workload
from tkbc.finite import check_step
from tkbc.rivals import Excluded, rivals
from tkbc.scoring import score_without_kernels
from tkbc.step import Stepper

REPEATED_STEPS = 2
"""Full steps of an epoch recorded for CUDA: the second meets the segments that the first has left."""


class Rehearsal:
    """A workload's setup on ghosts, from which runs start that differ in micro-batch, chunk and scoring alone."""

    def __init__(self, workload: Workload) -> None:
        self._library = library = Ghosts(
            workload.device, deterministic=workload.deterministic, workspace_bytes=workload.workspace_bytes
        )
        library.optim = library_of_optimizers(library)
        score = score_without_kernels(workload)
        self._stepper = Stepper(workload, score, library, learning_rate=1.0, phase=lambda name: library.ledger.phase(name))
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

    def _start(self, workload: Workload) -> Ledger:
        stepper = self._stepper
        stepper.workload = stepper.model.workload = workload
        stepper.score = score_without_kernels(workload)
        self._library.ledger = self.set_up.copy()
        return self._library.ledger

    def _epoch(self, workload: Workload) -> None:
        ledger = self._library.ledger
        with ledger.phase("shuffle"):
            order = named("order of the examples", self._library.randperm(workload.n_examples), "data")
        for n_examples in recorded_steps(workload):
            self._step(order[:n_examples])

    def _step(self, order) -> None:
        stepper = self._stepper
        stepper.steps = 0
        stepper.step(order, checking=lambda: check_step(stepper, "", ""))

    def _evaluate(self, workload: Workload) -> None:
        library = self._library
        with library.ledger.phase("evaluation"):
            ids = library.empty((4, workload.eval_batch_size), library.int32, workload.device)
            ids = named("query ids", ids, "data")
            rivals(self._stepper.model, self._stepper.score, ids, Excluded(None, ()), workload.eval_chunk_size)


def recorded_steps(workload: Workload) -> list[int]:
    """Return the examples of each step of an epoch that is recorded: on CUDA full ones and the short last one."""
    if workload.device != "cuda":
        return [workload.batch_size]
    full_steps, last = divmod(workload.n_examples, workload.batch_size)
    return [workload.batch_size] * min(full_steps, REPEATED_STEPS) + ([last] if last else [])
