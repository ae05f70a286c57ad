"""What a step takes on CUDA, against what PyTorch's CUDA allocator counted on the stand-in device: without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memplan.prediction.estimate import estimate
from memplan.workload import Workload

RECORDED = json.loads((Path(__file__).parents[2] / "support" / "recorded_steps.json").read_text(encoding="utf-8"))


def named(row: dict[str, Any]) -> str:
    w = Workload(**row["workload"])
    return f"{w.model}-{w.score}-{w.scoring}-{w.precision}-{w.optimizer}-N{w.n_entities}"


@pytest.mark.parametrize("row", RECORDED["rows"], ids=named)
def test_a_step_on_cuda_takes_what_was_recorded(row: dict[str, Any]) -> None:
    """Phase by phase what is requested, and what the allocator makes of it: tests/cuda_standin/record_steps.py."""
    found = estimate(Workload(**row["workload"]))
    requested = {name: n_bytes for name, (n_bytes, _) in row["phases"].items()}
    assert {phase.name: phase.peak_bytes for phase in found.phases} == requested
    assert found.peak.requested_bytes == max(requested.values())
    assert found.peak.allocated_bytes == max(n_bytes for _, n_bytes in row["phases"].values())
