"""One trial of a sweep: planned within the budget, trained or gone on with, stopped where the watcher says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.app.api import plan_given
from memplan.app.jobs.train import check_device, prepare_torch
from memplan.app.options import SearchOptions, find_model, of_loaded
from memplan.app.sweep.study import Trial, Watcher
from memplan.catalog.recipes import find_recipe
from memplan.device.target import Target
from memplan.errors import DoesNotFitError, NotFiniteError
from memplan.plan import Plan
from memplan.workload import validated
from tkbc.data.dataset import Dataset
from tkbc.runs.listing import read_lines, read_object
from tkbc.runs.reporter import EpochReport, Reporter, Result
from tkbc.runs.settings import TrainSettings

if TYPE_CHECKING:
    from tkbc.runs.state import RunState

Show = Callable[[str], None]


class _TrialReporter(Reporter):
    """Hands validations to the watcher, and a line about the epoch to whoever shows it."""

    def __init__(self, watcher: Watcher, show: Show, show_validation: Show) -> None:
        self._watcher, self._show, self._show_validation = watcher, show, show_validation

    def epoch_begins(self, epoch: int, n_epochs: int, n_examples: int) -> None:  # noqa: ARG002
        """Show which epoch it is."""
        self._show(f"epoch {epoch}/{n_epochs}")

    def epoch_done(self, report: EpochReport) -> None:
        """Note its validation."""
        if report.valid is not None:
            self._watcher.validated(report.epoch, report.valid.both.mrr)
            self._show_validation(f"epoch {report.epoch}  valid MRR {report.valid.both.mrr:.4f}")


def train_trial(
    given: SearchOptions,
    settings: dict[str, Any],
    folder: Path,
    watcher: Watcher,
    graph: Dataset,
    target: Target,
    show: tuple[Show, Show],
) -> Trial | None:
    """Train as the options say, in ``folder``; go on with what is there already. None where it was told to stop.

    ``show``: what is told of an epoch that begins, and of a validation.

    Raises:
        MemplanError: the run's folder cannot be used.
    """
    try:
        plan = plan_given(given, target, of_loaded(graph.dataset, graph))
    except DoesNotFitError as error:
        return Trial(trial=0, params={}, state="does not fit", why=str(error))
    recipe = find_recipe(graph.dataset, find_model(plan.workload.model), given.recipe)
    train_settings = validated(TrainSettings, {**recipe.training, **settings, "rank_test": False})
    prepare_torch(plan)
    check_device(plan, target)
    try:
        result = _train(plan, graph, train_settings, folder, watcher, show)
    except DoesNotFitError as error:
        return _ended(folder, plan, watcher, "does not fit", str(error))
    except NotFiniteError as error:
        return _ended(folder, plan, watcher, "failed", str(error))
    if result.interrupted and not watcher.is_pruned:
        return None
    return _ended(folder, plan, watcher, "pruned" if watcher.is_pruned else "finished")


def _train(
    plan: Plan, graph: Dataset, settings: TrainSettings, folder: Path, watcher: Watcher, show: tuple[Show, Show]
) -> Result:
    from tkbc.runs.checkpoint_folders import Checkpoints
    from tkbc.runs.train import resume, train

    reporter = _TrialReporter(watcher, *show)
    if not folder.exists():
        return train(plan, graph, settings, folder, reporter, watcher.should_stop)
    found = Checkpoints(folder / "checkpoint").newest(lambda _: None)
    if found is None:
        # Killed before its first checkpoint: nothing is lost by beginning again.
        shutil.rmtree(folder)
        return train(plan, graph, settings, folder, reporter, watcher.should_stop)
    name, state = found
    _replay(folder, state, watcher)
    if watcher.is_pruned:
        return Result(folder, state.epoch - 1, interrupted=True, test=None, memory_check=None)
    return resume(folder, name, state, graph, reporter, watcher.should_stop)


def _replay(folder: Path, state: RunState, watcher: Watcher) -> None:
    """Tell the watcher of the validations that the checkpoint has behind it."""
    for line in read_lines(folder / "metrics.jsonl"):
        if "loss" in line and line.get("valid") is not None and line["epoch"] < state.epoch:
            watcher.validated(line["epoch"], line["valid"]["both"]["mrr"])


def _ended(folder: Path, plan: Plan, watcher: Watcher, state: Any, why: str = "") -> Trial:
    seconds = [line["seconds"] for line in read_lines(folder / "metrics.jsonl") if "loss" in line]
    peak = read_object(folder / "memory_check.json").get("peak")
    return Trial(
        trial=0,
        params={},
        state=state,
        valid_mrr=max((mrr for _, mrr in watcher.curve), default=None),
        curve=tuple(watcher.curve),
        planned_bytes=plan.peak.requested_bytes,
        measured_bytes=peak["measured"]["requested_bytes"] if isinstance(peak, dict) else None,
        seconds=round(sum(seconds), 1),
        why=why,
    )
