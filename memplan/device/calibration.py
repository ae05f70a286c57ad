"""What ``memplan calibrate`` has measured on this machine, kept in the user's configuration folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from memplan.device.rates import Rates, StepRates
from memplan.errors import MemplanError
from memplan.files import write_text
from memplan.workload import first_problem

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ByteCount = Annotated[int, Field(ge=0, le=2**50)]


class Calibration(BaseModel, frozen=True, extra="forbid"):
    """One device's measured figures; None where the device has no such thing."""

    device: str
    """As ``Target.name`` says it."""
    threads: int
    """CPU threads while measuring; figures for another number are not used."""
    versions: dict[str, str]
    step_seconds: dict[str, Seconds] | None = None
    """A CPU's: ``StepRates.seconds``."""
    error: Rate | None = None
    """``StepRates.error``."""
    flops_per_second: Rate | None = None
    """A GPU's, as the rest: ``Rates``."""
    bytes_per_second: Rate | None = None
    fresh_bytes_per_second: Rate | None = None
    launch_seconds: Rate | None = None
    l1_terms_per_second: Rate | None = None
    l1_gradient_terms_per_second: Rate | None = None
    context_bytes: ByteCount | None = None
    workspace_bytes: ByteCount | None = None

    def rates(self, stated: Rates | StepRates) -> Rates | StepRates | None:
        """Return the rates that were measured, in place of those ``stated``; None where they are of another sort.

        Older versions measured a CPU's bandwidths, which the cost model has no use for.
        """
        if isinstance(stated, StepRates):
            if self.step_seconds is None or self.error is None:
                return None
            return StepRates({**stated.seconds, **self.step_seconds}, self.error)
        return Rates(*(getattr(self, name) or getattr(stated, name) for name in Rates._fields))


class Calibrations(BaseModel, frozen=True, extra="forbid"):
    """The file: one entry a device."""

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
    write_text(path, Calibrations(devices=[*others, new]).model_dump_json(indent=2) + "\n")
    return path
