"""Random training steps on CUDA's real allocator and operators: requested and allocated bytes exactly as predicted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from memplan.workload import Workload
from tests.cuda_standin import device
from tests.cuda_standin.measure_steps import described, measured
from tests.cuda_standin.workloads import step_workloads

HAS_CUDA = device.is_here() or torch.cuda.is_available()
pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_CUDA, reason="needs a GPU, or the stand-in device: tests/cuda_standin/README.md"),
]

COUNT, SEED = 12, 13


@pytest.fixture(autouse=True)
def _numbers_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    if device.is_here():
        monkeypatch.setattr(torch, "allclose", lambda *_arguments, **_options: True)  # as answered.py says


@pytest.mark.parametrize("workload", list(step_workloads(COUNT, SEED)) if HAS_CUDA else [], ids=described)
def test_a_random_step_is_exact(workload: Workload) -> None:
    assert_exact(workload)


def divided() -> Iterator[Workload]:
    """Random steps of the first and the last process of a mesh: they send nothing here, and take what they would."""
    for one in step_workloads(8, 14):
        mesh = {"shards": 3, "replicas": 2 if one.batch_size > 1 else 1, "negatives": None}
        micro_batch = min(one.micro_batch_size, -(-one.batch_size // mesh["replicas"]))
        chunk = one.n_entities if one.negatives is not None else one.chunk_size
        sizes = {**mesh, "micro_batch_size": micro_batch, "chunk_size": chunk}
        for process in (0, 3 * mesh["replicas"] - 1):
            yield Workload(**{**one.model_dump(), **sizes, "process": process})


@pytest.mark.parametrize("workload", list(divided()) if HAS_CUDA else [], ids=described)
def test_a_step_of_one_of_several_processes_is_exact(workload: Workload) -> None:
    assert_exact(workload)


def assert_exact(workload: Workload) -> None:
    found = measured(workload)
    assert not found.differences, found.causes
    assert found.off("requested_bytes") == found.off("allocated_bytes") == 0, found.causes
    assert abs(found.off("reserved_bytes")) <= 0.02
