"""The job behind ``memplan train`` and the guide's ``learner.py``: options in, a finished run out."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.app.api import allocator_settings, plan_given
from memplan.app.options import SearchOptions, of_loaded
from memplan.app.views.terminal import make_console, plan_summary
from memplan.catalog.recipes import find_recipe
from memplan.device.calibration import Calibration
from memplan.device.calibration import write as write_calibration
from memplan.device.present import free_ram_bytes
from memplan.device.target import Target, resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.memory.cuda.environment import from_environment, notice, obey
from memplan.memory.estimate import estimate
from memplan.memory.operators import DETERMINISTIC_WORKSPACE, WORKSPACE_VARIABLE
from memplan.memory.programs.scoring import runs_numba
from memplan.plan import Plan
from memplan.units import format_bytes
from memplan.workload import validated
from tkbc.data import load_dataset
from tkbc.data.dataset import Dataset
from tkbc.runs.listing import RUNS
from tkbc.runs.settings import TrainSettings

if TYPE_CHECKING:
    from rich.console import Console

    from tkbc.runs.reporter import Reporter, Result
    from tkbc.verify import Verified


def run_command(
    given: SearchOptions,
    settings: dict[str, Any],
    *,
    auto_fit: bool = False,
    plan_file: Path | None = None,
    run_folder: Path | None = None,
) -> None:
    """Load the data, make or read the plan, train, and print what happened.

    ``settings`` are the fields of ``TrainSettings``, None where the recipe decides. Nothing is written before data,
    options and plan have all proved good. Ends the process with 128 and the signal's number where a signal stopped it.

    Raises:
        UsageError: an option is wrong.
        DoesNotFitError: nothing fits the budget.
        MemplanError: data, plan, device or run folder cannot be used.
    """
    if run_folder is not None:
        _check_free(run_folder)
    if plan_file is None:
        target = resolve(given.device, given.budget)
        graph = load_dataset("demo" if given.dataset is None else given.dataset, given.data_dir)
        plan = _make_plan(given, graph, target, auto_fit=auto_fit)
    else:
        plan = _read_plan(plan_file, given, auto_fit=auto_fit)
        target = _target_of(plan, given)
        dataset = given.dataset or plan.workload.dataset
        if dataset is None:
            raise UsageError(f"{plan_file}: a plan for a graph given by its counts; name its data with --dataset")
        graph = load_dataset(dataset, given.data_dir)
    if plan_file is None or plan.recipe is None:
        recipe = find_recipe(graph.dataset, plan.workload.model, given.recipe)
    else:
        recipe = find_recipe(plan.workload.dataset, plan.workload.model, plan.recipe)

    given_settings = {name: value for name, value in settings.items() if value is not None}
    train_settings = validated(TrainSettings, {**recipe.training, **given_settings})
    prepare_torch(plan)
    check_device(plan, target)
    if run_folder is None:
        run_folder = _new_folder(graph.name, plan.workload.model)
    overridden = set(given.given_settings()) | set(given_settings)
    source = ""
    if plan_file is not None and not set(recipe.training) <= overridden:
        source = f" (recipe {recipe.name}{', as the plan has it' if plan.recipe else ''})"
    elif plan_file is None and not {*recipe.settings, *recipe.training} <= overridden:
        # A measured result is the whole recipe's: with anything else in its place it promises nothing.
        others = {"score", "precision", "n3_parts", "no_time_emb", "init_scale"}
        whole = not overridden & {*recipe.settings, *recipe.training, *others}
        source = f" (recipe {recipe.name}: {recipe.described})" if whole else " (what is not given: from the recipe)"
    console = make_console()
    if target.device == "cuda" and (not_modelled := notice()) is not None:
        console.print(not_modelled, soft_wrap=True)
    _announce(console, plan, target, train_settings, source, auto_fit=auto_fit)
    from tkbc.runs.train import train

    supervise(
        console,
        lambda reporter, should_stop: train(
            plan, graph, train_settings, run_folder, reporter, should_stop, data_dir=given.data_dir
        ),
    )


def prepare_torch(plan: Plan) -> None:
    """Set what PyTorch's libraries read when they are loaded, unless the user has.

    Raises:
        UsageError: the environment has the allocator do otherwise than the plan.
    """
    # Kineto, PyTorch's profiler, otherwise writes lines of its own to stderr around the memory check.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if plan.workload.device == "cuda":
        obey(plan.workload.alloc_conf)
    if runs_numba(plan.workload):
        # PyTorch's OpenMP threads otherwise spin for milliseconds after each operation, on the cores that the fused
        # kernel's threads need next: a seventh of a step on two cores.
        os.environ.setdefault("GOMP_SPINCOUNT", "100")
    if plan.workload.deterministic and plan.workload.device == "cuda":
        # cuBLAS repeats itself only with a workspace of its own, which it reads of here.
        os.environ.setdefault(WORKSPACE_VARIABLE, DETERMINISTIC_WORKSPACE)
        import torch

        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _make_plan(given: SearchOptions, graph: Dataset, target: Target, *, auto_fit: bool) -> Plan:
    return plan_given(given, target, of_loaded(graph.dataset, graph), auto_fit=auto_fit)


def _read_plan(path: Path, given: SearchOptions, *, auto_fit: bool) -> Plan:
    """Return a plan whose numbers follow from its workload: they are told again and compared."""
    extra = given.given_flags("dataset", "data_dir", "device", "budget") + ["--auto-fit-gpu"] * auto_fit
    if extra:
        raise UsageError(
            f"--plan settles the recipe and all that sizes a tensor; leave out {', '.join(extra)}, or make a new plan"
        )
    plan = Plan.read(path)
    again = estimate(plan.workload)
    if (again.phases, again.peak.requested_bytes) != (plan.phases, plan.peak.requested_bytes):
        raise MemplanError(
            f"{path}: its bytes do not follow from its workload; edited, or of another version: plan anew"
        )
    return plan


def _target_of(plan: Plan, given: SearchOptions) -> Target:
    """Return where a plan is to run: its own kind of device, with what that has to give now."""
    target = resolve(given.device or plan.workload.device, given.budget)
    if target.device != plan.workload.device:
        raise UsageError(f"the plan is for {plan.workload.device}, --device {given.device} is not; make a new plan")
    if plan.peak.device_bytes > target.budget_bytes:
        raise DoesNotFitError(
            f"the plan takes {format_bytes(plan.peak.device_bytes)}, and there are {format_bytes(target.budget_bytes)} "
            f"({target.budget_source}); make a new plan"
        )
    return target


def check_device(plan: Plan, target: Target) -> None:
    """Check that the plan's device is here with what the plan takes.

    Raises:
        DoesNotFitError: there is less memory.
        MemplanError: there is no such device.
    """
    import torch

    if target.device == "cuda" and not torch.cuda.is_available():
        raise MemplanError(
            f"{target.name}: PyTorch {torch.__version__} sees no CUDA device here; train with --device cpu, or "
            "plan for another machine with memplan plan"
        )
    free, limit = free_ram_bytes()
    if target.device == "cpu" and plan.peak.device_bytes > free:
        raise DoesNotFitError(
            f"the plan takes {format_bytes(plan.peak.device_bytes)}, but only {format_bytes(free)} are free ({limit}); "
            "lower --budget"
        )


def _check_free(folder: Path) -> None:
    if folder == Path() or folder.is_file():
        raise UsageError(f"--run-dir {folder}: no name for a new folder")
    if folder.exists():
        raise MemplanError(f"{folder}: there is such a folder already; choose a new one with --run-dir")


def _new_folder(graph_name: str, model: str) -> Path:
    name = f"{graph_name}-{model}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = RUNS / name
    n = 2
    while folder.exists():
        folder = RUNS / f"{name}-{n}"
        n += 1
    return folder


def _announce(
    console: Console, plan: Plan, target: Target, settings: TrainSettings, source: str, *, auto_fit: bool
) -> None:
    """Print what will be trained, how, and what it takes."""
    if auto_fit and target.device == "cpu":
        console.print("no GPU in use: fitting to this machine's memory instead")
    # The plan's own numbers against what there is now: a plan from a file may have been made under another budget.
    console.print(
        plan_summary(
            plan.model_copy(update={"budget_bytes": target.budget_bytes, "budget_source": target.budget_source}), target
        )
    )
    epochs = "1 epoch" if settings.max_epochs == 1 else f"{settings.max_epochs} epochs"
    falling = f", falling to 0 over the last {100 * settings.cooldown:g}%" if settings.cooldown else ""
    console.print(f"learning rate {settings.learning_rate:g}, {epochs}{falling}{source}")


def supervise(console: Console, run: Callable[[Reporter, Callable[[], bool]], Result]) -> None:
    """Call ``run`` with what shows its progress and what tells it to stop, then print how it ended.

    Ends the process with 128 and the signal's number where a signal stopped it.
    """
    from memplan.app.views.progress import ConsoleReporter, stop_on_signal

    reporter = ConsoleReporter(console)
    with stop_on_signal(console) as stopped_by:
        try:
            result = run(reporter, lambda: stopped_by() is not None)
        finally:
            reporter.close()
    reporter.finish(result)
    signal_number = stopped_by()
    if result.interrupted and signal_number is not None:
        raise SystemExit(128 + signal_number)


def run_verification(count: int, seed: int, device: str, *, show_progress: bool) -> list[Verified]:
    """Return the checks of ``count`` random workloads, worst first.

    Raises:
        MemplanError: the device is not there.
    """
    target = _here(device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from rich.progress import track

    from tkbc.verify import random_workloads, verify

    workloads = list(random_workloads(count, seed, target.device, target.workspace_bytes))
    if target.device == "cuda":
        obeyed = allocator_settings(target, from_environment())
        workloads = [workload.model_copy(update=obeyed) for workload in workloads]
    console = make_console()
    shown = track(
        workloads, "verifying", console=console, transient=True, disable=not (show_progress and console.is_terminal)
    )
    return sorted((verify(workload) for workload in shown), key=lambda v: -abs(v.check.peak.relative_error))


def _here(device: str) -> Target:
    """Return this machine's CPU or GPU.

    Raises:
        UsageError: ``device`` names a GPU to plan for, which cannot be measured.
    """
    if device.lower() not in ("cpu", "cuda"):
        raise UsageError(f"--device {device}: only what is here can be measured; cpu or cuda")
    return resolve(device, None)


def run_calibration(device: str) -> tuple[Calibration, Path]:
    """Measure this machine's CPU or GPU, keep the figures, and return them with the file that holds them.

    Raises:
        MemplanError: the device is not there.
    """
    target = _here(device)
    from tkbc.measure.rates import calibrate

    with make_console().status("measuring"):
        found = calibrate(target)
    return found, write_calibration(found)
