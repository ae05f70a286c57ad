"""The trainer for temporal knowledge-graph embeddings; takes a plan from memplan.

    from tkbc import train, load, evaluate

``tkbc.api`` says what each does. They are loaded where they are asked for: ``import tkbc`` itself is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tkbc.api import TrainOptions, evaluate, load, train
    from tkbc.runs.reporter import Reporter, Result
    from tkbc.use.model import TrainedModel
    from tkbc.use.quality import Quality

__all__ = ["Quality", "Reporter", "Result", "TrainOptions", "TrainedModel", "evaluate", "load", "train"]


def __getattr__(name: str) -> object:
    """Return one of the names above, from the module that has it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("tkbc.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
