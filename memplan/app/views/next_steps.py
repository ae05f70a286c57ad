"""What to do next, as commands to copy: after a plan, after a training."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from memplan.app.request import PlanRequest
from memplan.app.views.repeat import flags_of
from memplan.device.asked import is_auto, parse_devices
from memplan.workload import Shape

if TYPE_CHECKING:
    from tkbc.data import Dataset


def after_plan(given: PlanRequest, n_devices: int) -> str:
    """Return the command that trains what was planned, with the same options; a GPU's name is where it is to run."""
    values = given.given_values()
    if given.devices is not None:
        asked = None if is_auto(given.devices) else parse_devices(given.devices).device
        values = {**values, "devices": n_devices, "device": asked or given.device}
    counted = [values.pop(name, None) for name in Shape.model_fields]
    device = values.get("device")
    is_here = device is None or device.lower() in ("cpu", "cuda")
    where = "" if is_here else f"on the {values.pop('device')}, "
    flags = flags_of(values)
    if any(value is not None for value in counted):
        flags = ["--dataset", "FOLDER", *flags]
    return f"next  {where}{shlex.join(['memplan', 'train', '--auto-fit-gpu', *flags])}"


def after_training(run: Path, graph: Dataset) -> list[str]:
    """Return what a finished run is good for; the question is one of the test split's, to be replaced by one's own."""
    folder = shlex.quote(str(run))
    head, relation, _, time = (int(value) for value in graph.queries("test")[0])
    question = ["--head", graph.entities[head], "--relation", graph.relations[relation]]
    question += ["--time", graph.timestamps[time]]
    return [
        f"next  memplan report {folder}",
        f"      memplan predict {folder} {shlex.join(question)}",
        f"      memplan evaluate {folder} --split valid",
    ]
