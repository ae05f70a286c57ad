"""The loop of a run: epochs of steps, validations and checkpoints, and what it does where something goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TypeVar

from torch import Tensor

from memplan.catalog.folders import Split
from memplan.catalog.recipes import lower_rate
from memplan.errors import DoesNotFitError, MemplanError, NotFiniteError
from memplan.plan import MemoryCheck
from memplan.prediction.estimate import plan_of_process
from memplan.search.replan import Part
from tkbc.data.dataset import Dataset
from tkbc.measure.meter import start_clean
from tkbc.ranking.evaluation import Evaluation, Ranks, as_dict, count_rivals
from tkbc.ranking.fitting import fit
from tkbc.ranking.groups import by_group
from tkbc.ranking.rules import Rules
from tkbc.ranking.weights import FittedRules
from tkbc.runs.bound import time_is_spent
from tkbc.runs.checkpoint import load_checkpoint, load_model, save_checkpoint
from tkbc.runs.folder import RunFolder
from tkbc.runs.listing import how_to_resume
from tkbc.runs.metrics import FAILED, Epoch, Event, Final
from tkbc.runs.recovery import changes_of, is_out_of_memory, smaller_plan
from tkbc.runs.reporter import EpochReport, Reporter, Result
from tkbc.runs.state import Best, RunState
from tkbc.runs.tensorboard import Board
from tkbc.runs.watch import MemoryWatch, drift
from tkbc.scoring import make_score
from tkbc.sharded import Processes
from tkbc.step.finite import check_step, check_tables
from tkbc.step.trainer import Trainer
from tkbc.step.waiting import synchronize, waiting

T = TypeVar("T")

PROGRESS_SECONDS = 1.0
"""How often progress.json is written."""


class _StopRun(Exception):  # noqa: N818 - no error: the user's wish
    """The user asked to stop; raised where every table is whole."""


class Run:
    """One run from where its state says to its end."""

    def __init__(
        self,
        folder: RunFolder,
        dataset: Dataset,
        state: RunState,
        checkpoint: str | None,
        reporter: Reporter,
        should_stop: Callable[[], bool],
        processes: Processes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        state.plan = plan_of_process(state.plan, processes.index)
        self.folder, self.dataset, self.state, self.processes = folder, dataset, state, processes
        self.settings, self.reporter, self.should_stop = state.settings, reporter, should_stop
        start_clean(state.plan.workload.device)
        self.watch = MemoryWatch(state.plan)
        self._known_drift: str | None = None
        self._check: MemoryCheck | None = None
        self._saved = time.monotonic()
        self._shown = 0.0
        self._resume = how_to_resume(folder.path)
        workload = state.plan.workload
        reporter.preparing("scoring kernels (compiled the first time on a machine)")
        make_score(workload.score, workload.scoring, workload.device, workload.threads, workload.precision)
        try:
            with self.watch.meter.recording():
                self.trainer = Trainer(
                    workload,
                    dataset.train,
                    learning_rate=self.settings.learning_rate,
                    seed=self.settings.seed,
                    init_scale=self.settings.init_scale,
                    processes=processes,
                    phase=self.watch.meter.phase,
                )
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFitError(f"out of memory before the first step: {_first_line(error)}") from None
        if checkpoint is not None:
            processes.together(lambda: load_checkpoint(folder.checkpoints.folder / checkpoint, self.trainer, state))
        has_board = self.settings.tensorboard and processes.leads
        self.board = Board(folder.path / "tensorboard", state.epoch) if has_board else None
        self._clock, self._counted = clock, clock()

    def run(self) -> Result:
        """Train, validate and test; stop early where asked.

        Raises:
            DoesNotFitError: memory ran out and no smaller plan fits.
            MemplanError: numbers went wrong, memory drifted and was to be strict, or the disk cannot be written.
        """
        try:
            while not self.state.is_over:
                self._run_epoch()
            self._say_if_out_of_time()
            best = self.state.best
            if not self.settings.rank_test:
                return self._end(interrupted=False, test=None)
            if best is not None:
                self._load(best)
            alone = self._rank("test")
            fitted = self._fit_rules()
            ranks = alone if fitted is None else self._rank("test", fitted)
        except _StopRun:
            self._save_unless_over()
            return self._end(interrupted=True, test=None)
        except DoesNotFitError as error:
            if self.processes.n == 1:
                self._save_unless_over()
            raise DoesNotFitError(f"{error}. Free memory, then {self._resume}") from None
        except NotFiniteError as error:
            with suppress(MemplanError):  # the first error is the one to report
                self.folder.append(Event(event=FAILED, epoch=self.state.epoch, what=str(error)))
            raise
        test, without = ranks.evaluation(), None if fitted is None else alone.evaluation()
        self.folder.append(self._final(ranks, test, without))
        return self._end(interrupted=False, test=test, alone=without)

    def _fit_rules(self) -> FittedRules | None:
        """Return the graph's rules with weights fitted to the validation split, where the run ranks with rules."""
        if not self.trainer.workload.rules:
            return None
        if self.processes.n > 1:
            self.reporter.notice(f"rules are fitted by one process: memplan evaluate {self.folder.path} --rules")
            return None
        self.reporter.preparing("rules of the graph")
        rules, trainer = Rules.of(self.dataset), self.trainer

        def on_progress(done: int, n_queries: int) -> None:
            self.reporter.evaluating("valid", done, n_queries)
            self._stop_if_asked()

        facts, known = self.dataset.queries("valid"), self.dataset.filter_index
        weights = self._attempt(
            "evaluation", lambda: fit(trainer.model, trainer.score, rules, facts, known, trainer.workload, on_progress)
        )
        self.folder.write_rules(weights)
        return FittedRules(rules, weights)

    def _final(self, ranks: Ranks, test: Evaluation, alone: Evaluation | None) -> Final:
        best, facts = self.state.best, self.dataset.queries("test")
        relations = [
            {"relation": name, "n_facts": n_facts, **metrics._asdict()}
            for name, n_facts, metrics in by_group(ranks, facts[:, 1], self.dataset.relations)
        ]
        best_epoch = None if best is None else best.epoch
        without = None if alone is None else as_dict(alone)
        found = {"test": as_dict(test), "alone": without, "best_epoch": best_epoch, "by_relation": relations}
        return Final.model_validate(found)

    def _end(self, *, interrupted: bool, test: Evaluation | None, alone: Evaluation | None = None) -> Result:
        if self.board is not None:
            self.board.close(test)
        self._write_progress()
        epochs = min(self.state.epoch, self.settings.max_epochs) if interrupted else self.state.epoch - 1
        return Result(self.folder.path, epochs, interrupted, test, self._check, alone)

    def _run_epoch(self) -> None:
        state, trainer = self.state, self.trainer
        state.has_timed_out = False
        with self.watch.meter.recording(trainer.persistent_tensors()) if state.steps == 0 else nullcontext():
            order = self._attempt("training", lambda: trainer.shuffled(state.epoch))
        self.reporter.epoch_begins(state.epoch, self.settings.max_epochs, len(order))
        if state.examples_done == 0:
            trainer.totals.zero_()
        for start in range(state.examples_done, len(order), trainer.workload.batch_size):
            if self.processes.n == 1:
                self._stop_if_asked()
            with self._training():
                self._step(order, start)
            self._count_time()
            if state.is_out_of_time:
                break
            is_due = time.monotonic() - self._saved >= 60 * self.settings.checkpoint_minutes
            to_save, to_stop = self.processes.agree(is_due, self.processes.n > 1 and self.should_stop())
            if to_save:
                self._save(f"epoch {state.epoch}, step {state.steps}")
            if to_stop:
                raise _StopRun
        n_examples = len(order)
        del order  # the evaluation's plan does not count it
        self._finish_steps()
        self._end_epoch(n_examples)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Count what happens inside among the epoch's seconds."""
        begin = time.perf_counter()
        yield
        self.state.seconds += time.perf_counter() - begin

    def _count_time(self) -> None:
        """Add what has passed since the last count to the time that the run has taken."""
        now = self._clock()
        self.state.spent_seconds += now - self._counted
        self._counted = now
        if self.settings.minutes is not None:  # spent for one process is spent for all
            (is_spent,) = self.processes.agree(self.state.is_out_of_time)
            if is_spent:
                self.state.spent_seconds = max(self.state.spent_seconds, 60 * self.settings.minutes)

    def _say_if_out_of_time(self) -> None:
        state = self.state
        if state.has_timed_out and state.epoch <= self.settings.max_epochs:
            text = time_is_spent(state, self._resume)
            event = Event(event="time is spent", epoch=state.epoch, examples_done=state.examples_done, what=text)
            self.folder.append(event)
            self.reporter.notice(text)

    def _finish_steps(self) -> None:
        """Wait for the device: a step only starts work on it, and the epoch's seconds are those of the work."""
        with self._training():
            synchronize("end of an epoch")

    def _step(self, order: Tensor, start: int) -> None:
        """Take the step whose examples begin at ``start`` of ``order``."""
        state, trainer = self.state, self.trainer
        part = order[start : start + trainer.workload.batch_size]
        where = f"epoch {state.epoch}, step {state.steps + 1}"
        trainer.set_learning_rate(self.settings.rate_at(state.steps, trainer.workload.steps_per_epoch))

        def checking() -> None:
            check_step(trainer, where, self._way_out())

        def step() -> None:
            # A full step, as planned for: the last of an epoch may be shorter.
            to_measure = (start == 0 or not self._check) and len(part) == trainer.workload.batch_size
            living = [*trainer.persistent_tensors(), order]
            with self.watch.measuring("training", living) if to_measure else nullcontext():
                # Processes that train together stop together, between steps.
                trainer.step(part, self._stop_if_asked if self.processes.n == 1 else lambda: None, checking)

        self._attempt("training", step)
        state.examples_done = start + len(part)
        state.steps += 1
        if start == 0 or not self._check:
            self._compare()
        if state.steps == 1:
            self.folder.write_curve(self.watch.meter.curve)
        self.watch.meter.curve.clear()
        self._show_step()

    def _show_step(self) -> None:
        state, trainer = self.state, self.trainer

        def mean_loss() -> float:
            with waiting("loss on the terminal"):
                return trainer.totals[0, 0].item() / state.examples_done

        self.reporter.step_done(state.examples_done, mean_loss, lambda: self.watch.now(trainer))
        if time.monotonic() - self._shown >= PROGRESS_SECONDS:
            self._write_progress()

    def _end_epoch(self, n_examples: int) -> None:
        """Validate where it is time, report, and begin the next epoch with a checkpoint where it is time for one.

        An epoch that the run's minutes ended is reported as far as it came, and left as it is for who goes on with it.
        """
        state, settings = self.state, self.settings
        done, is_whole = state.examples_done, state.examples_done == n_examples
        sums = check_tables(self.trainer, f"epoch {state.epoch}", self._way_out())
        loss, penalty = (total / done for total in sums)
        validate = state.epoch == settings.max_epochs or state.epoch % settings.valid_freq == 0 or state.is_out_of_time
        valid = self._rank("valid").evaluation() if validate else None
        report = EpochReport(state.epoch, loss, penalty, state.seconds, done / state.seconds, valid)
        memory = self.watch.now(self.trainer)._asdict()
        ranking = None if valid is None else as_dict(valid)
        self.folder.append(Epoch.model_validate({**report._asdict(), "valid": ranking, "memory": memory}))
        if self.board is not None:
            self.board.add(report, memory)
        self.reporter.epoch_done(report)
        name = self.folder.checkpoints.next_name()
        if valid is not None:
            if state.best is None or valid.both.mrr > state.best.mrr:
                state.best = Best(epoch=state.epoch, mrr=valid.both.mrr, checkpoint=name)
                state.validations_since_best = 0
            else:
                state.validations_since_best += is_whole
            self._count_time()
            state.has_timed_out = state.is_out_of_time
        if is_whole:
            state.epoch, state.examples_done, state.seconds = state.epoch + 1, 0, 0.0
            self.trainer.totals.zero_()
        if validate:
            self._save(f"epoch {report.epoch}", name)

    def _rank(self, split: Split, fitted: FittedRules | None = None) -> Ranks:
        def on_progress(done: int, n_queries: int) -> None:
            self.reporter.evaluating(split, done, n_queries)
            self._stop_if_asked()

        def rank() -> Ranks:
            return count_rivals(
                trainer.model,
                trainer.score,
                self.dataset.queries(split),
                self.dataset.filter_index,
                trainer.workload,
                on_progress,
                self.watch.measuring_evaluation(trainer.persistent_tensors()),
                fitted,
            )

        trainer = self.trainer
        ranks = self._attempt("evaluation", rank)
        self._compare()
        return ranks

    def _attempt(self, part: Part, action: Callable[[], T]) -> T:
        """Return what ``action`` returns; where it runs out of memory, take it again under a smaller plan.

        Raises:
            DoesNotFitError: there is none.
        """
        while True:
            try:
                return action()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = _first_line(error)
            # Out here the exception is gone, and with it the tensors that its traceback held.
            if self.processes.n > 1:  # the others are at work on the same step, in sizes that all must share
                raise DoesNotFitError(f"process {self.processes.index} ran out of memory: {reason}")
            self._shrink(part, reason)

    def _shrink(self, part: Part, reason: str) -> None:
        state = self.state
        before = state.plan
        state.plan = smaller_plan(before, self.trainer, part)
        self.trainer.adopt(state.plan.workload)
        self.watch.adopt(state.plan)
        self.folder.describe(state)
        changes = changes_of(before, state.plan)
        self.folder.append(
            Event(
                event="out of memory",
                epoch=state.epoch,
                examples_done=state.examples_done,
                during=part,
                reason=reason,
                changes=changes,
            )
        )
        changed = ", ".join(f"{name.replace('_', ' ')} {old} → {new}" for name, (old, new) in changes.items())
        self.reporter.notice(
            f"out of memory while {'training' if part == 'training' else 'ranking'}: {changed}; going on"
        )

    def _compare(self) -> None:
        """Compare measured with predicted memory where something was measured; report drift.

        Raises:
            MemplanError: memory drifts, and ``strict_memory`` is set.
        """
        check = self.watch.check()
        if check is None or check == self._check:
            return
        is_whole = {"evaluation", "optimizer"} <= {phase.name for phase in check.phases}
        if is_whole and (self._check is None or len(self._check.phases) < len(check.phases)):
            self.reporter.memory_checked(check)
        self._check = check
        self.folder.write_check(check)
        drifted = drift(check)
        if drifted is not None and drifted != self._known_drift:
            self._known_drift = drifted
            self.folder.append(Event(event="memory drift", epoch=self.state.epoch, what=drifted))
            self.reporter.notice(drifted)
            if self.settings.strict_memory:
                if self.processes.n == 1:
                    self._save_unless_over()
                raise MemplanError(f"{drifted}; stopped by --strict-memory. Plan anew, or {self._resume}")

    def _save(self, where: str, name: str | None = None) -> None:
        state, trainer = self.state, self.trainer
        if state.examples_done > 0:
            self._finish_steps()
        state.totals = check_tables(trainer, where, self._way_out())
        checkpoints = self.folder.checkpoints
        save_checkpoint(checkpoints, name or checkpoints.next_name(), trainer, state)
        self._saved = time.monotonic()

    def _save_unless_over(self) -> None:
        # A run that is over has its last checkpoint, and the best tables in place of the last.
        if not self.state.is_over and self.trainer.is_between_steps:
            self._save(f"epoch {self.state.epoch}")

    def _load(self, best: Best) -> None:
        checkpoints = self.folder.checkpoints
        if checkpoints.names()[-1:] == [best.checkpoint]:
            return
        name = checkpoints.best_or_newest(self.reporter.notice)
        load_model(checkpoints.folder / name, self.trainer.model)

    def _write_progress(self) -> None:
        self._shown = time.monotonic()
        self.folder.write_progress(self.state, self.watch.now(self.trainer)._asdict())

    def _stop_if_asked(self) -> None:
        (asked,) = self.processes.agree(self.should_stop())
        if asked:
            raise _StopRun

    def _way_out(self) -> str:
        kept = (
            "the last good checkpoint is kept" if self.folder.checkpoints.names() else "no checkpoint was written yet"
        )
        workload, given = self.state.plan.workload, self.settings.learning_rate
        rate = lower_rate(given, workload.dataset, workload.model, self.state.plan.recipe)
        return f"{kept}; go on with a lower rate: {self._resume} --learning-rate {rate:g}"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
