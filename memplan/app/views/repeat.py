"""The command that trains a run anew, with every setting written out."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any

from memplan.app.request import JobRequest
from memplan.plan import Plan
from memplan.units import UNITS
from memplan.workload import PAIRRE_SETTINGS, Workload

SWITCHES = {
    "no_time_emb": ("--no-time-emb", "--time-emb"),
    "n3_parts": ("--n3-parts", "--n3-sum"),
    "unit_norm": ("--unit-norm", "--no-unit-norm"),
    "rules": ("--rules", "--no-rules"),
    "strict_memory": ("--strict-memory", ""),
    "deterministic": ("--deterministic", ""),
    "tensorboard": ("--tensorboard", ""),
    "allow_rank_reduction": ("--allow-rank-reduction", ""),
}
"""The flags that take no value: where the setting is on, and where it is off."""
SETTINGS = ("learning_rate", "init_scale", "max_epochs", "minutes", "cooldown", "valid_freq", "patience",
            "checkpoint_minutes", "seed", "strict_memory", "tensorboard")  # fmt: skip


def how_to_repeat(plan: Plan, config: dict[str, Any]) -> str:
    """Return the ``memplan train`` command that repeats a run, from its plan and its config.json.

    Sizes that a search chose are written out, so that it is no search that repeats them. With the same versions and
    number of threads the same numbers come out.
    """
    workload = plan.workload.model_dump()
    names = set(Workload.model_fields) - {"dataset"}
    n_devices = plan.workload.n_processes
    if n_devices == 1:
        names -= {"shards"}
    if plan.workload.traits.is_complex:
        names -= set(PAIRRE_SETTINGS)
    options = {
        "dataset": config.get("dataset", workload["dataset"]),
        "data_dir": config.get("data_dir"),
        "devices": None if n_devices == 1 else n_devices,
        **{field.name: workload[field.name] for field in fields(JobRequest) if field.name in names},
        "budget": _size(plan.budget_bytes) if plan.budget_source == "--budget" else None,
        **{name: config.get(name) for name in SETTINGS},
        "cooldown": config.get("cooldown", 0.0),  # older runs had none
    }
    return shlex.join(["memplan", "train", *flags_of(options)])


def flags_of(options: dict[str, Any]) -> list[str]:
    """Return options, by their fields' names, as they are written on the command line; None is left out."""
    return [part for name, value in options.items() for part in _flag(name, value)]


def _flag(name: str, value: Any) -> list[str]:
    if name in SWITCHES:
        flag = SWITCHES[name][0 if value else 1]
        return [flag] if flag else []
    return [] if value in (None, "") else [f"--{name.replace('_', '-')}", str(value)]


def _size(n_bytes: int) -> str:
    """Return a size that ``--budget`` reads back to the byte."""
    unit, factor = next((unit, size) for unit, size in UNITS if n_bytes % size == 0)
    return f"{n_bytes // factor}{unit}"
