"""The models by name."""

from __future__ import annotations

from memplan.workload import ModelName
from tkbc.models.base import Batch, Encoding, Model
from tkbc.models.complex_family import ComplEx, TComplEx, TNTComplEx
from tkbc.models.pairre import PairRE, TNTPairRE, TPairRE

MODELS: dict[ModelName, type[Model]] = {
    "ComplEx": ComplEx,
    "TComplEx": TComplEx,
    "TNTComplEx": TNTComplEx,
    "PairRE": PairRE,
    "TPairRE": TPairRE,
    "TNTPairRE": TNTPairRE,
}

__all__ = ["MODELS", "Batch", "Encoding", "Model"]
