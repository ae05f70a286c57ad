from __future__ import annotations

from pathlib import Path

import pytest

from memplan import machine
from memplan.catalog import find_dataset
from memplan.devices import CUDA_CONTEXT_BYTES, resolve
from memplan.errors import MemplanError, UsageError
from memplan.machine import PresentGpu, cgroup_rooms, usable_threads
from memplan.planner import plan
from memplan.scorings import available
from tkbc.scoring import make_score

GIB = 2**30


def test_a_present_gpu_s_free_memory_is_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: [PresentGpu("Tesla T4", 15 * GIB, 6 * GIB)])
    target = resolve(None, None)
    assert (target.device, target.name, target.outside_bytes) == ("cuda", "Tesla T4", CUDA_CONTEXT_BYTES)
    assert 5.8 * GIB < target.budget_bytes < 6 * GIB, "free memory counts, not the total"
    assert resolve("cuda", "2GiB").budget_bytes == 2 * GIB
    assert resolve("cpu", None).device == "cpu"


def test_without_a_gpu_cuda_is_refused_and_the_default_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", list)
    assert resolve(None, None).device == "cpu"
    with pytest.raises(MemplanError, match="no NVIDIA GPU or driver"):
        resolve("cuda", None)


def test_a_cgroup_s_limit_counts_wherever_it_is_set(tmp_path: Path) -> None:
    """The limit stands two levels up; our own group has none."""
    own = tmp_path / "cgroup" / "slice" / "job"
    own.mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text("0::/slice/job\n")
    (own / "memory.max").write_text("max\n")
    (own / "memory.current").write_text("5\n")
    (own.parent / "memory.max").write_text("1000\n")
    (own.parent / "memory.current").write_text("300\n")
    assert cgroup_rooms(tmp_path / "cgroup", membership) == [(own.parent / "memory.max", 700)]


def test_an_old_cgroup_s_limit_counts_too(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "memory.limit_in_bytes").write_text("1000\n")
    (memory / "memory.usage_in_bytes").write_text("1200\n")
    assert cgroup_rooms(tmp_path, tmp_path / "absent") == [(memory / "memory.limit_in_bytes", 0)]


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert usable_threads() >= 1


def test_without_numba_plans_fall_back_to_chunked_and_fused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert available("l1", "cpu") == ["materialized", "chunked"]
    found = plan(find_dataset("ICEWS14").shape, resolve("cpu", "300MiB"), model="TNTPairRE")
    assert found.scoring == "chunked"
    with pytest.raises(UsageError, match="needs the package numba"):
        make_score("l1", "fused", "cpu")
