"""What ``memplan train --resume`` does: go on with a run from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.app.request import SearchRequest
from memplan.app.views.terminal import make_console, plan_summary
from memplan.device.target import Target, resolve, threads_of
from memplan.errors import MemplanError, UsageError
from memplan.plan import Plan
from memplan.search.meshes import mesh_name
from memplan.search.planner import plan as search
from memplan.units import format_bytes
from memplan.workload import Workload, validated
from tkbc.runs.listing import RUNS, find_run, newest_unfinished
from tkbc.runs.metrics import read_metrics
from tkbc.use.opening import check_bytes, data_folder_of

if TYPE_CHECKING:
    from rich.console import Console

    from tkbc.runs.reporter import Reporter, Result
    from tkbc.runs.state import RunState


def resume_command(run: str, given: SearchRequest, settings: dict[str, Any], refused: list[str]) -> None:
    """Go on with the run in the folder ``run``, or with ``auto`` the newest interrupted one, and print what happens.

    ``settings`` are fields of ``TrainSettings`` to change, None where the run's stay. ``refused``: given flags that
    make no sense here.

    Raises:
        UsageError: an option that the run has settled, or a run that is finished.
        DoesNotFitError: nothing fits what memory there is now.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    from memplan.app.jobs.supervise import alone
    from memplan.app.jobs.together import launched_index, with_launched, work
    from memplan.app.jobs.train import check_gpus
    from tkbc.data import load_dataset

    index = launched_index()
    if index:  # of those that torchrun started the first reads the options
        work(None)
        return
    refused += given.given_flags("data_dir", "budget", "devices", "shards")
    if refused:
        raise UsageError(f"--resume: the run has settled {', '.join(refused)}; leave that out, or train anew")
    folder = newest_unfinished(RUNS) if run == "auto" else find_run(run)
    if not folder.is_dir():
        raise MemplanError(f"{folder}: no such run; memplan runs lists those in {RUNS}/")
    notices: list[str] = []
    name, state = _opened(folder, settings, notices)
    check_bytes(state.plan, folder)
    if index is not None:
        given = with_launched(given)
    target = _target_of(state.plan, given)
    state.plan = _fitted(state.plan, target, given.shards, notices)
    check_gpus(state.plan, target)
    data_dir = given.data_dir or data_folder_of(state)
    data = load_dataset(state.dataset, data_dir)
    console = make_console()
    for notice in [*notices, *_changes_of_version(state)]:
        console.print(notice, soft_wrap=True)
    console.print(plan_summary(state.plan, target))
    console.print(f"going on with {folder} from {_place_of(name, state)}")
    if index is not None or state.plan.workload.n_processes > 1:
        _go_on_together(folder, name, state, data_dir, console)
        return

    def go_on(reporter: Reporter, should_stop: Callable[[], bool]) -> Result:
        from tkbc.runs.train import resume

        return resume(folder, name, state, data, reporter, should_stop)

    alone(console, state.plan, target, data, go_on)


def _place_of(checkpoint: str | None, state: RunState) -> str:
    """Return where a run goes on from, in words."""
    if checkpoint is None:
        return "its beginning"
    done = f"{state.examples_done:,} of its {state.plan.workload.n_examples:,} examples done"
    return f"checkpoint {checkpoint}: epoch {state.epoch}, {done}"


def _go_on_together(
    folder: Path, checkpoint: str | None, state: RunState, data_dir: Path | None, console: Console
) -> None:
    from memplan.app.jobs.together import Task, together

    task = Task(
        plan=state.plan,
        settings=state.settings,
        dataset=state.dataset,
        data_dir=data_dir,
        folder=folder,
        checkpoint=checkpoint,
        state=state,
    )
    together(task, console)


def _opened(folder: Path, settings: dict[str, Any], notices: list[str]) -> tuple[str | None, RunState]:
    """Return the newest checkpoint's name, None where there is none, and its state, with the settings given now."""
    from tkbc.runs.checkpoint_folders import Checkpoints
    from tkbc.runs.settings import TrainSettings

    found = Checkpoints(folder / "checkpoint").newest(notices.append)
    name, state = (None, _beginning(folder)) if found is None else found
    changed = {key: value for key, value in settings.items() if value is not None}
    state.settings = validated(TrainSettings, {**state.settings.model_dump(), **changed})
    _check_that_more_is_left(folder, state, changed)
    return name, state


