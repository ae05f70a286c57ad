"""Running out of memory in the middle of a run: at one operation of a step or an evaluation after another."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.errors import DoesNotFitError
from memplan.plan import Plan
from memplan.search.planner import plan
from memplan.search.replan import replan
from tests.conftest import random_graph
from tests.support.recovery import CONFIGURATIONS, SHAPE, make_trainer, settings_of
from tests.support.slow import mostly_slow
from tests.support.training import newest_checkpoint
from tkbc.ranking import evaluation
from tkbc.runs import loop as run
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.recovery import is_out_of_memory
from tkbc.runs.train import Reporter, TrainSettings, resume, train
from tkbc.step.optimizers import SteadyAdagrad
from tkbc.step.trainer import Trainer

ERRORS: tuple[Exception, ...] = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB (injected)"),
    RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 20 bytes (injected)"
    ),
    MemoryError(),
)
NAMES = [
    f"{c['model']}-{c['scoring']}-{c['optimizer']}{'-negatives' if 'negatives' in c else ''}" for c in CONFIGURATIONS
]


pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = 15
"""Of a step's operations every fifteenth is made to fail, and every one of its update; 1 tries them all."""
UPDATE = 45
ALLOCATE_NOTHING = ("profiler.", "aten.slice.", "aten.select.", "aten.view.", "aten.detach.", "aten.alias.")


class OutOfMemoryAt(TorchDispatchMode):
    """Raises instead of operation number ``at``, once; counts every operation that could allocate."""

    def __init__(self, at: int | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not str(func).startswith(ALLOCATE_NOTHING)
        if self.count == self.at:
            self.at = None
            raise self.error or ERRORS[self.count % len(ERRORS)]
        return func(*args, **(kwargs or {}))


def train_two_steps(trainer: Trainer, mode: OutOfMemoryAt) -> int:
    """Take two steps, the second with the accident; return how often it failed."""
    first, second, _ = trainer.shuffled(1).split(40)
    trainer.step(first)
    failures = 0
    while trainer.steps < 2:
        with suppress(torch.OutOfMemoryError, RuntimeError, MemoryError), mode:
            trainer.step(second)
        if trainer.steps < 2:
            failures += 1
            trainer.score.forget()
            trainer.adopt(trainer.workload.model_copy(update={"micro_batch_size": 7}))
    return failures


@pytest.mark.parametrize("configuration", mostly_slow(CONFIGURATIONS), ids=NAMES)
@pytest.mark.parametrize("part", [pytest.param("step", marks=pytest.mark.slow), "update"])
def test_what_fails_at_any_operation_is_taken_again_to_the_same_end(configuration: dict[str, Any], part: str) -> None:
    whole, mode = make_trainer(configuration), OutOfMemoryAt()
    assert train_two_steps(whole, mode) == 0
    update = mode.count - UPDATE
    for at in range(1, update, EVERY) if part == "step" else range(update, mode.count + 1):
        trainer = make_trainer(configuration)
        assert train_two_steps(trainer, OutOfMemoryAt(at)) == 1
        for name, table in whole.model.named_parameters():
            torch.testing.assert_close(dict(trainer.model.named_parameters())[name], table, rtol=2e-4, atol=2e-6)
        for one, other in zip(trainer.optimizer.state.values(), whole.optimizer.state.values(), strict=True):
            assert torch.equal(one["step"], other["step"])
        torch.testing.assert_close(trainer.totals[0], whole.totals[0], rtol=1e-5, atol=0)


def run_with_accidents(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, step: int | None = None, rank: int | None = None, at: int = 10**9
) -> tuple[Any, OutOfMemoryAt]:
    """Train two epochs; operation ``at`` of the given optimizer step, or of the given evaluation, fails."""
    graph = random_graph(SHAPE, n_valid=30, n_test=30)
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    made = plan(graph.shape, target, n_queries=60, **settings_of(CONFIGURATIONS[0]))
    mode, original_step, original_evaluate, ranked = OutOfMemoryAt(at), Trainer.step, evaluation.count_rivals, 0

    def failing_step(self: Trainer, *arguments: Any) -> None:
        with mode if self.steps == step else nullcontext():
            original_step(self, *arguments)

    def failing_evaluate(*arguments: Any) -> Any:
        nonlocal ranked
        with mode if ranked == rank else nullcontext():
            found = original_evaluate(*arguments)
        ranked += 1
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing_step)
        patch.setattr(run, "count_rivals", failing_evaluate)
        settings = TrainSettings(learning_rate=0.1, max_epochs=2, valid_freq=1)
        return train(made, graph, settings, folder), mode


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" in line]


_LATER = [pytest.param(where, marks=pytest.mark.slow) for where in ({"step": 0}, {"rank": 0}, {"rank": 1})]


