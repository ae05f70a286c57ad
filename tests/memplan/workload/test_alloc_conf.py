"""The allocator's options: how they are read, which are followed, and that a run obeys its plan's or ends."""

from __future__ import annotations

import sys

import pytest

from memplan.app.api import estimate, plan
from memplan.errors import UsageError
from memplan.memory.cuda.environment import VARIABLES, from_environment, obey
from memplan.workload.alloc_conf import HARMLESS, AllocatorSettings
from tests.support.cli import invoke
from tkbc.runs.readiness import prepare_torch

MIB = 2**20


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", AllocatorSettings()),
        (" max_split_size_mb : 128 ,", AllocatorSettings(max_split_size_bytes=128 * MIB)),
        ("roundup_power2_divisions:8", AllocatorSettings(roundup_divisions=(8,) * 16)),
        ("roundup_power2_divisions:[>:8]", AllocatorSettings(roundup_divisions=(0,) + (8,) * 15)),
        ("roundup_power2_divisions:[4:2,8:0,>:1]", AllocatorSettings(roundup_divisions=(2, 2, 2, 0) + (1,) * 12)),
        ("roundup_power2_divisions:[65536:4]", AllocatorSettings(roundup_divisions=(4,) * 16)),
        (
            "garbage_collection_threshold:0.6,per_process_memory_fraction:0.5",
            AllocatorSettings(garbage_collection_threshold=0.6, memory_fraction=0.5),
        ),
        ("backend:native,expandable_segments:True", AllocatorSettings(expandable_segments=True)),
        (",".join(f"{name}:True" for name in HARMLESS), AllocatorSettings()),
    ],
)
def test_options_are_read_as_pytorch_reads_them(text: str, settings: AllocatorSettings) -> None:
    assert AllocatorSettings.parse(text) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size_mb:19", "no less than a large segment's 20 MiB"),
        ("large_segment_size_mb:40,max_split_size_mb:39", "no less than a large segment's 40 MiB"),
        ("large_segment_size_mb:10", "a whole number of MiB from 11 on"),
        ("max_split_size_mb:12x", "a whole number of MiB"),
        ("expandable_segments:true", "True or False"),
        ("roundup_power2_divisions:3", "'3': a power of two"),
        ("roundup_power2_divisions:[3:2]", "'3': a power of two"),
        ("garbage_collection_threshold:1", "between 0 and 1"),
        ("per_process_memory_fraction:1.5", "from 0 to 1"),
        ("backend:cudaMallocAsync", "'backend' is not modelled"),
        ("throw_on_cudamalloc_oom:True", "'throw_on_cudamalloc_oom' is not modelled"),
    ],
)
def test_what_pytorch_refuses_or_is_not_modelled_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AllocatorSettings.parse(text)


def test_either_variable_is_read_and_two_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "roundup_power2_divisions:[4:2,>:8],backend:native")
    assert from_environment() == "roundup_power2_divisions:[4:2,>:8]"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native, max_split_size_mb:64")
    with pytest.raises(UsageError, match=r"PYTORCH_CUDA_ALLOC_CONF=.* and PYTORCH_ALLOC_CONF=.* unset one"):
        from_environment()
    assert invoke("estimate", "--device", "T4").exit_code == 2
    assert invoke("estimate", "--device", "T4", "--alloc-conf", "").exit_code == 0
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    assert from_environment() == "max_split_size_mb:64"


def test_a_run_obeys_its_plan_s_options_or_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planned for another machine may differ from this one's environment; what runs here may not."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    found = plan("ICEWS14", device="T4", alloc_conf="expandable_segments:True")
    with pytest.raises(UsageError, match="planned with 'expandable_segments:True', but PYTORCH_ALLOC_CONF is 'max_"):
        prepare_torch(found)
    obey("max_split_size_mb:64,backend:native")
    with pytest.raises(UsageError, match="planned with ''"):
        obey("")


def test_a_plan_s_options_are_set_before_pytorch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    obey("")
    assert from_environment() == ""
    obey("max_split_size_mb:64")
    assert from_environment() == "max_split_size_mb:64"
    obey("max_split_size_mb:64")  # another run of the same process


def test_pytorch_that_is_loaded_reads_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    obey("")
    with pytest.raises(UsageError, match="loaded already"):
        obey("max_split_size_mb:64")


def test_a_share_of_the_gpu_bounds_a_plan() -> None:
    whole = plan("ICEWS14", model="TNTPairRE", rank=200, score="l2", scoring="chunked", device="T4")
    part = plan(
        "ICEWS14", model="TNTPairRE", rank=200, score="l2", scoring="chunked", device="T4",
        alloc_conf="per_process_memory_fraction:0.02",
    )  # fmt: skip
    allowed = round(0.02 * part.workload.device_total_bytes)  # type: ignore[operator]
    assert whole.peak.reserved_bytes > allowed >= part.peak.reserved_bytes
    assert part.budget_source.startswith("per_process_memory_fraction")
    assert whole.workload.device_total_bytes is None


def test_what_a_share_cannot_hold_does_not_fit() -> None:
    found = estimate(
        "ICEWS14", model="TNTPairRE", scoring="materialized", device="T4", alloc_conf="per_process_memory_fraction:0.01"
    )
    assert found.fits is False
    assert found.peak.reserved_bytes > found.peak.allocated_bytes > found.peak.requested_bytes > 10**9
