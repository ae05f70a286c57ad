"""What tests of memory prediction share with others."""

from __future__ import annotations

from typing import Any

from memplan.prediction.rehearsal import run
from memplan.workload import TRAITS, ModelName, Workload
from tkbc.verify import measure


def assert_exact(workload: Workload) -> None:
    predicted = run(workload).phase_peaks
    measured = {name: reading.requested_bytes for name, reading in measure(workload).items()}
    assert measured == predicted


def settings_of(model: ModelName) -> dict[str, Any]:
    """Return regularizers and projection, each where the model has it."""
    traits = TRAITS[model]
    return {"emb_reg": 0.01, "time_reg": 0.01 if traits.is_temporal else 0, "unit_norm": not traits.is_complex}