@pytest.mark.parametrize("where", [{"step": 4}, {"rank": 2}, *_LATER], ids=str)
@pytest.mark.slow
def test_a_run_goes_on_with_a_smaller_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: dict[str, int]
) -> None:
    whole, _ = run_with_accidents(tmp_path / "whole", monkeypatch)
    expected = load_file(newest_checkpoint(tmp_path / "whole") / "model.safetensors")
    _, counted = run_with_accidents(tmp_path / "counted", monkeypatch, **where)
    for at in range(1, counted.count + 1, max(1, counted.count // 3)):
        folder = tmp_path / str(at)
        result, _ = run_with_accidents(folder, monkeypatch, **where, at=at)
        for name, table in load_file(newest_checkpoint(folder) / "model.safetensors").items():
            # Adam divides by the gradient's size: where that is tiny, the rounding of its sum shows.
            torch.testing.assert_close(table, expected[name], rtol=2e-3, atol=2e-5)
        assert result.test.both.mrr == pytest.approx(whole.test.both.mrr, rel=1e-3)
        (event,) = events(folder)
        assert event["event"] == "out of memory"
        assert all(after < before for before, after in event["changes"].values())
        assert event["changes"]
        assert json.loads((folder / "plan.json").read_text())["peak"]["device_bytes"] > 0
        planned = {phase.name: phase.peak_bytes for phase in Plan.read(folder / "plan.json").phases}
        predicted = {phase.name: phase.predicted.requested_bytes for phase in result.memory_check.phases}
        assert predicted.items() <= planned.items()
        if where != {"step": 0}:  # that one is measured while the mode that counts operations allocates, too
            assert all(phase.relative_error == 0 for phase in result.memory_check.phases), "not of the new plan"


@pytest.mark.slow
def test_when_nothing_fits_a_checkpoint_is_left_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = random_graph(SHAPE, n_valid=30, n_test=30)
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    made = plan(graph.shape, target, n_queries=60, **settings_of(CONFIGURATIONS[1]))
    settings = TrainSettings(learning_rate=0.1, max_epochs=2)
    original, tries = Trainer.step, 0

    def step(self: Trainer, *arguments: Any) -> None:
        nonlocal tries
        if self.steps == 4:
            tries += 1
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        original(self, *arguments)

    told: list[str] = []

    class Listening(Reporter):
        def notice(self, text: str) -> None:
            told.append(text)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(DoesNotFitError, match=r"no smaller plan fits .*memplan train --resume"):
            train(made, graph, settings, tmp_path / "run", Listening())
    assert len(told) == tries - 1 > 3
    name, state = Checkpoints(tmp_path / "run" / "checkpoint").newest()
    assert (state.epoch, state.examples_done, state.steps) == (2, 40, 4)
    assert resume(tmp_path / "run", name, state, graph).test is not None


def test_a_smaller_plan_shrinks_only_the_part_that_failed() -> None:
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    made = plan(SHAPE, target, n_queries=60, **settings_of(CONFIGURATIONS[0]))
    smaller = replan(made, target, "training")
    assert smaller.micro_batch_size * smaller.chunk_size < made.micro_batch_size * made.chunk_size
    assert (smaller.eval_batch_size, smaller.eval_chunk_size) == (made.eval_batch_size, made.eval_chunk_size)
    smaller = replan(made, target, "evaluation")
    assert (smaller.micro_batch_size, smaller.chunk_size) == (made.micro_batch_size, made.chunk_size)
    assert smaller.eval_batch_size * smaller.eval_chunk_size < made.eval_batch_size * made.eval_chunk_size
    tight = target._replace(budget_bytes=made.peak.device_bytes // 2)
    assert replan(made, tight, "training").peak.device_bytes <= made.peak.device_bytes
    with pytest.raises(DoesNotFitError):
        replan(made, target._replace(budget_bytes=1000), "training")


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("x"), KeyError("memory")])
def test_other_errors_are_not_taken_for_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_another_error_of_a_step_ends_the_run_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Trainer, "_accumulate", fail)
    with pytest.raises(RuntimeError, match=r"^shape mismatch$"):
        run_with_accidents(tmp_path / "run", monkeypatch)
    assert events(tmp_path / "run") == []


def test_out_of_memory_before_the_first_step_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nmore lines")

    monkeypatch.setattr(run, "Trainer", fail)
    with pytest.raises(DoesNotFitError, match=r"^out of memory before the first step: CUDA .* 20\.00 GiB$"):
        run_with_accidents(tmp_path / "run", monkeypatch)


@pytest.mark.parametrize("learning_rate", [0.1, 1e-3])
def test_steady_adagrad_is_pytorch_s_bit_for_bit_and_fails_before_it_changes_anything(learning_rate: float) -> None:
    """It runs on CUDA; it is tested on the CPU against the single-tensor one that it stands for there."""
    one, other = ([torch.linspace(-1, 1, n).view(-1, 2) for n in (6, 40, 14)] for _ in range(2))
    steady = SteadyAdagrad(one, learning_rate, torch)
    plain = torch.optim.Adagrad(other, lr=learning_rate, fused=False, foreach=False)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        for mine, theirs in zip(one, other, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            theirs.grad = mine.grad.clone()
        before = [tensor.clone() for tensor in (*one, *(state["sum"] for state in steady.state.values()))]
        with pytest.raises(MemoryError), OutOfMemoryAt(1, MemoryError()):
            steady.step()
        after = [*one, *(state["sum"] for state in steady.state.values())]
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
        for state in steady.state.values():
            state["step"].fill_(seed)
        steady.step()
        plain.step()
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
