"""What is measured on CUDA is this run's own: peaks, workspaces, and what a process takes that has used nothing yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memplan.device.target import resolve
from memplan.errors import MemplanError
from memplan.search.planner import plan
from memplan.workload import Shape, build_workload
from tests.conftest import random_graph
from tests.cuda_standin import answered, device
from tkbc.measure.rates import calibrate
from tkbc.runs.watch import MemoryWatch
from tkbc.step.trainer import Trainer
from tkbc.verify import verify

pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not device.is_here(), reason="runs on the stand-in device: tests/cuda_standin/README.md"),
]

MIB = 2**20
SHAPE = Shape(n_entities=300, n_relations=3, n_timestamps=7, n_facts=200)


def test_a_peak_before_a_measured_phase_is_not_forgotten() -> None:
    """Measuring resets the device's statistics; what another run of the process took does not count."""
    graph = random_graph(SHAPE)
    made = plan(graph.shape, resolve("cuda", None), model="TNTComplEx", rank=5, batch_size=100, n_queries=20)
    before = torch.empty(300 * MIB, dtype=torch.uint8, device="cuda")
    del before
    torch.cuda.empty_cache()
    watch = MemoryWatch(made)
    trainer = Trainer(made.workload, graph.train, learning_rate=0.1)
    own = torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
    del own
    torch.cuda.empty_cache()
    with watch.measuring("training", []), watch.meter.phase("encode"):
        pass
    assert 100 * MIB <= watch.now(trainer).peak_bytes < 200 * MIB
    assert watch.meter.peaks["encode"].reserved_bytes < 100 * MIB


def test_a_verified_workload_finds_nothing_of_the_one_before() -> None:
    """Twice the same: its workspace is in both, and none of the segments that the first left."""
    workload = build_workload(
        SHAPE, model="TNTComplEx", rank=5, device="cuda", workspace_bytes=resolve("cuda", None).workspace_bytes
    )
    left = torch.empty(200 * MIB, dtype=torch.uint8, device="cuda")
    del left
    for _ in range(2):
        check = verify(workload).check
        assert all(phase.measured.reserved_bytes < 100 * MIB for phase in check.phases)
        assert check.peak.measured == check.peak.predicted.model_copy(update={"device_bytes": None})


def test_context_and_workspace_are_measured_once_in_a_process() -> None:
    torch.zeros(1, device="cuda")
    with pytest.raises(MemplanError, match=r"has used CUDA already.*memplan calibrate --device cuda"):
        calibrate(resolve("cuda", None))


def test_calibrate_finds_the_workspace_that_is_planned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    command = [
        sys.executable,
        str(answered.__file__),
        "-m",
        "memplan.app.cli",
        "calibrate",
        "--device",
        "cuda",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["workspace_bytes"] == resolve("cuda", None).workspace_bytes
    assert found["launch_seconds"] > 0
