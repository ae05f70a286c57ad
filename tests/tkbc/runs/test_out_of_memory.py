"""Memory that really runs out, under a limit of the system; and what is measured before a smaller plan is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.plan import Plan
from memplan.search.planner import plan
from memplan.search.replan import Part
from tests.support.recovery import CONFIGURATIONS, SHAPE, make_trainer, settings_of
from tkbc.models.base import gradient
from tkbc.runs import recovery

pytestmark = pytest.mark.usefixtures("one_thread")

FREE = 10_000_000


def test_a_smaller_plan_is_made_for_what_is_free_and_what_the_run_holds_less_a_margin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(CONFIGURATIONS[0])
    held: list[Tensor] = [trainer.examples, trainer.totals]
    for parameter in trainer.model.parameters():
        held += [parameter, gradient(parameter)]
        held += [value for value in trainer.optimizer.state[parameter].values() if isinstance(value, Tensor)]
    own_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    asked: list[Target] = []

    def replan(plan: Plan, target: Target, part: Part) -> Plan:
        asked.append(target)
        return plan

    monkeypatch.setattr(recovery, "free_ram_bytes", lambda: (FREE, "free RAM"))
    monkeypatch.setattr(recovery, "replan", replan)
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    made = plan(SHAPE, target, n_queries=60, **settings_of(CONFIGURATIONS[0]))
    recovery.smaller_plan(made, trainer, "training")
    assert asked[0].budget_bytes == round((FREE + own_bytes) * 0.95)
    assert asked[0].budget_source == "free RAM now, and what this run holds"


class Scratch:
    """A score in the middle of a step, which holds a tensor for a backward that will not come."""

    def __init__(self) -> None:
        self.kept: Tensor | None = torch.zeros(1000)

    def forget(self) -> None:
        self.kept = None


def test_what_a_failed_step_left_is_freed_before_memory_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(CONFIGURATIONS[2])
    score = Scratch()
    trainer.score = score  # type: ignore[assignment]
    loop: list[Any] = [torch.zeros(1000)]
    loop.append(loop)  # as a traceback and its frames hold each other
    left = [weakref.ref(score.kept), weakref.ref(loop[0])]
    del loop
    alive: list[bool] = []

    def free_ram_bytes() -> tuple[int, str]:
        alive.extend(reference() is not None for reference in left)
        return FREE, "free RAM"

    monkeypatch.setattr(recovery, "free_ram_bytes", free_ram_bytes)
    monkeypatch.setattr(recovery, "replan", lambda plan, *_: plan)
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    recovery.smaller_plan(plan(SHAPE, target, n_queries=60, **settings_of(CONFIGURATIONS[2])), trainer, "training")
    assert alive == [False, False]


LIMITED = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from memplan.device.target import Target
from memplan.errors import MemplanError
from memplan.search.planner import plan
from memplan.device.rates import cpu_rates
from memplan.workload import Shape
from tests.conftest import random_graph
from tkbc.runs import recovery
from tkbc.runs import loop as run
from tkbc.runs.train import TrainSettings, train

torch.set_num_threads(1)
settings = json.loads(sys.argv[2])
room = settings.pop("room")
graph = random_graph(Shape(n_entities=2000, n_relations=3, n_timestamps=6, n_facts=100), n_valid=50, n_test=50)
target = Target("cpu", "CPU", 2**32, "test", cpu_rates(), 0)
made = plan(graph.shape, target, model="TNTPairRE", rank=64, scoring="chunked", threads=1, **settings)
train(made, graph, TrainSettings(learning_rate=0.1, max_epochs=1), Path(sys.argv[1]) / "warm")
vms = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (vms + room, resource.RLIM_INFINITY))
try:
    result = train(made, graph, TrainSettings(learning_rate=0.1, max_epochs=1), Path(sys.argv[1]) / "run")
except MemplanError as error:
    print(type(error).__name__, error)
    sys.exit(3)
print("finished", made.peak.device_bytes)
"""
SMALL = {"batch_size": 100, "micro_batch_size": 20, "chunk_size": 500, "eval_batch_size": 20, "eval_chunk_size": 500}
LARGE_STEP = {**SMALL, "micro_batch_size": 100, "chunk_size": 2000}
LARGE_RANKING = {**SMALL, "eval_batch_size": 100, "eval_chunk_size": 2000}


def limited(folder: Path, settings: dict[str, int], room: int) -> subprocess.CompletedProcess[str]:
    """Train in a process whose address space may grow by ``room`` bytes once everything is loaded and compiled."""
    command = [sys.executable, "-c", LIMITED, str(folder), json.dumps({**settings, "room": room})]
    # Threads that meet in malloc would get arenas of their own, whose address space is no memory of the run's.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("settings", "during", "shrunk"),
    [
        (LARGE_STEP, "training", ("micro_batch_size", "chunk_size")),
        (LARGE_RANKING, "evaluation", ("eval_batch_size", "eval_chunk_size")),
    ],
    ids=["training", "ranking"],
)
@pytest.mark.slow
def test_a_run_whose_memory_really_runs_out_goes_on_with_less(
    tmp_path: Path, settings: dict[str, int], during: str, shrunk: tuple[str, str]
) -> None:
    """A tensor of 100 × 2,000 × 64 floats takes 49 MiB, two live at once, and 40 MiB are allowed."""
    done = limited(tmp_path, settings, 40 * 2**20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[1]) > 100 * 10**6
    lines, whole = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "warm")
    )
    events = [line for line in lines if "event" in line]
    assert {event["event"] for event in events} == {"out of memory"}
    assert {event["during"] for event in events} == {during}
    assert all(set(event["changes"]) <= set(shrunk) for event in events)
    assert not any("event" in line for line in whole)
    for name in ("mrr", "hits_at_10"):
        assert lines[-1]["test"]["both"][name] == pytest.approx(whole[-1]["test"]["both"][name], rel=1e-3)
