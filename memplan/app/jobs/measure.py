"""What ``memplan verify`` and ``memplan calibrate`` do: measure this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from memplan.app.api import allocator_settings
from memplan.app.views.terminal import make_console
from memplan.device.calibration import Calibration
from memplan.device.calibration import write as write_calibration
from memplan.device.target import Target, resolve
from memplan.errors import UsageError
from memplan.memory.cuda.environment import from_environment

if TYPE_CHECKING:
    from memplan.workload import Workload
    from tkbc.verify import Verified


def run_verification(count: int, seed: int, device: str, *, show_progress: bool) -> list[Verified]:
    """Return the checks of ``count`` random workloads, worst first.

    Raises:
        MemplanError: the device is not there.
    """
    target = _here(device)
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


def run_calibration(device: str, *, show_progress: bool) -> tuple[Calibration, Path]:
    """Measure this machine's CPU or GPU, keep the figures, and return them with the file that holds them.

    Raises:
        MemplanError: the device is not there.
    """
    target = _here(device)
    from rich.progress import track

    from tkbc.measure.rates import calibrate

    console = make_console()
    hidden = not (show_progress and console.is_terminal)

    def shown(cases: list[list[Workload]]) -> Iterable[list[Workload]]:
        return track(cases, "timing training steps", console=console, transient=True, disable=hidden)

    found = calibrate(target, shown)
    return found, write_calibration(found)
