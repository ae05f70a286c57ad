"""The table of what operators take inside, row by row against PyTorch's profiler on the CPU."""

from __future__ import annotations

import pytest

from memplan.device.workspace import workspace_bytes
from memplan.memory.operators import OPERATORS, sort_scratch_bytes
from tests.support.operator_calls import CALLS, Call, deterministic
from tkbc.measure.meter import CpuMeter


@pytest.mark.parametrize("name", CALLS)
def test_each_row_is_what_the_profiler_measures(name: str, one_thread: None) -> None:
    call: Call = CALLS[name]
    with deterministic(call.deterministic):
        run = call.make("cpu")
        run()  # what is made once is made now
        meter = CpuMeter()
        with meter.recording(), meter.phase("call"):
            result = run()
        del result
    measured = meter.peaks["call"].requested_bytes if meter.peaks else 0
    assert measured == call.expected_bytes("cpu")


def test_every_row_is_measured() -> None:
    assert {call.operator for call in CALLS.values()} - {""} == set(OPERATORS)


@pytest.mark.parametrize(
    ("capability", "config", "expected"),
    [
        (None, None, 8_519_680),
        ((7, 5), None, 8_519_680),
        ((8, 9), "", 8_519_680),
        ((9, 0), None, 33_554_432),
        ((12, 0), None, 33_554_432),
        ((7, 5), ":4096:8", 33_554_432),
        ((9, 0), ":16:8", 131_072),
        ((7, 5), ":4096:2:16:8", 8_519_680),
        ((7, 5), ":0:0", 0),
        ((7, 5), "abc", 8_519_680),
        ((7, 5), ":4096", 8_519_680),
        ((7, 5), ":100:3", 307_200),
    ],
)
def test_cublas_s_workspace(capability: tuple[int, int] | None, config: str | None, expected: int) -> None:
    """Each figure read from PyTorch 2.14's allocator on the stand-in device, T4 and others by capability."""
    assert workspace_bytes(capability, config) == expected


@pytest.mark.parametrize(
    ("n", "highest", "expected"),
    [(2048, 7128, 0), (2560, 7128, 46_591), (2817, 7128, 52_223), (5000, 7128, 87_039), (20_000, 256, 10_751),
     (20_000, 257, 332_799), (20_000, 65_537, 334_847), (100_000, 7128, 1_641_471)],
)  # fmt: skip
def test_a_sort_s_scratch(n: int, highest: int, expected: int) -> None:
    """Each figure read from PyTorch 2.14's allocator on the stand-in T4, in a deterministic index_add_."""
    assert sort_scratch_bytes(n, highest) == expected
