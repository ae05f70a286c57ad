"""What ``memplan train`` and the guide's ``learner.py`` do: options in, a finished run out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.app.jobs.prepare import check_free, new_folder, prepare, read_plan
from memplan.app.jobs.supervise import alone
from memplan.app.jobs.together import Task, launched_index, together, with_launched, work
from memplan.app.request import SearchRequest
from memplan.app.views.terminal import make_console, plan_summary
from memplan.device.present import present_gpus
from memplan.device.target import Target
from memplan.errors import MemplanError
from memplan.memory.cuda.environment import notice
from memplan.plan import Plan
from tkbc.runs.readiness import check_device, prepare_torch
from tkbc.runs.settings import TrainSettings

if TYPE_CHECKING:
    from rich.console import Console

    from tkbc.runs.reporter import Reporter, Result


def run_command(
    given: SearchRequest,
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
    index = launched_index()
    if index:  # of those that torchrun started the first reads the options
        work(None)
        return
    if run_folder is not None:
        check_free(run_folder)
    if index is not None and plan_file is None:
        given = with_launched(given)
    saved = None if plan_file is None else read_plan(plan_file, given, auto_fit=auto_fit)
    plan, graph, train_settings, target, source = prepare(
        given, settings, auto_fit=auto_fit, saved=saved, name=str(plan_file)
    )
    check_gpus(plan, target)
    folder = run_folder or new_folder(graph.name, plan.workload.model)
    console = make_console()
    # Before PyTorch is loaded, which takes seconds: the user sees at once what is about to happen.
    _announce(console, plan, target, train_settings, source, auto_fit=auto_fit)
    data_dir = given.data_dir
    if index == 0 or plan.workload.n_processes > 1:
        together(
            Task(plan=plan, settings=train_settings, dataset=graph.dataset, data_dir=data_dir, folder=folder), console
        )
        return

    def run(reporter: Reporter, should_stop: Callable[[], bool]) -> Result:
        from tkbc.runs.train import train

        return train(plan, graph, train_settings, folder, reporter, should_stop, data_dir=data_dir)

    alone(console, plan, target, graph, run)


def check_gpus(plan: Plan, target: Target) -> None:
    """Check that each process of a plan that has several finds a GPU of its own.

    Raises:
        MemplanError: there are fewer.
    """
    n, here = plan.workload.n_processes, present_gpus()
    if n > 1 and target.device == "cuda" and len(here) < n:
        names = f", {', '.join(gpu.name for gpu in here)}" if here else ""
        raise MemplanError(f"the plan is for {n} GPUs, and there are {len(here)} here{names}; make a new plan")


def _announce(
    console: Console, plan: Plan, target: Target, settings: TrainSettings, source: str, *, auto_fit: bool
) -> None:
    """Print what will be trained, how, and what it takes.

    Raises:
        MemplanError: PyTorch would refuse the device.
    """
    if target.device == "cuda" and (not_modelled := notice()) is not None:
        console.print(not_modelled, soft_wrap=True)
    if target.device == "cuda" and not present_gpus():
        # Nothing is announced that PyTorch, asked now, would refuse.
        prepare_torch(plan)
        check_device(plan, target)
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
    bound = "" if settings.minutes is None else f", no longer than {settings.minutes:g} minutes"
    console.print(f"learning rate {settings.learning_rate:g}, {epochs}{falling}{bound}{source}")
