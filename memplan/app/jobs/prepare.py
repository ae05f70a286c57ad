"""From options to what a training begins with: data, plan, settings and device, all found good; nothing is printed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from memplan.app.api import plan_given, target_given
from memplan.app.request import SearchRequest, of_loaded
from memplan.catalog.recipes import Recipe, find_recipe
from memplan.device.asked import is_auto
from memplan.device.target import Target, resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.plan import Plan
from memplan.prediction.estimate import bytes_follow
from memplan.units import format_bytes
from memplan.workload import validated
from tkbc.data import load_dataset
from tkbc.data.dataset import Dataset
from tkbc.runs.listing import RUNS
from tkbc.runs.settings import TrainSettings


class Prepared(NamedTuple):
    """What a training begins with."""

    plan: Plan
    graph: Dataset
    settings: TrainSettings
    target: Target
    source: str
    """Where settings that were not given are from, as it is printed behind them."""


def prepare(
    given: SearchRequest,
    settings: dict[str, Any],
    *,
    auto_fit: bool = False,
    saved: Plan | None = None,
    name: str = "the plan",
) -> Prepared:
    """Load the data, make the plan or take the one that is ``saved`` and called ``name``, and settle the settings.

    ``settings`` are the fields of ``TrainSettings``, None where the recipe decides.

    Raises:
        UsageError: an option is wrong.
        DoesNotFitError: nothing fits the budget.
        MemplanError: data or plan cannot be used.
    """
    if saved is None:
        auto = is_auto(given.devices)
        target = resolve(given.device, given.budget, None if auto else given.devices)
        graph = load_dataset("demo" if given.dataset is None else given.dataset, given.data_dir)
        counted = of_loaded(graph.dataset, graph)
        target = target_given(given, counted) if auto else target
        plan = plan_given(given, target, counted, auto_fit=auto_fit)
    else:
        plan = saved
        target = _target_of(plan, given)
        dataset = given.dataset or plan.workload.dataset
        if dataset is None:
            raise UsageError(f"{name}: a plan for a graph given by its counts; name its data with --dataset")
        graph = load_dataset(dataset, given.data_dir)
    if saved is None or plan.recipe is None:
        recipe = find_recipe(graph.dataset, plan.workload.model, given.recipe)
    else:
        recipe = find_recipe(plan.workload.dataset, plan.workload.model, plan.recipe)

    given_settings = {name: value for name, value in settings.items() if value is not None}
    train_settings = validated(TrainSettings, {**recipe.training, **given_settings})
    source = _source(given, given_settings, plan, recipe, is_saved=saved is not None)
    return Prepared(plan, graph, train_settings, target, source)


def _source(given: SearchRequest, settings: dict[str, Any], plan: Plan, recipe: Recipe, *, is_saved: bool) -> str:
    """Return where settings that were not given are from."""
    overridden = set(given.given_settings()) | set(settings)
    source = ""
    if is_saved and not set(recipe.training) <= overridden:
        source = f" (recipe {recipe.name}{', as the plan has it' if plan.recipe else ''})"
    elif not is_saved and not {*recipe.settings, *recipe.training} <= overridden:
        # A measured result is the whole recipe's: with anything else in its place it promises nothing.
        others = {"score", "precision", "n3_parts", "no_time_emb", "init_scale", "rules"}
        whole = not overridden & {*recipe.settings, *recipe.training, *others}
        source = f" (recipe {recipe.name}: {recipe.described})" if whole else " (what is not given: from the recipe)"
    return source


def check_settled(given: SearchRequest, extra: list[str]) -> None:
    """Check that no option is given that a plan has settled, nor any of the flags ``extra``.

    Raises:
        UsageError: there is one.
    """
    extra = given.given_flags("dataset", "data_dir", "device", "budget") + extra
    if extra:
        raise UsageError(
            f"--plan settles the recipe and all that sizes a tensor; leave out {', '.join(extra)}, or make a new plan"
        )


def read_plan(path: Path, given: SearchRequest, *, auto_fit: bool) -> Plan:
    """Return the plan in a file.

    Raises:
        UsageError: an option that the plan has settled.
        MemplanError: it cannot be read, or its bytes do not follow from its workload.
    """
    check_settled(given, ["--auto-fit-gpu"] * auto_fit)
    plan = Plan.read(path)
    if not bytes_follow(plan):
        raise MemplanError(
            f"{path}: its bytes do not follow from its workload; edited, or of another version: plan anew"
        )
    return plan.model_copy(update={"choices": None})  # what else there was is no part of the run


def _target_of(plan: Plan, given: SearchRequest) -> Target:
    """Return where a plan is to run: its own kind of device, with what that has to give now."""
    n = plan.workload.n_processes
    target = resolve(given.device or plan.workload.device, given.budget, None if n == 1 else str(n))
    if target.device != plan.workload.device:
        raise UsageError(f"the plan is for {plan.workload.device}, --device {given.device} is not; make a new plan")
    if plan.peak.device_bytes > target.budget_bytes:
        raise DoesNotFitError(
            f"the plan takes {format_bytes(plan.peak.device_bytes)}, and there are {format_bytes(target.budget_bytes)} "
            f"({target.budget_source}); make a new plan"
        )
    return target


def check_free(folder: Path) -> None:
    """Check that a new run may have this folder.

    Raises:
        UsageError: it names no new folder.
        MemplanError: there is one already.
    """
    if folder == Path() or folder.is_file():
        raise UsageError(f"--run-dir {folder}: no name for a new folder")
    if folder.exists():
        raise MemplanError(f"{folder}: there is such a folder already; choose a new one with --run-dir")


def new_folder(graph_name: str, model: str, root: Path = RUNS) -> Path:
    """Return a folder's path in ``root`` that nothing has yet, named after data, model and time."""
    name = f"{graph_name}-{model}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = root / name
    n = 2
    while folder.exists():
        folder = root / f"{name}-{n}"
        n += 1
    return folder