def _check_that_more_is_left(folder: Path, state: RunState, changed: dict[str, Any]) -> None:
    """Check that a run has something to go on with, under its settings with those that ``changed``.

    Raises:
        UsageError: it has come further than its limits allow, or is finished.
    """
    if "max_epochs" in changed and state.settings.max_epochs < state.epoch - (state.examples_done == 0):
        raise UsageError(
            f"--max-epochs {state.settings.max_epochs}: the run is in epoch {state.epoch} already; give more"
        )
    if "minutes" in changed and state.is_out_of_time and state.epoch <= state.settings.max_epochs:
        spent = state.spent_seconds / 60
        raise UsageError(f"--minutes {changed['minutes']:g}: the run has taken {spent:.3g} minutes already; give more")
    if state.is_over and read_metrics(folder).final is not None:
        epochs = f"{folder}: the run is finished after {state.epoch - 1} epochs"
        if state.epoch > state.settings.max_epochs:
            raise UsageError(f"{epochs}; give more --max-epochs to go on with it")
        if state.has_timed_out:
            raise UsageError(f"{epochs}, in {state.settings.minutes:g} minutes; give more --minutes to go on with it")
        raise UsageError(
            f"{epochs}, {state.validations_since_best} validations in a row without a better MRR; give more --patience "
            "to go on with it"
        )


def _beginning(folder: Path) -> RunState:
    """Return the state of a run that ended before its first checkpoint.

    Raises:
        MemplanError: the folder does not even say what was to be trained.
    """
    from tkbc.runs.settings import TrainSettings
    from tkbc.runs.state import RunState

    plan = Plan.read(folder / "plan.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        known = {name: config[name] for name in ("dataset", "data_dir", "data_sha256", "versions")}
        # Older runs have neither cooldown nor minutes.
        names = [name for name in TrainSettings.model_fields if name in config or name not in ("cooldown", "minutes")]
        settings = {name: config[name] for name in names}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise MemplanError(f"{folder / 'config.json'}: cannot be read as a run's settings; train anew") from None
    values = {**known, "plan": plan, "settings": validated(TrainSettings, settings)}
    return validated(RunState, values)


def _target_of(plan: Plan, given: SearchRequest) -> Target:
    """Return where a run goes on: on as many devices as before, unless another number is given."""
    devices = given.devices or (str(plan.workload.n_processes) if plan.workload.n_processes > 1 else None)
    target = resolve(plan.workload.device, given.budget, devices)
    if given.budget is None and plan.budget_source == "--budget":
        # A budget that the user set holds until another is set, however much is free now.
        target = target._replace(budget_bytes=plan.budget_bytes, budget_source="--budget")
    return target


def _fitted(plan: Plan, target: Target, shards: int | None, notices: list[str]) -> Plan:
    """Return the plan where it fits the target, else another with the same batch, rank and scoring that does.

    Another number of devices than the plan's, or of ``shards``, is planned anew too.
    """
    before, n = plan.workload, target.n_devices or 1
    same_mesh = before.n_processes == n and shards in (None, before.shards)
    if same_mesh and plan.peak.device_bytes <= target.budget_bytes:
        return plan.model_copy(update={"budget_bytes": target.budget_bytes, "budget_source": target.budget_source})
    free = {"micro_batch_size", "chunk_size", "eval_batch_size", "eval_chunk_size"}
    if not same_mesh:
        free |= {"shards", "replicas", "threads"}
    fixed = before.model_dump(exclude=free | set(before.shape.model_dump()))
    if not same_mesh:
        fixed |= {"shards": shards, "threads": threads_of(n)}
    fitted = search(before.shape, target, n_queries=plan.eval_batch_size, **fixed)
    why = f"the run's plan takes {format_bytes(plan.peak.device_bytes)}, more than there is now"
    if not same_mesh:
        why = f"{_mesh_of(fitted.workload)} instead of {_mesh_of(before)}"
    notices.append(f"{why}: planned anew; the result is the same up to rounding")
    return fitted.model_copy(update={"recipe": plan.recipe})


def _mesh_of(workload: Workload) -> str:
    return mesh_name(workload.shards, workload.replicas) if workload.n_processes > 1 else "one process"


def _changes_of_version(state: RunState) -> list[str]:
    from tkbc.runs.state import present_versions

    present = present_versions()
    changes = [f"{name} {old} → {present[name]}" for name, old in state.versions.items() if old != present.get(name)]
    state.versions = present
    return [f"trained with other versions ({', '.join(changes)}): the same up to rounding"] if changes else []
