"""A model's tables in float64, so that errors cannot hide in rounding."""

from __future__ import annotations

import torch

from tkbc.models import Model


def in_float64(model: Model) -> Model:
    """Return ``model`` with its tables in float64 and gradients of zero."""
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
        parameter.grad = torch.zeros_like(parameter)
    if model.used is not None:
        model.used.drawn = model.used.drawn.double()
        model.used._gradient = model.used._gradient.double()
    return model
