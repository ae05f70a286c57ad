"""What tests of data share with others."""

from __future__ import annotations

import numpy as np

from memplan.catalog.folders import SPLITS
from memplan.workload import Shape

SHAPE = Shape(n_entities=11, n_relations=3, n_timestamps=5, n_facts=60)


def same(one: object, other: object) -> bool:
    """Whether two datasets hold the same names and facts."""
    names = all(getattr(one, key) == getattr(other, key) for key in ("entities", "relations", "timestamps"))
    return names and all(np.array_equal(getattr(one, split), getattr(other, split)) for split in SPLITS)
