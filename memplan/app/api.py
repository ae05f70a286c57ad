"""The planner as a library: ``from memplan import estimate, plan``. The commands of the same names call this too."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from memplan.app.request import Graph, GraphRequest, Job, PlanRequest, RankRule, SearchRequest, gather
from memplan.catalog.datasets import DEMO
from memplan.device.asked import is_auto
from memplan.device.target import Target, numbers_to_try, resolve, threads_of
from memplan.device.workspace import DETERMINISTIC_WORKSPACE, WORKSPACE_VARIABLE, workspace_bytes
from memplan.errors import DoesNotFitError, UsageError
from memplan.memory.cuda.environment import from_environment
from memplan.plan import DeviceCount, Estimate, Plan
from memplan.prediction.estimate import estimate as estimate_workload
from memplan.search import planner
from memplan.search.choices import Candidate, candidates, choices
from memplan.search.knobs import knobs
from memplan.search.meshes import Meshes, count_of, mesh_of, mesh_shapes
from memplan.units import format_count
from memplan.workload import TRAITS, Shape, Workload, build_workload
from memplan.workload.alloc_conf import AllocatorSettings
from memplan.workload.rules import preferred, require

MORE_TIMES = 8
"""Of the fewest devices that will do, what is shown besides: how the time falls with more."""
SETTLES_RESULTS = frozenset(
    (
        "recipe",
        "score",
        "optimizer",
        "emb_reg",
        "n3_parts",
        "time_reg",
        "no_time_emb",
        "unit_norm",
        "precision",
        "rules",
    )
)
"""Options with which a training is no longer one of those that were measured."""


class Settings(TypedDict, total=False):
    """What may be said of a run besides its graph; what is left out comes from the dataset's and model's recipe.

    The commands' options, underscores for dashes: ``memplan estimate --help`` describes each.
    """

    data_dir: Path | str | None
    model: str | None
    recipe: str | None
    rank: int | str | None
    batch_size: int | str | None
    score: str | None
    optimizer: str | None
    emb_reg: float | None
    n3_parts: bool | None
    time_reg: float | None
    no_time_emb: bool | None
    unit_norm: bool | None
    negatives: int | None
    rules: bool | None
    deterministic: bool | None
    micro_batch_size: int | None
    chunk_size: int | None
    scoring: str | None
    precision: str | None
    eval_batch_size: int | None
    eval_chunk_size: int | None
    device: str | None
    devices: str | int | None
    shards: int | None
    budget: str | int | None
    alloc_conf: str | None


def estimate(dataset: str | Path | Shape = DEMO.name, **settings: Unpack[Settings]) -> Estimate:
    """Return what a run allocates, to the byte: its peak, its phases, and the tensors alive at the peak.

    ``dataset``: a name of the catalog, a folder with data, or the shape of a graph that is not there yet. Nothing is
    chosen: what is left out takes its recipe's or its plain value.

        >>> estimate("ICEWS14", model="TNTPairRE", rank=100, scoring="materialized", device="cpu").peak.requested_bytes
        8628947308

    Raises:
        MemplanError: a name, a value or a device that cannot be used; the message is one line.
    """
    found, _ = estimate_given(GraphRequest(**as_options(dataset, settings)))
    return found


def plan(
    dataset: str | Path | Shape = DEMO.name,
    *,
    allow_rank_reduction: bool = False,
    epoch_seconds: float | None = None,
    **settings: Unpack[Settings],
) -> Plan:
    """Return the fastest plan that fits: micro-batch, chunk, scoring and evaluation sizes chosen where left out.

    ``rank="auto"`` takes the recipe's rank, or the largest below it that fits; ``"max"`` the largest that fits at all.
    Either way ``epoch_seconds`` bounds an epoch by the cost model. ``allow_rank_reduction`` lowers the rank where
    nothing fits as asked.

        >>> plan("ICEWS14", model="TNTPairRE", rank=100, device="cpu", budget="25MiB").micro_batch_size
        250

    Raises:
        DoesNotFitError: nothing fits; the message names the smallest budget that would do.
        MemplanError: a name, a value or a device that cannot be used.
    """
    options = as_options(dataset, settings)
    given = PlanRequest(allow_rank_reduction=allow_rank_reduction, epoch_seconds=epoch_seconds, **options)
    return plan_with_choices(given, target_given(given))


def as_options(dataset: str | Path | Shape, settings: Settings) -> dict[str, Any]:
    """Return the commands' options, which are text where a number or a path is as natural."""
    options: dict[str, Any] = {**settings}
    for name in ("rank", "batch_size", "devices"):
        if options.get(name) is not None:
            options[name] = str(options[name])
    if isinstance(options.get("budget"), int):
        options["budget"] = f"{options['budget']}B"
    if options.get("data_dir") is not None:
        options["data_dir"] = Path(options["data_dir"])
    return {**(dataset.model_dump() if isinstance(dataset, Shape) else {"dataset": str(dataset)}), **options}


