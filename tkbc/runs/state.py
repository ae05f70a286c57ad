"""Where a run stands, as its checkpoints keep it besides the tensors. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from memplan.plan import Plan
from tkbc.runs.settings import TrainSettings

CHECKPOINT_NAME = r"[0-9]{1,18}"
"""What names a checkpoint: ASCII digits, of which there are never too many to count on from."""


class Best(BaseModel, frozen=True, extra="forbid"):
    """The best validation so far."""

    epoch: int
    mrr: float
    checkpoint: Annotated[str, Field(pattern=f"^{CHECKPOINT_NAME}$")]
    """The name of the checkpoint taken then."""


class RunState(BaseModel):
    """A run's state between two optimizer steps.

    The order of an epoch's examples is a function of seed and epoch, so the position in it is a count, and no random
    generator outlives the set-up. An epoch whose examples are all done is still to be validated and reported; the next
    begins at 0 examples.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    plan: Plan
    """The plan in use: after running out of memory no longer the one that the run began with."""
    settings: TrainSettings
    dataset: str
    data_dir: str | None = None
    """Where the catalog's dataset was looked for, a full path, where ``--data-dir`` said so."""
    data_sha256: str
    versions: dict[str, str]
    """Of what may round differently: a run is continued bit for bit where they are the same."""
    epoch: Annotated[int, Field(ge=1)] = 1
    examples_done: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of the whole run."""
    totals: tuple[float, float] = (0.0, 0.0)
    """Sums over the epoch's examples so far: loss and N3 penalty."""
    seconds: float = 0.0
    """Of training in this epoch so far."""
    spent_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of all sittings together, up to the last step or validation."""
    has_timed_out: bool = False
    """The minutes were spent and the tables validated as they were then."""
    best: Best | None = None
    validations_since_best: Annotated[int, Field(ge=0)] = 0

    @property
    def is_over(self) -> bool:
        """Whether no epoch is left to train: all are done, or patience or time has run out."""
        patience = self.settings.patience
        return (
            self.epoch > self.settings.max_epochs
            or (patience is not None and self.validations_since_best >= patience)
            or (self.has_timed_out and self.is_out_of_time)
        )

    @property
    def is_out_of_time(self) -> bool:
        """Whether the minutes that the run may take are spent."""
        minutes = self.settings.minutes
        return minutes is not None and self.spent_seconds >= 60 * minutes


def present_versions() -> dict[str, str]:
    """Return the versions that results may depend on in their last bits."""
    return {"python": platform.python_version(), "torch": importlib.metadata.version("torch")}
