"""A checkpoint's tensors, as safetensors, and its state, as JSON: written from a trainer and copied back into one."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memplan.errors import MemplanError, is_full, reason_of
from tkbc.models import Model
from tkbc.runs.checkpoint_folders import MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, Checkpoints
from tkbc.runs.listing import how_to_resume
from tkbc.runs.state import RunState
from tkbc.step.trainer import Trainer
from tkbc.step.waiting import waiting


def save_checkpoint(checkpoints: Checkpoints, name: str, trainer: Trainer, state: RunState) -> None:
    """Write the model, the optimizer's state and ``state`` as checkpoint ``name``.

    Raises:
        MemplanError: it cannot be written; the ones before stay as they are.
    """
    try:
        with checkpoints.writing(name) as folder:
            write_tensors(folder, trainer)
            (folder / STATE_FILE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        then = "Make room, then" if is_full(error) else "Then"
        raise MemplanError(
            f"{checkpoints.folder}: the checkpoint cannot be written: {reason_of(error)}; the ones before stay. "
            f"{then} {how_to_resume(checkpoints.folder.parent)}"
        ) from None


def write_tensors(folder: Path, trainer: Trainer) -> None:
    """Write the trainer's tables and optimizer state to ``folder`` from where they are."""
    with waiting("tables to a checkpoint"):
        save_file({key: table.detach() for key, table in trainer.model.named_parameters()}, folder / MODEL_FILE)
        save_file(_moments(trainer), folder / OPTIMIZER_FILE)


def load_checkpoint(folder: Path, trainer: Trainer, state: RunState) -> None:
    """Copy the checkpoint's tables, optimizer state and counts into ``trainer``.

    Raises:
        MemplanError: a file cannot be read, or is of another model, graph or optimizer.
    """
    load_model(folder, trainer.model)
    _load(folder / OPTIMIZER_FILE, _moments(trainer))
    for at, total in enumerate(state.totals):
        trainer.totals[0, at] = total
    trainer.steps = state.steps


def load_model(folder: Path, model: Model) -> None:
    """Copy the checkpoint's embedding tables into ``model``.

    Raises:
        MemplanError: a file is missing or damaged, or a table has another shape than the model's.
    """
    _load(folder / MODEL_FILE, {name: table.detach() for name, table in model.named_parameters()})


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, table in trainer.model.named_parameters()
        for key, value in trainer.optimizer.state[table].items()
        if isinstance(value, Tensor)
    }


def _load(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        with waiting("tables from a checkpoint"), safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, tensor in tensors.items():
                if name not in names:
                    raise MemplanError(f"{path}: no tensor {name!r}; the checkpoint is of another model or optimizer")
                saved = file.get_tensor(name)
                if (saved.shape, saved.dtype) != (tensor.shape, tensor.dtype):
                    raise MemplanError(
                        f"{path}: {name!r} is {tuple(saved.shape)} {saved.dtype}, the run's {tuple(tensor.shape)} "
                        f"{tensor.dtype}; "
                        "use the plan and data that the run was trained with"
                    )
                tensor.copy_(saved)
    except (OSError, SafetensorError) as error:
        raise MemplanError(f"{path}: cannot be read: {error}") from None
