"""The job behind ``memplan train`` and the guide's ``learner.py``: options in, a finished run out."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from memplan.catalog import find_recipe
from memplan.devices import Target, resolve, usable_threads
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.options import JobOptions, find_model, gather
from memplan.plan import Plan
from memplan.planner import plan as search
from memplan.report import make_console, plan_summary
from memplan.workload import validated
from tkbc.data import load_dataset
from tkbc.data.dataset import Dataset


def run_command(
    given: JobOptions,
    settings: dict[str, Any],
    *,
    auto_fit: bool = False,
    plan_file: Path | None = None,
    run_folder: Path | None = None,
) -> None:
    """Load the data, make or read the plan, train, and print what happened.

    ``settings`` are the fields of ``TrainSettings``, None where the recipe decides. Nothing is written before data,
    options and plan have all proved good.

    Raises:
        UsageError: an option is wrong.
        DoesNotFitError: nothing fits the budget.
        MemplanError: data, plan, device or run folder cannot be used.
    """
    console = make_console()
    plan = None if plan_file is None else _read_plan(plan_file, given, auto_fit=auto_fit)
    model = find_model(given.model) if plan is None else plan.workload.model
    target = resolve(given.device or (plan.workload.device if plan else None), given.budget)
    graph = load_dataset(given.dataset or (plan.workload.dataset if plan else None) or "demo", given.data_dir)
    recipe = find_recipe(graph.name, model)

    # Kineto, PyTorch's profiler, otherwise writes lines of its own to stderr around the memory check.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from tkbc.training import TrainSettings

    from_recipe = {"learning_rate": recipe.learning_rate, "max_epochs": recipe.max_epochs}
    given_settings = {name: value for name, value in settings.items() if value is not None}
    train_settings = validated(TrainSettings, {**from_recipe, **given_settings})
    if plan is None:
        plan = _make_plan(given, graph, target, auto_fit=auto_fit)
    _check_device(target)
    if auto_fit and target.device == "cpu":
        console.print("no GPU in use: fitting to this machine's memory instead")
    console.print(plan_summary(plan, target))
    if run_folder is None:
        stamp = f"{datetime.now():%Y%m%d-%H%M%S}"
        run_folder = Path("runs") / f"{graph.name}-{plan.workload.model}-{stamp}"
    _train(console, plan, graph, train_settings, run_folder)


def _read_plan(path: Path, given: JobOptions, *, auto_fit: bool) -> Plan:
    extra = [*given.given_settings(), *(["budget"] if given.budget else []), *(["auto_fit_gpu"] if auto_fit else [])]
    if extra:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in extra)
        raise UsageError(f"--plan settles everything that sizes a tensor; leave out {flags}, or make a new plan")
    return Plan.read(path)


def _make_plan(given: JobOptions, graph: Dataset, target: Target, *, auto_fit: bool) -> Plan:
    job = gather(given, (graph.name, graph.shape))
    n_queries = 2 * min(len(graph.valid), len(graph.test))
    settings = {**job.settings, "threads": usable_threads(), "n_queries": n_queries}
    if auto_fit:
        return search(graph.shape, target, **settings)
    plain = {"micro_batch_size": settings["batch_size"], "chunk_size": graph.shape.n_entities}
    try:
        return search(graph.shape, target, **{**plain, **settings})
    except DoesNotFitError as error:
        raise DoesNotFitError(f"{error}, or let --auto-fit-gpu choose smaller micro-batches and chunks") from None


def _check_device(target: Target) -> None:
    import torch

    if target.device == "cuda" and not torch.cuda.is_available():
        raise MemplanError(
            f"{target.name}: PyTorch {torch.__version__} sees no CUDA device here; train with --device cpu, or "
            "plan for another machine with memplan plan"
        )


def _train(console: Console, plan: Plan, graph: Dataset, settings: Any, run_folder: Path) -> None:
    from tkbc.progress import ConsoleReporter, stop_on_interrupt
    from tkbc.training import train

    reporter = ConsoleReporter(console)
    with stop_on_interrupt(console) as should_stop:
        try:
            result = train(plan, graph, settings, run_folder, reporter, should_stop)
        finally:
            reporter.close()
    reporter.finish(result)
    if result.interrupted:
        raise SystemExit(130)
