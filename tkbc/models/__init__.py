"""The models by name."""

from __future__ import annotations

from memplan.workload import ModelName
from tkbc.models.base import Batch, Encoding, Model
from tkbc.models.complex_family import TNTComplEx
from tkbc.models.pairre import TNTPairRE

MODELS: dict[ModelName, type[Model]] = {"TNTComplEx": TNTComplEx, "TNTPairRE": TNTPairRE}

__all__ = ["MODELS", "Batch", "Encoding", "Model"]
