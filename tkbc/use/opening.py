"""Opening a run's best checkpoint with the data that it was trained on, and ranking a split with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from memplan.device.target import resolve
from memplan.errors import MemplanError, UsageError
from memplan.plan import Plan
from memplan.prediction.estimate import bytes_follow
from tkbc.runs.listing import RUNS
from tkbc.runs.readiness import check_device, prepare_torch

if TYPE_CHECKING:
    from tkbc.data import Dataset
    from tkbc.ranking.evaluation import Ranks
    from tkbc.runs.state import RunState

Held = Literal["valid", "test"]
Tell = Callable[[str], None]


class Ranked(NamedTuple):
    """A split ranked with a run's best checkpoint."""

    checkpoint: str
    data: Dataset
    ranks: Ranks


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


def rank_run(run: Path, split: str, data_dir: Path | None, tell: Tell) -> Ranked:
    """Rank ``split`` with the run's best checkpoint.

    Raises:
        UsageError: no such split.
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    if split not in get_args(Held):
        raise UsageError(f"--split: {split!r} is neither valid nor test")
    name, state, data = open_checkpoint(run, data_dir, tell)
    check_bytes(state.plan, run)
    target = resolve(state.plan.workload.device, None)
    prepare_torch(state.plan)
    check_device(state.plan, target)
    from tkbc.use.evaluate import rank_with

    return Ranked(name, data, rank_with(run / "checkpoint" / name, state.plan, data, cast(Held, split)))


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
