"""Opening a run's best checkpoint with the data that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from memplan.errors import MemplanError
from memplan.plan import Plan
from memplan.prediction.estimate import bytes_follow
from tkbc.runs.listing import RUNS

if TYPE_CHECKING:
    from tkbc.data import Dataset
    from tkbc.runs.state import RunState

Tell = Callable[[str], None]


def open_checkpoint(run: Path, data_dir: Path | None, tell: Tell) -> tuple[str, RunState, Dataset]:
    """Return the name and state of the run's best checkpoint, and its data; ``tell`` is told what is passed over.

    Raises:
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    from tkbc.data import load_dataset
    from tkbc.runs.checkpoint_folders import Checkpoints

    if not run.is_dir():
        raise MemplanError(f"{run}: no such run; memplan runs lists those in {RUNS}/")
    checkpoints = Checkpoints(run / "checkpoint")
    name = checkpoints.best_or_newest(tell)
    state = checkpoints.read(name)
    data = load_dataset(state.dataset, data_dir or data_folder_of(state))
    if data.sha256 != state.data_sha256:
        raise MemplanError(f"{data.dataset}: not the data that {run} was trained on; it has changed since")
    return name, state, data


def data_folder_of(state: RunState) -> Path | None:
    """Return where the run's data lay, if it was said."""
    return None if state.data_dir is None else Path(state.data_dir)


def check_bytes(plan: Plan, folder: Path) -> None:
    """Check that a run's plan has the bytes that its workload has in this version.

    Raises:
        MemplanError: it has others.
    """
    if not bytes_follow(plan):
        raise MemplanError(f"{folder}: its plan's bytes do not follow from its workload: train anew")