def estimate_given(
    given: GraphRequest, *, explain: bool = False, workload: Workload | None = None
) -> tuple[Estimate, Target]:
    """Return the estimate of a command's options, and the target that they name; ``explain`` adds the knobs.

    ``workload``: what to estimate instead, on its own kind of device unless the options name one.
    """
    if is_auto(given.devices):
        raise UsageError("--devices auto: an estimate chooses nothing; say how many, or use memplan plan")
    devices = given.devices
    if workload is not None and workload.n_processes > 1:
        devices = str(workload.n_processes)
    target = resolve(given.device or (None if workload is None else workload.device), given.budget, devices)
    if workload is None:
        workload = workload_given(given, target)
    target = within_fraction(target, workload.model_dump(include={"alloc_conf", "device_total_bytes"}))
    found = estimate_workload(workload, outside_bytes=target.outside_bytes, budget_bytes=target.budget_bytes)
    if explain:
        found = found.model_copy(update={"knobs": knobs(workload, target)})
    return found.model_copy(update={"mesh": mesh_of(workload, target)}), target


def workload_given(given: GraphRequest, target: Target) -> Workload:
    """Return the workload of a command's options: the whole batch, all entities, the scoring that needs least."""
    for option in given.for_the_search:
        raise UsageError(f"{option}: an estimate chooses nothing; say a number, or use memplan plan")
    job = gather(given)
    settings = settings_for(job, target)
    settings |= _plain_mesh(settings, target)
    score = settings.get("score") or TRAITS[settings["model"]].scores[0]
    settings.setdefault("scoring", preferred(score, target.device, target.capability))
    if job.graph.n_queries is not None:
        batch = settings.get("micro_batch_size") or settings["batch_size"]
        settings["eval_batch_size"] = min(settings.get("eval_batch_size", batch), job.graph.n_queries)
    workload = build_workload(job.graph.shape, **settings)
    require(workload.score, workload.scoring, workload.device, target.capability)
    return workload


def _plain_mesh(settings: dict[str, Any], target: Target) -> dict[str, int]:
    """Return the mesh where none is searched for: unless it was said, each device has a part of the entity table."""
    n_devices = target.n_devices or 1
    ((shards, replicas),) = mesh_shapes(n_devices, settings.get("shards", n_devices))
    return {"shards": shards, "replicas": replicas}


def settings_for(job: Job, target: Target) -> dict[str, Any]:
    """Return a job's settings with what the target adds: its threads, its allocator's options, its workspace."""
    settings: dict[str, Any] = {"threads": threads_of(target.n_devices or 1), "workspace_bytes": target.workspace_bytes}
    if target.device == "cuda":
        alloc_conf = job.settings.get("alloc_conf")
        settings |= allocator_settings(target, from_environment() if alloc_conf is None else alloc_conf)
        if job.settings.get("deterministic") and WORKSPACE_VARIABLE not in os.environ:
            settings["workspace_bytes"] = workspace_bytes(target.capability, DETERMINISTIC_WORKSPACE)
    return {**settings, **job.settings, "device": target.device}


def allocator_settings(target: Target, alloc_conf: str) -> dict[str, Any]:
    """Return the settings of a workload that CUDA's allocator goes by.

    Raises:
        UsageError: an option or a value that is unknown or not modelled.
    """
    try:
        go_by_total = AllocatorSettings.parse(alloc_conf).go_by_total
    except ValueError as error:
        raise UsageError(str(error)) from None
    return {"alloc_conf": alloc_conf, "device_total_bytes": target.total_bytes if go_by_total else None}


def within_fraction(target: Target, settings: dict[str, Any]) -> Target:
    """Return the target with its budget lowered to the share of a GPU that the allocator's options leave a process."""
    allowed = AllocatorSettings.parse(settings.get("alloc_conf", "")).allowed_bytes(settings.get("device_total_bytes"))
    if allowed is None or allowed + target.outside_bytes >= target.budget_bytes:
        return target
    return target._replace(
        budget_bytes=allowed + target.outside_bytes, budget_source="per_process_memory_fraction of the GPU's memory"
    )


def target_given(given: SearchRequest, graph: Graph | None = None) -> Target:
    """Return the target that a command's options name; of ``--devices auto`` that of the fewest devices that will do.

    Where no number of them will, the largest is the target: planning for it says what stands in the way.
    """
    if not is_auto(given.devices):
        return resolve(given.device, given.budget, given.devices)
    job = gather(given, graph)
    for n_devices in _numbers(given):
        target = resolve(given.device, given.budget, str(n_devices))
        if _search_given(job, given, target).fits():
            break
    return target


def counts_given(given: SearchRequest, target: Target) -> list[DeviceCount]:
    """Return what each number of devices comes to, from 1 to some times the target's."""
    job = gather(given)
    most = MORE_TIMES * (target.n_devices or 1)
    targets = (resolve(given.device, given.budget, str(n)) for n in _numbers(given) if n <= most)
    return [count_of(_search_given(job, given, of_number)) for of_number in targets]


def _numbers(given: SearchRequest) -> list[int]:
    numbers = numbers_to_try(given.device)
    found = [n for n in numbers if given.shards is None or (given.shards > 0 and n % given.shards == 0)]
    if not found:
        tried = ", ".join(map(str, numbers))
        raise UsageError(f"--shards {given.shards}: divides none of the numbers that --devices auto tries, {tried}")
    return found


