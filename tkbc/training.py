"""A training run: a plan goes in; metrics, a memory check and a checkpoint come out in the run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from memplan.errors import MemplanError
from memplan.plan import MemoryCheck, Plan
from tkbc.checkpoint import save_checkpoint
from tkbc.data.dataset import Dataset, Split
from tkbc.evaluation import Evaluation, evaluate
from tkbc.meter import make_meter
from tkbc.run_folder import RunFolder
from tkbc.scoring import make_score
from tkbc.trainer import Trainer

MEASURED_PIECES = 5000
"""Chunks of scores, over all micro-batches, up to which a step or a batch of queries is measured."""


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

    The first step and the first batch of the first evaluation are measured, which costs a second or two. Validation
    runs every ``valid_freq`` epochs and after the last, each followed by a checkpoint; the test split is ranked once,
    at the end. ``should_stop`` is asked after every step and every batch of queries; a run that stops early keeps a
    checkpoint of every finished step and skips the rest.

    Raises:
        MemplanError: the plan is for another graph, the run folder is taken or cannot be written, or the loss or the
            scores are no numbers any more.
    """
    if dataset.shape != plan.workload.shape:
        raise MemplanError(
            f"the plan is for a graph with {plan.workload.shape}, but {dataset.name} has {dataset.shape}"
        )
    return _Run(plan, dataset, settings, run_folder, reporter or Reporter(), should_stop).run()


class _Run:
    """One run's state, from its first step to its result."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        settings: TrainSettings,
        run_folder: Path,
        reporter: Reporter,
        should_stop: Callable[[], bool],
    ) -> None:
        self.plan, self.dataset, self.settings = plan, dataset, settings
        self.reporter, self.should_stop = reporter, should_stop
        workload = self.workload = plan.workload
        reporter.preparing("scoring kernels (compiled the first time on a machine)")
        make_score(workload.score, workload.scoring, workload.device, workload.threads)
        self.folder = RunFolder(run_folder, plan, {"dataset": dataset.dataset, **settings.model_dump()})
        self.meter = make_meter(workload.device)
        self.check: MemoryCheck | None = None
        self.evaluation_is_measured = not _few_enough(1, workload.n_entities, workload.eval_chunk_size)
        self.epoch = 0
        self.examples_done = 0

    def run(self) -> Result:
        order, seconds = self._first_step()
        interrupted = False
        test = None
        try:
            for epoch in range(1, self.settings.max_epochs + 1):
                self.epoch = epoch
                if self.epoch > 1:
                    order, seconds, self.examples_done = self.trainer.shuffled(self.epoch), 0.0, 0
                self.reporter.epoch_begins(self.epoch, self.settings.max_epochs, self.workload.n_examples)
                self._stop_if_asked()
                begin = time.perf_counter()
                loss, penalty = self.trainer.run_epoch(order, self._step_done, first=self.examples_done)
                del order  # the evaluation's plan does not count it
                self._end_epoch(loss, penalty, seconds + time.perf_counter() - begin)
            test = self._rank("test")
            self.folder.append({"test": _as_dict(test)})
        except _StopRun:
            interrupted = True
            self._save(interrupted=True)
        return Result(self.folder.path, self.epoch, interrupted, test, self.check)

    def _first_step(self) -> tuple[Tensor, float]:
        """Set up and take the run's first step, measured; return the first epoch's order and the step's seconds."""
        workload = self.workload
        measured = _few_enough(workload.accumulation_steps, workload.n_entities, workload.chunk_size)
        with self.meter.recording() if measured else nullcontext():
            self.trainer = Trainer(
                workload,
                self.dataset.train,
                learning_rate=self.settings.learning_rate,
                seed=self.settings.seed,
                phase=self.meter.phase,
            )
            order = self.trainer.shuffled(epoch=1)
            begin = time.perf_counter()
            self.trainer.step(order[: workload.batch_size])
            seconds = time.perf_counter() - begin
        self.examples_done = min(workload.batch_size, len(order))
        self._compare()
        return order, seconds

    def _step_done(self, examples: int) -> None:
        self.examples_done = examples
        self.reporter.step_done(examples, lambda: self.trainer.totals[0].item() / examples)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.should_stop():
            raise _StopRun

    def _end_epoch(self, loss: float, penalty: float, seconds: float) -> None:
        if not math.isfinite(loss):
            raise MemplanError(f"epoch {self.epoch}: the loss is {loss}; lower --learning-rate")
        last = self.epoch == self.settings.max_epochs
        validate = last or self.epoch % self.settings.valid_freq == 0
        if validate:
            self._save(interrupted=False)
        valid = self._rank("valid") if validate else None
        rate = self.workload.n_examples / seconds
        report = EpochReport(self.epoch, loss, penalty, seconds, rate, valid)
        self.folder.append({**report._asdict(), "valid": None if valid is None else _as_dict(valid)})
        self.reporter.epoch_done(report)

    def _rank(self, split: Split) -> Evaluation:
        def on_progress(done: int, n_queries: int) -> None:
            self.reporter.evaluating(split, done, n_queries)
            self._stop_if_asked()

        measured = None if self.evaluation_is_measured else self._measured_evaluation()
        evaluation = evaluate(
            self.trainer.model,
            self.trainer.score,
            self.dataset.split(split),
            self.dataset.filter_index,
            self.workload,
            on_progress,
            measured,
        )
        if measured is not None:
            self.evaluation_is_measured = True
            self._compare()
            if self.check is not None:
                self.reporter.memory_checked(self.check)
        return evaluation

    @contextmanager
    def _measured_evaluation(self) -> Iterator[None]:
        with self.meter.recording(self.trainer.persistent_tensors()), self.meter.phase("evaluation"):
            yield

    def _compare(self) -> None:
        if self.meter.peaks:
            self.check = MemoryCheck.compare(self.workload.device, self.plan.phases, self.plan.peak, self.meter.peaks)
            self.folder.write_check(self.check)

    def _save(self, *, interrupted: bool) -> None:
        state = {"epoch": self.epoch, "examples_done": self.examples_done, "interrupted": interrupted}
        save_checkpoint(self.folder.checkpoint, self.trainer, state)


def _few_enough(micro_batches: int, n_entities: int, chunk_size: int) -> bool:
    """Return whether a profiler can record so many pieces of work: it keeps every event until the end."""
    return micro_batches * -(-n_entities // chunk_size) <= MEASURED_PIECES


def _as_dict(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    return {name: metrics._asdict() for name, metrics in evaluation._asdict().items()}
