"""Optimizers: PyTorch's own, set up so that everything they will ever hold exists before the first step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from memplan.workload import DeviceType, OptimizerName
from tkbc.models import Model
from tkbc.step.rowwise import RowWise
from tkbc.tensors import named, torch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

STATE_NAMES = {
    "step": "step count",
    "sum": "sum of squares",
    "exp_avg": "first moment",
    "exp_avg_sq": "second moment",
}
"""What PyTorch keeps for each table, by its keys."""


def make_optimizer(
    name: OptimizerName, model: Model, learning_rate: float, device: DeviceType, library: Any
) -> Optimizer | SteadyAdagrad | RowWise:
    """Return the optimizer of a model's tables with its state allocated, from the ``library`` that made the tables.

    The fused implementations allocate nothing in a step. Adagrad on CUDA is not fused in every supported version of
    PyTorch: ``SteadyAdagrad`` runs there.
    """
    tables = list(model.named_parameters())
    parameters = [table for _, table in tables]
    if name == "adagrad" and device == "cuda":
        optimizer = SteadyAdagrad(parameters, learning_rate, library)
    elif name == "adagrad":
        optimizer = library.optim.Adagrad(parameters, lr=learning_rate, fused=True)
    elif name == "sgd":
        optimizer = library.optim.SGD(parameters, lr=learning_rate, fused=True)
    else:
        optimizer = library.optim.Adam(parameters, lr=learning_rate, fused=True)
        # Adam would allocate this in its first step, in the middle of the measured phases; its layout is its
        # state_dict's.
        for table in parameters:
            optimizer.state[table] = {
                "step": library.zeros((), dtype=library.float32, device=device),
                "exp_avg": library.zeros_like(table),
                "exp_avg_sq": library.zeros_like(table),
            }
    for of, table in tables:
        for key, value in optimizer.state[table].items():
            named(f"{name} {STATE_NAMES[key]} of {of}", value, "optimizer")
    return optimizer if model.used is None else RowWise(optimizer, model.entity, model.used)


class SteadyAdagrad:
    """PyTorch's Adagrad one table at a time, its one temporary allocated before the first table changes.

    Running out of memory then leaves every table as it was, and the step can be taken again.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, library: Any) -> None:
        inner = library.optim.Adagrad(parameters, lr=lr, fused=False, foreach=False)
        self.param_groups: list[dict[str, Any]] = inner.param_groups
        self.state: dict[Tensor, dict[str, Tensor]] = inner.state

    def step(self) -> None:
        """Take a step: sum += g², p −= learning rate · g / (√sum + ε)."""
        (group,) = self.param_groups
        parameters: list[Tensor] = group["params"]
        largest = max(parameters, key=lambda parameter: parameter.numel())
        scratch = named("root of a sum of squares", largest.new_empty(largest.numel()))
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            state["step"].add_(1)
            state["sum"].addcmul_(gradient, gradient)
            root = scratch[: parameter.numel()].view_as(parameter)
            torch.sqrt(state["sum"], out=root).add_(group["eps"])
            parameter.addcdiv_(gradient, root, value=-group["lr"])
