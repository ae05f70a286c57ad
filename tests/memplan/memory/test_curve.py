"""Memory over a step: what was measured lies on what was planned, and what the device gives on PyTorch's rules."""

from __future__ import annotations

import pytest

from memplan import plan
from memplan.app.views.charts import memory_chart
from memplan.app.views.plot import taken_of_device
from memplan.memory.cuda import replay, reserved_over
from memplan.memory.curve import aligned, curve
from memplan.memory.ledger import Allocation, Event
from memplan.prediction.rehearsal import one_step
from memplan.workload import SCORINGS, Scoring, Shape
from tkbc.measure.meter import CpuMeter
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

SHAPE = Shape(n_entities=40, n_relations=3, n_timestamps=7, n_facts=90)
MIB = 2**20


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("micro_batch", [90, 40, 7])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_what_pytorch_s_profiler_saw_lies_on_the_planned_curve(scoring: Scoring, micro_batch: int) -> None:
    """Every value at the event of the same bytes; the optimizer alone frees and takes some scalars more often."""
    settings = {"scoring": scoring, "batch_size": 90, "micro_batch_size": micro_batch, "rank": 8}
    found = plan(SHAPE, model="TNTPairRE", device="cpu", budget="1GiB", **settings)
    meter = CpuMeter()
    with meter.recording():
        trainer = Trainer(found.workload, random_facts(SHAPE, SHAPE.n_facts), learning_rate=0.1, phase=meter.phase)
        trainer.step(trainer.shuffled(1)[: found.batch_size])
    points = curve(one_step(found.workload))
    xs, ys = aligned(points, meter.curve)
    assert xs == sorted(xs)
    assert max(ys) == max(point.total for point in points)
    before = next(i for i, point in enumerate(points) if point.phase == "optimizer")
    placed = [(x, y) for x, y in zip(xs, ys, strict=True) if x < before]
    assert placed == [(float(i), point.total) for i, point in enumerate(points[:before])]


def test_reserved_bytes_of_a_hand_worked_run() -> None:
    """Two large tensors share a segment of 20 MiB, a small one takes one of 2 MiB, which goes back with the cache."""
    tensors = [
        Allocation(name, (n_bytes,), "uint8", n_bytes, "data", "setup")
        for name, n_bytes in (("a", 3 * MIB), ("nothing", 0), ("b", 3 * MIB), ("c", 4), ("d", 16 * MIB))
    ]
    a, _, _, c, d = tensors
    events = [*(Event(tensor, is_birth=True) for tensor in tensors), Event(a), Event(c), Event(None), Event(d)]
    assert [n / MIB for n in reserved_over(events)] == [20, 20, 22, 38, 38, 38, 36]
    assert replay(events).peak_reserved_bytes == 38 * MIB


def test_a_picture_against_a_device_s_budget_shows_what_the_device_gives() -> None:
    """The epoch is one step and the ranking small, so the step's most is the run's."""
    found = plan(SHAPE, model="TNTPairRE", rank=8, batch_size=180, eval_batch_size=1, device="T4")
    assert found.workload.steps_per_epoch == 1
    step = one_step(found.workload)
    taken = taken_of_device(step, found.workload, found.peak)
    assert taken is not None
    assert max(taken.after) == taken.at_most_bytes == found.peak.device_bytes
    points = curve(step)
    assert len(taken.after) == len(points)
    assert all(n_bytes > point.total for n_bytes, point in zip(taken.after, points, strict=True))
    picture, legend = memory_chart(points, alt="", budget_bytes=found.budget_bytes, measured=None, taken=taken)
    assert picture.count('class="taken"') == 2
    assert any("reserved on the device" in label for _, label in legend)
    on_cpu = plan(SHAPE, model="TNTPairRE", rank=8, device="cpu", budget="1GiB")
    assert taken_of_device(one_step(on_cpu.workload), on_cpu.workload, on_cpu.peak) is None
