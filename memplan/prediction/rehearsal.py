"""The trainer's own step as the planner asks for it: the one place in the planner's core that reaches into tkbc."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memplan.memory.ledger import Ledger
from memplan.workload import Workload

if TYPE_CHECKING:
    from tkbc.rehearsal import Rehearsal


def rehearsal(workload: Workload) -> Rehearsal:
    """Return a workload's setup without numbers, from which runs start that differ in sizes and scoring alone."""
    from tkbc.rehearsal import Rehearsal

    return Rehearsal(workload)


def run(workload: Workload, *, training: bool = True, evaluation: bool = True) -> Ledger:
    """Return the ledger of a run from its setup on; see ``Rehearsal.run``."""
    return rehearsal(workload).run(workload, training=training, evaluation=evaluation)


def one_step(workload: Workload) -> Ledger:
    """Return the ledger of setup and a single full step: what a picture of memory over one step shows."""
    return rehearsal(workload).one_step(workload)


def tables(workload: Workload) -> dict[str, tuple[int, int]]:
    """Return the shape of each embedding table of the workload's model, by name."""
    from tkbc.models import MODELS

    return MODELS[workload.model].tables(workload)


def n_parameters(workload: Workload) -> int:
    """Return how many numbers the model's embedding tables hold."""
    return sum(n_rows * width for n_rows, width in tables(workload).values())
