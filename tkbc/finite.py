"""Numbers gone wrong: an infinite or undefined loss, gradient or table stops a run before it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from memplan.errors import NotFiniteError
from tkbc.models.base import gradient
from tkbc.trainer import Trainer

CHECK_STEPS = 50
"""On CUDA the check waits for the device, so only every this many steps are checked."""


def check_step(trainer: Trainer, where: str, way_out: str) -> None:
    """Check loss, penalty and gradients of the step under way, before a table has changed.

    On the CPU every step is checked. On CUDA every ``CHECK_STEPS``-th is, and a number that went wrong in between is
    found by the next check or before the next checkpoint.

    Raises:
        NotFiniteError: one is not finite; names ``where`` and the tensors, and tells ``way_out``.
    """
    if trainer.workload.device == "cuda" and trainer.steps % CHECK_STEPS:
        return
    gradients = [(f"the gradient of {name}", gradient(table)) for name, table in trainer.model.named_parameters()]
    _check([*_sums(trainer.totals[1]), *_bad(gradients)], trainer, where, way_out)


def check_tables(trainer: Trainer, where: str, way_out: str) -> None:
    """Check loss, tables and optimizer state before they are written to a checkpoint.

    Raises:
        NotFiniteError: one is not finite; names ``where`` and the tensors, and tells ``way_out``.
    """
    tables = [(f"the table {name}", table.detach()) for name, table in trainer.model.named_parameters()]
    moments = [
        (f"the optimizer's {key} of {name}", value)
        for name, table in trainer.model.named_parameters()
        for key, value in trainer.optimizer.state[table].items()
        if isinstance(value, Tensor)
    ]
    _check([*_sums(trainer.totals[0]), *_bad([*tables, *moments])], trainer, where, way_out)


def _check(wrong: list[str], trainer: Trainer, where: str, way_out: str) -> None:
    if wrong:
        since = f" (or up to {CHECK_STEPS} steps before)" if trainer.workload.device == "cuda" else ""
        raise NotFiniteError(f"{where}{since}: not finite any more: {', '.join(wrong)}. {way_out}")


def _sums(totals: Tensor) -> list[str]:
    loss, penalty = totals.tolist()
    return [f"{name} is {value}" for name, value in (("the loss", loss), ("the N3 penalty", penalty))
            if not math.isfinite(value)]  # fmt: skip


def _bad(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    # The 2-norm is NaN or infinite where an element is, and takes one number of memory. Finite elements beyond 1e19
    # overflow it too: those are looked at one by one.
    return [
        name
        for name, tensor in tensors
        if not math.isfinite(torch.linalg.vector_norm(tensor).item())
        and not math.isfinite(torch.linalg.vector_norm(tensor, torch.inf).item())
    ]
