"""Numbers gone wrong: an infinite or undefined loss, gradient or table stops a run before it is kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memplan.errors import FailedElsewhereError, NotFiniteError
from tkbc.step.stepper import Stepper
from tkbc.step.waiting import Wait, waiting
from tkbc.tensors import named, torch

if TYPE_CHECKING:
    from torch import Tensor

CHECK_STEPS = 50
"""On CUDA the check waits for the device, so only every this many steps are checked."""


def check_step(trainer: Stepper, where: str, way_out: str) -> None:
    """Check loss, penalty and gradients of the step under way, before a table has changed.

    On the CPU every step is checked. On CUDA every ``CHECK_STEPS``-th is, and a number that went wrong in between is
    found by the next check or before the next checkpoint.

    Raises:
        NotFiniteError: one is not finite; names ``where`` and the tensors, and ends with ``way_out``.
    """
    if trainer.workload.device == "cuda" and trainer.steps % CHECK_STEPS:
        return
    gradients = [(f"the gradient of {name}", of_table) for name, of_table in trainer.model.gradients()]
    _check("check of a step", trainer, trainer.totals[1], gradients, where, way_out)


def check_tables(trainer: Stepper, where: str, way_out: str) -> tuple[float, float]:
    """Check loss, tables and optimizer state before they are written to a checkpoint; return the sums of the epoch.

    Those are of loss and N3 penalty, over the epoch's finished steps.

    Raises:
        NotFiniteError: one is not finite; names ``where`` and the tensors, and ends with ``way_out``.
    """
    tables = [(f"the table {name}", table) for name, table in trainer.model.named_parameters()]
    moments = [
        (f"the optimizer's {key} of {name}", value)
        for name, table in trainer.model.named_parameters()
        for key, value in trainer.optimizer.state[table].items()
        if key != "step"
    ]
    return _check("check of the tables", trainer, trainer.totals[0], [*tables, *moments], where, way_out)


def _check(
    what: Wait, trainer: Stepper, totals: Tensor, named: list[tuple[str, Tensor]], where: str, way_out: str
) -> tuple[float, float]:
    on_cuda = trainer.workload.device == "cuda"
    with waiting(what):
        if on_cuda:
            loss, penalty, norm = _in_one_transfer(totals, [tensor for _, tensor in named])
            suspects = [] if math.isfinite(norm) else named
        else:
            loss, penalty = totals.tolist()
            suspects = named
        wrong = [f"{name} is {value}" for name, value in (("the loss", loss), ("the N3 penalty", penalty))
                 if not math.isfinite(value)]  # fmt: skip
        wrong += [name for name, tensor in suspects if not _is_finite(tensor)]
    (wrong_anywhere,) = trainer.processes.agree(bool(wrong))
    if wrong_anywhere and not wrong:
        raise FailedElsewhereError
    if wrong:
        since = f" (or up to {CHECK_STEPS} steps before)" if on_cuda else ""
        raise NotFiniteError(f"{where}{since}: not finite any more: {', '.join(wrong)}. {way_out}")
    return loss, penalty


def _in_one_transfer(totals: Tensor, tensors: list[Tensor]) -> list[float]:
    """Return two totals and the 2-norm of all the tensors, by way of one tensor: the host waits once."""
    norm = torch.nn.utils.get_total_norm(tensors)
    found = named("numbers to check", totals.new_empty(3))
    found[:2].copy_(totals)
    found[2].copy_(norm)
    numbers: list[float] = found.tolist()
    return numbers


def _is_finite(tensor: Tensor) -> bool:
    # The 2-norm is NaN or infinite where an element is, and takes one number of memory. Finite elements beyond 1e19
    # overflow it too: those are looked at one by one.
    norm = torch.linalg.vector_norm
    return any(math.isfinite(named("norm of a gradient", norm(tensor, order)).item()) for order in (2, math.inf))