def _search_given(job: Job, given: SearchRequest, target: Target) -> planner.Search | Meshes:
    if given.rank_rule is not None:
        raise UsageError(f"--devices auto and --rank {given.rank_rule}: one of the two has to be said")
    settings = settings_for(job, target)
    return planner.search_of(job.graph.shape, within_fraction(target, settings), job.graph.n_queries, settings)


def plan_given(given: SearchRequest, target: Target, graph: Graph | None = None, *, auto_fit: bool = True) -> Plan:
    """Return the plan of a command's options for a graph (else the one that they name).

    Without ``auto_fit`` micro-batch and chunk are the whole batch and all entities where they are not given.

    Raises:
        DoesNotFitError: nothing fits.
    """
    job = gather(given, graph)
    found = _plan_of(job, given, target, auto_fit=auto_fit).model_copy(update={"recipe": job.recipe})
    if not given.batch_is_auto:
        return found
    cut = ", cut to the data" if found.batch_size == found.workload.n_examples else ""
    why = f"batch {found.batch_size}, recipe {job.recipe}'s{cut}: it is part of the result, micro-batches are not"
    return found.model_copy(update={"reason": f"{why}; {found.reason}"})


def plan_with_choices(given: PlanRequest, target: Target) -> Plan:
    """Return ``plan_given`` with what else is known to pay, where rank and batch and what decides results are open."""
    job = gather(given)
    found = plan_given(given, target, job.graph)
    is_open = "rank" not in given.given_settings() and "batch_size" not in given.given_settings()
    if not is_open or given.rank_rule == "max" or SETTLES_RESULTS & set(given.given_values()):
        return found
    model, dataset, settings = job.settings["model"], job.graph.dataset, settings_for(job, target)
    models = TRAITS if given.model is None else [model]
    known = [(one, _settings_of(one, given, job.graph, target)) for one in candidates(dataset, models, model)]
    target = within_fraction(target, settings)
    return found.model_copy(update={"choices": choices(job.graph.shape, target, job.graph.n_queries, known)})


def _settings_of(candidate: Candidate, given: PlanRequest, graph: Graph, target: Target) -> dict[str, Any]:
    """Return the settings of a candidate's workload; what the user gave besides stays on top."""
    rank = str(candidate.changes["rank"]) if "rank" in candidate.changes else None
    asked = replace(given, model=candidate.model, recipe=candidate.recipe.name, rank=rank, batch_size=None)
    return settings_for(gather(asked, graph), target)


def _plan_of(job: Job, given: SearchRequest, target: Target, *, auto_fit: bool) -> Plan:
    settings = {**settings_for(job, target), "n_queries": job.graph.n_queries}
    target = within_fraction(target, settings)
    shape = job.graph.shape
    for option in given.for_the_search:
        if not auto_fit:
            raise UsageError(f"{option}: the search chooses it; add --auto-fit-gpu")
    if given.rank_rule is not None:
        seconds = given.epoch_seconds
        if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
            raise UsageError(f"--epoch-seconds: {seconds}: a number of seconds above 0")
        return _ruled(given.rank_rule, shape, target, seconds, settings, job.recipe)
    if given.epoch_seconds is not None:
        raise UsageError("--epoch-seconds bounds --rank auto or max; add one of them, or leave it out")
    settings["allow_rank_reduction"] = given.allow_rank_reduction
    if auto_fit:
        return planner.plan(shape, target, **settings)
    mesh = _plain_mesh(settings, target)
    candidates_of_one = settings.get("negatives") or shape.n_entities
    if settings.get("negatives") is None and settings.get("scoring") != "materialized":
        candidates_of_one = -(-shape.n_entities // mesh["shards"])
    plain = {"micro_batch_size": -(-settings["batch_size"] // mesh["replicas"]), "chunk_size": candidates_of_one}
    try:
        return planner.plan(shape, target, **{**plain, **settings, **mesh})
    except DoesNotFitError as error:
        raise DoesNotFitError(f"{error}, or let --auto-fit-gpu choose smaller micro-batches and chunks") from None


def _ruled(
    rule: RankRule, shape: Shape, target: Target, seconds: float | None, settings: dict[str, Any], recipe: str
) -> Plan:
    """Return the plan at the rank that a rule chooses; ``settings`` have the recipe's."""
    of_recipe = settings["rank"]
    if rule == "max":
        return planner.plan_largest_rank(shape, target, seconds, **settings)
    found = planner.plan(shape, target, allow_rank_reduction=True, **settings)
    if seconds is not None and found.seconds_per_epoch > seconds:
        found = planner.plan_largest_rank(shape, target, seconds, most=found.rank, **settings)
    if found.rank < of_recipe:
        return found.model_copy(update={"rank_lowered_from": of_recipe})
    largest = format_count(planner.largest_rank(shape, target, **settings))
    reason = f"rank {of_recipe}, recipe {recipe}'s; up to {largest} would fit (--rank max); {found.reason}"
    return found.model_copy(update={"reason": reason})
