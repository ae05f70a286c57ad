"""A training run: a plan goes in; metrics, a memory check and a checkpoint come out in the run folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field

from memplan.errors import MemplanError
from memplan.plan import MemoryCheck, Plan, to_json
from tkbc.checkpoint import save_checkpoint
from tkbc.data.dataset import Dataset, Split
from tkbc.evaluation import Evaluation, evaluate
from tkbc.meter import make_meter
from tkbc.scoring import make_score
from tkbc.trainer import Trainer


class TrainSettings(BaseModel):
    """What a run needs besides its plan; nothing here changes memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max_epochs: Annotated[int, Field(ge=1)]
    valid_freq: Annotated[int, Field(ge=1)] = 5
    """Validate after every this many epochs, and after the last."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class EpochReport(NamedTuple):
    """One line of metrics.jsonl."""

    epoch: int
    loss: float
    """Mean cross-entropy of the epoch's examples."""
    n3_penalty: float
    """Mean N3 penalty of the epoch's examples."""
    seconds: float
    examples_per_second: float
    valid: Evaluation | None


class Result(NamedTuple):
    """What a run ends with."""

    run_folder: Path
    epochs: int
    interrupted: bool
    test: Evaluation | None
    memory_check: MemoryCheck | None


class Reporter:
    """Told what happens, as it happens; this one keeps quiet."""

    def preparing(self, what: str) -> None:
        """Something that can take seconds begins."""

    def epoch_begins(self, epoch: int, n_epochs: int, n_examples: int) -> None:
        """An epoch begins; epochs count from 1."""

    def step_done(self, examples: int, mean_loss: Callable[[], float]) -> None:
        """A step is done, and ``examples`` of the epoch; ``mean_loss`` reads the device, so ask sparingly."""

    def evaluating(self, split: Split, done: int, n_queries: int) -> None:
        """``done`` of the split's queries are ranked."""

    def epoch_done(self, report: EpochReport) -> None:
        """An epoch and its validation are done."""

    def memory_checked(self, check: MemoryCheck) -> None:
        """The plan has been compared with what was measured."""


class _StopRun(Exception):  # noqa: N818 - no error: the user's wish
    """The user asked to stop; raised between steps, so that every table is whole."""


def train(
    plan: Plan,
    dataset: Dataset,
    settings: TrainSettings,
    run_folder: Path,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train as planned, check the plan against what is really allocated, evaluate, and leave a run folder.

    The first step and the first evaluation are measured (the check costs a second or two); validation runs every
    ``valid_freq`` epochs and the test split is ranked once, at the end. ``should_stop`` is asked after every step; a
    run that stops early keeps its checkpoint and skips the rest.

    Raises:
        MemplanError: the plan is for another graph, the run folder is taken, or the scores are no numbers any more.
    """
    reporter = reporter or Reporter()
    workload = plan.workload
    if dataset.shape != workload.shape:
        raise MemplanError(f"the plan is for a graph with {workload.shape}, but {dataset.name} has {dataset.shape}")
    reporter.preparing("scoring kernels (compiled the first time on a machine)")
    make_score(workload.score, workload.scoring, workload.device, workload.threads)
    _begin_run_folder(run_folder, plan, dataset, settings)

    meter = make_meter(workload.device)
    check: MemoryCheck | None = None

    def ranked(split: Split) -> Evaluation:
        nonlocal check

        def run() -> Evaluation:
            return evaluate(
                trainer.model,
                trainer.score,
                dataset.split(split),
                dataset.filter_index,
                workload,
                lambda done, n_queries: reporter.evaluating(split, done, n_queries),
            )

        if check is not None:
            return run()
        with meter.recording(trainer.persistent_tensors()), meter.phase("evaluation"):
            evaluation = run()
        check = MemoryCheck.compare(workload.device, plan.phases, plan.peak, meter.peaks)
        (run_folder / "memory_check.json").write_text(to_json(check) + "\n", encoding="utf-8")
        reporter.memory_checked(check)
        return evaluation

    with meter.recording():
        trainer = Trainer(
            workload, dataset.train, learning_rate=settings.learning_rate, seed=settings.seed, phase=meter.phase
        )
        order = trainer.shuffled(epoch=0)
        trainer.step(order[: workload.batch_size])

    done = min(workload.batch_size, len(order))
    epoch = 0
    interrupted = False

    def on_step(examples: int) -> None:
        nonlocal done
        done = examples
        if reporter:
            reporter.step_done(examples, lambda: trainer.totals[0].item() / examples)
        if should_stop():
            raise _StopRun

    try:
        for epoch in range(settings.max_epochs):
            reporter.epoch_begins(epoch + 1, settings.max_epochs, workload.n_examples)
            begin = time.perf_counter()
            first = done if epoch == 0 else 0
            if epoch > 0:
                order = trainer.shuffled(epoch)
            loss, penalty = trainer.run_epoch(order, on_step, first=first)
            del order  # the evaluation's plan does not count it
            seconds = time.perf_counter() - begin
            if not loss < float("inf"):
                raise MemplanError(f"epoch {epoch + 1}: the loss is {loss}; lower --learning-rate")
            is_last = epoch + 1 == settings.max_epochs
            validate = is_last or (epoch + 1) % settings.valid_freq == 0
            report = EpochReport(
                epoch + 1,
                loss,
                penalty,
                seconds,
                (workload.n_examples - first) / seconds,
                ranked("valid") if validate else None,
            )
            _append_metrics(run_folder, report)
            reporter.epoch_done(report)
    except _StopRun:
        interrupted = True
    state = {"epoch": epoch + 1, "examples_done": done, "interrupted": interrupted}
    save_checkpoint(run_folder / "checkpoint", trainer, state)
    test = None if interrupted else ranked("test")
    if test is not None:
        _append_line(run_folder, {"test": _as_dict(test)})
    return Result(run_folder, epoch + 1, interrupted, test, check)


def _begin_run_folder(folder: Path, plan: Plan, dataset: Dataset, settings: TrainSettings) -> None:
    try:
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(to_json(plan) + "\n", encoding="utf-8")
        config = {
            "dataset": dataset.name,
            **settings.model_dump(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except FileExistsError:
        raise MemplanError(f"{folder}: there is a run already; choose another folder with --run-dir") from None
    except OSError as error:
        raise MemplanError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder with --run-dir"
        ) from None


def _as_dict(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    return {name: metrics._asdict() for name, metrics in evaluation._asdict().items()}


def _append_metrics(folder: Path, report: EpochReport) -> None:
    line = report._asdict()
    line["valid"] = None if report.valid is None else _as_dict(report.valid)
    _append_line(folder, line)


def _append_line(folder: Path, line: dict[str, object]) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
