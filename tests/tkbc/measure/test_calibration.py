"""What ``memplan calibrate`` times on a CPU, and what becomes of it."""

from __future__ import annotations

import pytest

from memplan.catalog.gpus import GPUS
from memplan.device.calibration import Calibration
from memplan.device.rates import Rates, StepRates, cpu_rates, gpu_rates
from memplan.search.work import step_work
from tkbc.measure import steps as timing
from tkbc.measure.cases import cases
from tkbc.measure.steps import step_times

VERSIONS = {"torch": "2.13"}


def test_nearly_every_kind_of_work_is_in_a_case_that_is_timed() -> None:
    met = {kind for layouts in cases(2) for layout in layouts for kind in step_work(layout)}
    # Tensors that would take too long, and what only adds up over many relations.
    missing = {kind for kind in cpu_rates().seconds if kind not in met and "MiB" not in kind}
    assert missing == set()


def test_a_case_s_layouts_are_one_workload() -> None:
    for layouts in cases(1):
        sizes = {"micro_batch_size", "chunk_size", "eval_chunk_size", "eval_batch_size"}
        assert len({layout.model_dump_json(exclude=sizes) for layout in layouts}) == 1
        assert len(set(layouts)) == len(layouts)


def test_layouts_take_turns_and_the_slow_ones_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: each step of the second layout takes as long as ten of the first."""
    layouts = cases(1)[3][:3]
    now, order = [0.0], []
    taken = {layouts[0]: 1.0, layouts[1]: 10.0, layouts[2]: 2.0}

    class FakeTrainer:
        def __init__(self, workload: object, *_: object, **__: object) -> None:
            self.workload = workload

        def shuffled(self, epoch: int) -> list[int]:
            return [epoch] * 1000

        def adopt(self, workload: object) -> None:
            self.workload = workload

        def step(self, *_: object, **__: object) -> None:
            order.append(layouts.index(self.workload))
            now[0] += taken[self.workload]

    monkeypatch.setattr(timing, "Trainer", FakeTrainer)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = step_times(layouts, 4.0)
    assert order == [0, 1, 2] + [0, 2] * 3
    assert [time.seconds for time in found] == [1.0, 10.0, 2.0]


def test_a_calibration_of_an_older_version_is_not_used_on_a_cpu() -> None:
    old = Calibration(
        device="CPU", threads=1, versions=VERSIONS, flops_per_second=1e9, bytes_per_second=1e9,
        fresh_bytes_per_second=1e9, launch_seconds=1e-6,
    )  # fmt: skip
    assert old.rates(cpu_rates()) is None
    stated = gpu_rates(GPUS["T4"])
    found = old.rates(stated)
    assert isinstance(found, Rates)
    assert (found.flops_per_second, found.l1_terms_per_second) == (1e9, stated.l1_terms_per_second)


def test_kinds_that_were_not_measured_stay_as_stated() -> None:
    new = Calibration(device="CPU", threads=1, versions=VERSIONS, step_seconds={"step": 1.0}, error=0.2)
    found = new.rates(cpu_rates())
    assert isinstance(found, StepRates)
    assert found.error == 0.2
    assert found.seconds == {**cpu_rates().seconds, "step": 1.0}
