"""The models by name: what a module of this room defines with its traits is a model, and is found here by itself."""

from __future__ import annotations

import importlib
import pkgutil

from memplan.workload import ModelName
from tkbc.models.base import Batch, Encoding, Model


def _defined_here() -> dict[ModelName, type[Model]]:
    found: dict[ModelName, type[Model]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__, f"{__name__}.")):
        for name, value in vars(importlib.import_module(module)).items():
            is_model = isinstance(value, type) and issubclass(value, Model) and value.__module__ == module
            if is_model and "traits" in vars(value):
                found[name] = value
    return found


MODELS = _defined_here()

__all__ = ["MODELS", "Batch", "Encoding", "Model"]
