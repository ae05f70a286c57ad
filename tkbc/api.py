"""The trainer as a library: ``from tkbc import train, load, evaluate``; what the commands do, without a terminal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from memplan.app.api import Settings, as_options
from memplan.app.jobs.prepare import check_free, check_settled, new_folder, prepare
from memplan.app.request import SearchRequest
from memplan.catalog.datasets import DEMO
from memplan.errors import UsageError
from memplan.plan import Plan
from tkbc.runs.readiness import check_device, prepare_torch
from tkbc.runs.reporter import Reporter, Result
from tkbc.runs.settings import TrainSettings
from tkbc.use.model import TrainedModel, open_trained
from tkbc.use.quality import By, Quality, evaluate_run


class TrainOptions(Settings, total=False):
    """The planner's settings (``memplan.Settings``), and those of the training; what is left out the recipe decides."""

    allow_rank_reduction: bool
    epoch_seconds: float | None
    learning_rate: float | None
    max_epochs: int | None
    minutes: float | None
    """End in good order when this much time is spent, all sittings together."""
    cooldown: float | None
    """Share of the epochs, the last ones, in which the learning rate falls linearly to 0."""
    init_scale: float | None
    valid_freq: int | None
    """Validate after every this many epochs, and after the last."""
    patience: int | None
    """Stop after this many validations in a row without a better MRR."""
    checkpoint_minutes: float | None
    strict_memory: bool | None
    tensorboard: bool | None
    rank_test: bool | None
    """Rank the test split at the end (yes); a search for settings must not."""
    seed: int | None


def train(
    dataset: str | Path | Plan = DEMO.name,
    *,
    run_folder: str | Path | None = None,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Unpack[TrainOptions],
) -> Result:
    """Train on a dataset, or as a plan says; return the run's folder, its test metrics and the memory check.

    A dataset is a name of the catalog, a folder, or ``demo``; the fastest plan that fits is searched for, as
    ``memplan.plan`` does. A plan from there settles model and sizes: with it go ``data_dir``, ``device``, ``budget``
    and the settings of the training alone. What is not given comes from the recipe.

        >>> train("demo", max_epochs=1, device="cpu", run_folder="first").test.both.mrr > 0.05
        True

    Args:
        run_folder: a new folder; None: one in ``runs/``, named after data, model and time.
        reporter: is told what happens as it happens; None: nobody.
        should_stop: asked after every micro-batch and batch of queries; what it stops keeps a checkpoint.

    Raises:
        UsageError: an option that is out of range, or settled by the plan.
        DoesNotFitError: nothing fits the budget, or memory ran out.
        MemplanError: data, plan, device or run folder cannot be used, or training led to numbers that are none.
    """
    folder = None if run_folder is None else Path(run_folder)
    if folder is not None:
        check_free(folder)
    given, settings, saved = _sorted_out(dataset, options)
    plan, graph, train_settings, target, _ = prepare(given, settings, auto_fit=saved is None, saved=saved)
    if plan.workload.n_processes > 1:
        n = plan.workload.n_processes
        raise UsageError(f"devices: {n} processes are not started from within one; use memplan train --devices {n}")
    prepare_torch(plan)
    check_device(plan, target)
    from tkbc.runs.train import train as run  # PyTorch, only now that its libraries are told what to do

    folder = folder or new_folder(graph.name, plan.workload.model)
    return run(plan, graph, train_settings, folder, reporter, should_stop, data_dir=given.data_dir)


def load(run: str | Path | Result, *, data_dir: str | Path | None = None) -> TrainedModel:
    """Return the model of a run's best checkpoint, on the CPU, to ask by name.

    ``predict(head=…, relation=…, time=…)`` gives the likeliest tails (with ``tail=`` heads), ``nearest(name)`` the
    nearest embeddings, ``tables`` the embeddings themselves with ``labels(table)``. A checkpoint that is damaged is
    passed over with a warning.

    Args:
        run: the run's folder, or what ``train`` returned.
        data_dir: where datasets lie; None: as when it was trained.

    Raises:
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    notices: list[str] = []
    found = open_trained(_folder_of(run), None if data_dir is None else Path(data_dir), notices.append)
    _warn(notices)
    return found


def evaluate(
    run: str | Path | Result,
    split: str = "test",
    *,
    by: By | None = None,
    rules: bool | None = None,
    data_dir: str | Path | None = None,
) -> Quality:
    """Return how well a run's best checkpoint ranks ``valid`` or ``test``, on the device of its plan.

    That is what ``memplan evaluate`` shows: filtered metrics with bootstrap intervals, the average precision of times,
    and with ``by`` the metrics of each ``relation``, ``time`` or ``kind`` of time.

    Args and raises as ``load``; also UsageError where there is no such split or ``by``.
    """
    notices: list[str] = []
    folder = None if data_dir is None else Path(data_dir)
    found = evaluate_run(_folder_of(run), split, by, folder, notices.append, rules=rules)
    _warn(notices)
    return found


def _sorted_out(dataset: str | Path | Plan, options: TrainOptions) -> tuple[SearchRequest, dict[str, Any], Plan | None]:
    """Return what to plan, how to train, and the plan where one is given already."""
    given: Any = dict(options)
    settings = {name: given.pop(name) for name in TrainSettings.model_fields if name in given}
    # An option that is None is one that is left out.
    given = {name: value for name, value in given.items() if value is not None}
    if not isinstance(dataset, Plan):
        return SearchRequest(**as_options(dataset, given)), settings, None
    request = SearchRequest(**{**as_options("", given), "dataset": None})
    check_settled(request, [])
    return request, settings, dataset


def _folder_of(run: str | Path | Result) -> Path:
    return run.run_folder if isinstance(run, Result) else Path(run)


def _warn(notices: list[str]) -> None:
    """Warn where the caller's caller stands: in the user's own line."""
    for notice in notices:
        warnings.warn(notice, stacklevel=3)
