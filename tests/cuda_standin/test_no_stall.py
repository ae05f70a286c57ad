"""The host waits for the device only in named waits (tkbc/step/waiting.py), and in an ordinary step in none."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from memplan.device.target import resolve
from memplan.search.planner import plan
from memplan.workload import PRECISIONS, TRAITS, Precision, Scoring, Shape, Workload, build_workload
from memplan.workload.rules import available
from tests.conftest import random_graph
from tests.cuda_standin import device
from tests.support.models_cases import SCORED
from tkbc.data.dataset import index_of
from tkbc.ranking import evaluation
from tkbc.ranking.evaluation import evaluate
from tkbc.runs.train import Reporter, TrainSettings, train
from tkbc.step.finite import CHECK_STEPS, check_step
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not device.is_here(), reason="runs on the stand-in device: tests/cuda_standin/README.md"),
    pytest.mark.usefixtures("_answered"),
]

SHAPE = Shape(n_entities=150, n_relations=3, n_timestamps=7, n_facts=200)
STARTED = {"cudaLaunchKernel", "cuLaunchKernel", "cudaMemset", "cudaMemcpyAsync on the device"}
"""What an ordinary step is made of."""


@pytest.fixture
def _answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "allclose", lambda *_arguments, **_options: True)  # as answered.py says


def make_workload(**settings: Any) -> Workload:
    traits = TRAITS[settings["model"]]
    base = {"rank": 5, "batch_size": 100, "micro_batch_size": 60, "emb_reg": 0.01, "unit_norm": not traits.is_complex}
    base["time_reg"] = 0.01 if traits.is_temporal else 0
    return build_workload(settings.pop("shape", SHAPE), device="cuda", **{**base, **settings})


def make_trainer(workload: Workload) -> Trainer:
    return Trainer(workload, random_facts(workload, workload.n_facts), learning_rate=0.1)


def synchronizations() -> int:
    """The calls that wait, but for the copies to pageable memory: each is followed by a wait for the stream."""
    return sum(count for name, count in device.stalls().items() if not name.startswith("cudaMemcpyAsync"))


def calls() -> dict[str, int]:
    return {name: count for name, count in device.read().items() if count}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scoring", ["materialized", "chunked", "fused"])
@pytest.mark.parametrize(("model", "score"), SCORED)
def test_an_ordinary_step_only_starts_work(model: str, score: str, scoring: Scoring, precision: Precision) -> None:
    """No wait, no copy from or to the host, no memory from or to the driver, with every optimizer."""
    if scoring not in available(score, "cuda"):
        pytest.skip("not on CUDA")
    chunk = None if scoring == "materialized" else 70
    for optimizer in ("adagrad", "adam", "sgd"):
        trainer = make_trainer(
            make_workload(model=model, score=score, scoring=scoring, precision=precision, optimizer=optimizer,
                          chunk_size=chunk)
        )  # fmt: skip
        parts = trainer.shuffled(0).split(100)
        for part in parts[:3]:
            device.reset()
            trainer.set_learning_rate(0.05)
            trainer.step(part, checking=lambda trainer=trainer: check_step(trainer, "here", "go home"))
        assert set(calls()) <= STARTED, optimizer
        assert calls()["cudaLaunchKernel"] > 0


@pytest.mark.parametrize("intervals", [False, True])
def test_a_deterministic_step_only_starts_work_too(monkeypatch: pytest.MonkeyPatch, intervals: bool) -> None:
    """Its sorts take scratch by shape, and ask the device for nothing."""
    shape = SHAPE.model_copy(update={"intervals": intervals, "n_facts": 5000})
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(True)
    try:
        trainer = make_trainer(
            make_workload(shape=shape, model="TNTPairRE", deterministic=True, batch_size=3000, micro_batch_size=3000)
        )
        for part in trainer.shuffled(0).split(3000)[:3]:
            device.reset()
            trainer.step(part)
    finally:
        torch.use_deterministic_algorithms(False)
    assert set(calls()) <= STARTED


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_a_step_sends_its_negatives_and_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, deterministic: bool
) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(deterministic)
    try:
        trainer = make_trainer(
            make_workload(model="TNTPairRE", optimizer=optimizer, negatives=60, deterministic=deterministic)
        )
        for part in trainer.shuffled(0).split(100)[:3]:
            device.reset()
            trainer.step(part, checking=lambda: check_step(trainer, "here", "go home"))
    finally:
        torch.use_deterministic_algorithms(False)
    pinned = "cudaMemcpyAsync with pinned memory"
    assert set(calls()) - STARTED <= {pinned, "cudaEventRecord", "cudaEventQuery"}
    assert calls()[pinned] == 1
    assert not device.stalls()


def test_every_so_many_steps_one_transfer_tells_whether_the_numbers_are_finite() -> None:
    trainer = make_trainer(make_workload(model="TNTPairRE"))
    part = trainer.shuffled(0)[:100]
    waits = []
    for _ in range(CHECK_STEPS + 2):
        device.reset()
        trainer.step(part, checking=lambda: check_step(trainer, "here", "go home"))
        waits.append(synchronizations())
    assert waits == [1, *[0] * (CHECK_STEPS - 1), 1, 0]


@pytest.mark.parametrize(("piece", "chunk"), [(8192, 150), (8192, 40), (64, 40)])
def test_a_ranking_waits_once_at_its_end(monkeypatch: pytest.MonkeyPatch, piece: int, chunk: int) -> None:
    """Each batch takes one copy of its ids, one of each piece of its filter, and one of its counts."""
    monkeypatch.setattr("tkbc.ranking.rivals.PIECE", piece)
    workload = make_workload(model="TNTComplEx", eval_batch_size=50, eval_chunk_size=chunk)
    trainer = make_trainer(workload)
    facts = random_facts(workload, workload.n_facts)
    index = index_of(facts, workload.n_relations)
    pairs: list[int] = []
    other_tails = evaluation._other_tails

    def counted(*arguments: Any) -> Any:
        found = other_tails(*arguments)
        pairs.append(len(found[0]))
        return found

    monkeypatch.setattr(evaluation, "_other_tails", counted)
    evaluate(trainer.model, trainer.score, facts, index, workload)  # the second finds its pinned memory there
    pairs.clear()
    device.reset()
    evaluate(trainer.model, trainer.score, facts, index, workload)
    assert len(pairs) == 8
    found = calls()
    assert found["cudaMemcpyAsync with pinned memory"] == sum(2 + -(-n // piece) for n in pairs)
    assert "cudaMemcpyAsync from pageable memory" not in found
    assert "cudaHostAlloc" not in found
    # Two of the waits return segments to the driver, before the ranking and after it.
    assert "cudaStreamSynchronize" not in found
    assert found["cudaDeviceSynchronize"] <= 3


class _Watched:
    """Counts the calls that wait, inside each named wait and in all."""

    def __init__(self) -> None:
        self.named: collections.Counter[str] = collections.Counter()
        self.calls: collections.Counter[str] = collections.Counter()

    @contextmanager
    def wait(self, name: str) -> Iterator[None]:
        before = synchronizations()
        yield
        name = name.removeprefix("wait: ")
        self.named[name] += 1
        self.calls[name] += synchronizations() - before


class _Strict(Reporter):
    """From the first step on lets PyTorch refuse every wait that it knows of; asks for the loss at every third step."""

    def __init__(self, watched: _Watched) -> None:
        self.watched, self.steps = watched, 0

    def epoch_begins(self, epoch: int, *_sizes: int) -> None:
        if epoch == 1:
            device.reset()
            self.watched.calls.clear()
            torch.cuda.set_sync_debug_mode("error")

    def step_done(self, _examples: int, mean_loss: Callable[[], float], memory: Callable[[], Any]) -> None:
        self.steps += 1
        if self.steps % 3 == 0:
            mean_loss()
        memory()


@pytest.mark.parametrize("intervals", [False, True])
def test_every_wait_of_a_run_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intervals: bool) -> None:
    graph = random_graph(SHAPE.model_copy(update={"intervals": intervals}), n_valid=60, n_test=60)
    made = plan(graph.shape, resolve("cuda", None), model="TNTPairRE", rank=5, batch_size=100, n_queries=120,
                eval_batch_size=30, threads=2)  # fmt: skip
    watched = _Watched()
    reporter = _Strict(watched)
    monkeypatch.setattr("torch.profiler.record_function", watched.wait)
    try:
        settings = TrainSettings(learning_rate=0.1, max_epochs=14, valid_freq=7)
        train(made, graph, settings, tmp_path / "run", reporter)
        counted = synchronizations()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert reporter.steps == 14 * 4
    order = 2 if intervals else 1  # the times drawn for the epoch, too
    assert watched.named == {
        "order of an epoch": 14 * order,
        "check of a step": 2,
        "loss on the terminal": 18,
        "end of an epoch": 14,
        "check of the tables": 14 + 2,
        "tables to a checkpoint": 2,
        "tables from a checkpoint": 1,
        "unused segments to the driver": 2 * 3,
        "ranks of a split": 3,
    }
    assert counted == watched.calls.total(), "a wait without a name"
    once = ("check of a step", "loss on the terminal", "check of the tables", "end of an epoch", "ranks of a split")
    assert all(watched.calls[name] == watched.named[name] for name in once), "one transfer each"
