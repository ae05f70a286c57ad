"""What ``memplan calibrate`` has measured on this machine, kept in the user's configuration folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memplan.device.rates import Rates
from memplan.errors import MemplanError
from memplan.workload import first_problem

if TYPE_CHECKING:
    from memplan.device.target import Target

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ByteCount = Annotated[int, Field(ge=0, le=2**50)]


class Calibration(BaseModel):
    """One device's measured figures; None where the device has no such thing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """As ``Target.name`` says it."""
    threads: int
    """CPU threads while measuring; figures for another number are not used."""
    versions: dict[str, str]
    flops_per_second: Rate
    bytes_per_second: Rate
    fresh_bytes_per_second: Rate
    launch_seconds: Rate
    l1_terms_per_second: Rate | None = None
    l1_gradient_terms_per_second: Rate | None = None
    context_bytes: ByteCount | None = None
    workspace_bytes: ByteCount | None = None


class Calibrations(BaseModel):
    """The file: one entry a device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: list[Calibration] = []


def calibration_file() -> Path:
    """Return where calibrations are kept."""
    from platformdirs import user_config_path

    return user_config_path("memplan") / "calibration.json"


def read_all() -> list[Calibration]:
    """Return every calibration; none where there is no file.

    Raises:
        MemplanError: the file is damaged; names the way out.
    """
    path = calibration_file()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise MemplanError(f"{path}: cannot be read: {error}; delete it and run memplan calibrate") from None
    try:
        return Calibrations.model_validate_json(text).devices
    except ValidationError as error:
        raise MemplanError(f"{path}: {first_problem(error)}; delete it and run memplan calibrate") from None


def write(new: Calibration) -> Path:
    """Keep a calibration in place of the device's older one; return the file."""
    path = calibration_file()
    others = [old for old in read_all() if (old.device, old.threads) != (new.device, new.threads)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(Calibrations(devices=[*others, new]).model_dump_json(indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def apply(target: Target) -> Target:
    """Return the target with the figures that were measured on that device, if any were."""
    from memplan.device.present import usable_threads

    for found in read_all():
        if found.device == target.name and (target.device == "cuda" or found.threads == usable_threads()):
            measured = Rates(
                found.flops_per_second,
                found.bytes_per_second,
                found.fresh_bytes_per_second,
                found.launch_seconds,
                found.l1_terms_per_second or target.rates.l1_terms_per_second,
                found.l1_gradient_terms_per_second or target.rates.l1_gradient_terms_per_second,
            )
            return target._replace(
                rates=measured,
                outside_bytes=target.outside_bytes if found.context_bytes is None else found.context_bytes,
                workspace_bytes=target.workspace_bytes if found.workspace_bytes is None else found.workspace_bytes,
                is_calibrated=True,
            )
    return target
