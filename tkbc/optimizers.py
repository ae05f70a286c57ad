# Its bytes are told by memplan/programs/optimizers.py.
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

    The fused implementations allocate nothing in a step. Adagrad on CUDA runs PyTorch's single-tensor one, with one
    temporary the size of a table at a time: not every supported version of PyTorch has it fused there.
    """
    parameters = list(parameters)
    if name == "adagrad":
        return Adagrad(parameters, lr=learning_rate, fused=device == "cpu", foreach=False)
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
