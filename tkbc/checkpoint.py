"""Checkpoints: tensors as safetensors, the rest as JSON; written beside the old one, synced, then put in its place."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memplan.errors import MemplanError
from tkbc.models import Model
from tkbc.trainer import Trainer

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


def save_checkpoint(folder: Path, trainer: Trainer, state: dict[str, Any]) -> None:
    """Write the model, the optimizer's state and ``state`` to ``folder``, in place of what was there.

    A reader finds the old checkpoint or the new one, never a mixture: all files are written to a folder of another name
    first, which then takes the name.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, trainer, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise MemplanError(f"{folder}: the checkpoint cannot be written: {error}; the one before stays") from None
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(unfinished: Path, trainer: Trainer, state: dict[str, Any]) -> None:
    tables = dict(trainer.model.named_parameters())
    save_file({name: table.detach() for name, table in tables.items()}, unfinished / MODEL_FILE)
    moments = {
        f"{name}.{key}": value
        for name, table in tables.items()
        for key, value in trainer.optimizer.state[table].items()
        if isinstance(value, Tensor)
    }
    save_file(moments, unfinished / OPTIMIZER_FILE)
    (unfinished / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    for path in [*unfinished.iterdir(), unfinished]:
        _sync(path)


def load_model(folder: Path, model: Model) -> None:
    """Copy the checkpoint's embedding tables into ``model``.

    Raises:
        MemplanError: a file is missing or damaged, or a table has another shape than the model's.
    """
    path = folder / MODEL_FILE
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, table in model.named_parameters():
                if name not in names:
                    raise MemplanError(f"{path}: no table {name!r}; the checkpoint is of another model")
                saved = file.get_tensor(name)
                if saved.shape != table.shape:
                    raise MemplanError(
                        f"{path}: table {name!r} is {tuple(saved.shape)}, the model's {tuple(table.shape)}; "
                        "use the plan and data that the run was trained with"
                    )
                table.detach().copy_(saved)
    except (OSError, SafetensorError) as error:
        raise MemplanError(f"{path}: cannot be read: {error}") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
