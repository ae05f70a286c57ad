# Its bytes are told by memplan/memory/programs/optimizers.py.
"""Optimizers: PyTorch's own, set up so that everything they will ever hold exists before the first step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer

from memplan.workload import DeviceType, OptimizerName


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float, device: DeviceType
) -> Optimizer:
    """Return the optimizer with its state allocated.

    The fused implementations allocate nothing in a step. Adagrad on CUDA is not fused in every supported version of
    PyTorch: ``SteadyAdagrad`` runs there.
    """
    parameters = list(parameters)
    if name == "adagrad":
        if device == "cuda":
            return SteadyAdagrad(parameters, lr=learning_rate, fused=False, foreach=False)
        return Adagrad(parameters, lr=learning_rate, fused=True)
    if name == "sgd":
        return SGD(parameters, lr=learning_rate, fused=True)
    optimizer = Adam(parameters, lr=learning_rate, fused=True)
    # Adam would allocate this in its first step, in the middle of the measured phases; its layout is its state_dict's.
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


class SteadyAdagrad(Adagrad):
    """PyTorch's Adagrad one table at a time, its one temporary allocated before the first table changes.

    Running out of memory then leaves every table as it was, and the step can be taken again.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step: sum += g², p −= learning rate · g / (√sum + ε)."""
        del closure
        (group,) = self.param_groups
        largest = max(group["params"], key=torch.numel)
        scratch = largest.new_empty(largest.numel(), requires_grad=False)
        for parameter in group["params"]:
            state = self.state[parameter]
            state["step"].add_(1)
            state["sum"].addcmul_(parameter.grad, parameter.grad)
            root = scratch[: parameter.numel()].view_as(parameter)
            torch.sqrt(state["sum"], out=root).add_(group["eps"])
            parameter.addcdiv_(parameter.grad, root, value=-group["lr"])
