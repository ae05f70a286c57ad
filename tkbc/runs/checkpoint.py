"""A checkpoint's tensors, as safetensors, and its state, as JSON: written from a trainer and copied back into one.

PyTorch's own format for tensors of several processes (torch.distributed.checkpoint) keeps an index that, when it is
read, runs what is written in it. A safetensors file gives out any range of rows without reading the rest, which is all
that another number of processes needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memplan.errors import MemplanError, is_full, reason_of
from tkbc.models import Model
from tkbc.runs.checkpoint_folders import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    SHARD_FILES,
    STATE_FILE,
    Checkpoints,
    shard_file,
)
from tkbc.runs.listing import how_to_resume
from tkbc.runs.state import RunState
from tkbc.step.trainer import Trainer
from tkbc.step.waiting import waiting

DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
"""PyTorch's types as safetensors calls them."""


def save_checkpoint(checkpoints: Checkpoints, name: str, trainer: Trainer, state: RunState) -> None:
    """Write the model, the optimizer's state and ``state`` as checkpoint ``name``; all processes call it together.

    Raises:
        MemplanError: it cannot be written, here or in another process; the ones before stay as they are.
    """
    processes = trainer.processes
    try:
        with ExitStack() as stack:
            if processes.leads:
                folder = processes.together(lambda: stack.enter_context(checkpoints.writing(name)))
            else:
                folder = processes.together(lambda: checkpoints.unfinished(name))
            processes.together(lambda: _write(folder, trainer, state))
            processes.together(stack.close)
    except (OSError, SafetensorError) as error:
        then = "Make room, then" if is_full(error) else "Then"
        raise MemplanError(
            f"{checkpoints.folder}: the checkpoint cannot be written: {reason_of(error)}; the ones before stay. "
            f"{then} {how_to_resume(checkpoints.folder.parent)}"
        ) from None


def _write(folder: Path, trainer: Trainer, state: RunState) -> None:
    write_tensors(folder, trainer)
    if trainer.processes.leads:
        (folder / STATE_FILE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_tensors(folder: Path, trainer: Trainer) -> None:
    """Write the trainer's tables and optimizer state to ``folder`` from where they are.

    Where the entity table is split, its rows and their state go to a file for each process that holds some.
    """
    processes, tables, moments = trainer.processes, _tables(trainer.model), _moments(trainer)
    with waiting("tables to a checkpoint"):
        if processes.shards > 1:
            own = {name: of.pop(name) for of in (tables, moments) for name in list(of) if _is_of_entities(name)}
            if processes.replica == 0:
                save_file(own, folder / shard_file(processes.shard, processes.shards))
        if processes.leads:
            save_file(tables, folder / MODEL_FILE)
            save_file(moments, folder / OPTIMIZER_FILE)


def load_checkpoint(folder: Path, trainer: Trainer, state: RunState) -> None:
    """Copy the checkpoint's tables, optimizer state and counts into ``trainer``, of the entities its own rows.

    Raises:
        MemplanError: a file cannot be read, or is of another model, graph or optimizer.
    """
    load_model(folder, trainer.model)
    _load(folder, OPTIMIZER_FILE, _moments(trainer), trainer.model)
    for at, total in enumerate(state.totals):
        trainer.totals[0, at] = total
    trainer.steps = state.steps


def load_model(folder: Path, model: Model) -> None:
    """Copy the checkpoint's embedding tables into ``model``, of the entities its own rows.

    Raises:
        MemplanError: a file is missing or damaged, or a table has another shape than the model's.
    """
    _load(folder, MODEL_FILE, _tables(model), model)


def _tables(model: Model) -> dict[str, Tensor]:
    return {name: table.detach() for name, table in model.named_parameters()}


def _moments(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, table in trainer.model.named_parameters()
        for key, value in trainer.optimizer.state[table].items()
        if isinstance(value, Tensor)
    }


def _is_of_entities(name: str) -> bool:
    """Return whether a tensor goes by the entities: their table, or the optimizer's state of it."""
    return name.partition(".")[0] == "entity"


def _load(folder: Path, file: str, tensors: dict[str, Tensor], model: Model) -> None:
    """Copy tensors from ``file``; those that go by the entities from the shards' files, where there are some."""
    shards = sorted(folder.glob(SHARD_FILES)) or [folder / file]
    with waiting("tables from a checkpoint"):
        for name, tensor in tensors.items():
            if not _is_of_entities(name):
                _copy([folder / file], name, tensor, tuple(tensor.shape), 0)
            elif tensor.dim() == 0:  # a count of steps, the same in every shard
                _copy(shards[:1], name, tensor, (), 0)
            else:
                _copy(shards, name, tensor, (model.workload.n_entities, *tensor.shape[1:]), model.processes.rows.start)


def _copy(paths: list[Path], name: str, tensor: Tensor, shape: tuple[int, ...], first: int) -> None:
    """Copy into ``tensor``, from row ``first`` on, a tensor of that ``shape`` which files hold one after the other.

    Raises:
        MemplanError: a file cannot be read, or they hold something else.
    """
    with ExitStack() as stack:
        pieces = [stack.enter_context(_saved(path, name)) for path in paths]
        shapes = [tuple(piece.get_shape()) for piece in pieces]
        whole = shapes[0]
        if shape and all(len(of) == len(shape) and of[1:] == shape[1:] for of in shapes):
            whole = (sum(of[0] for of in shapes), *shape[1:])
        dtype = pieces[0].get_dtype()
        if whole != shape or dtype != DTYPES[tensor.dtype]:
            raise MemplanError(
                f"{paths[0]}: {name!r} is {whole} {dtype}, the run's {shape} {DTYPES[tensor.dtype]}; use the plan and "
                "data that the run was trained with"
            )
        if not shape:
            tensor.copy_(pieces[0][...])
            return
        start = 0
        for piece, of in zip(pieces, shapes, strict=True):
            begin, end = max(first, start), min(first + len(tensor), start + of[0])
            if begin < end:
                tensor[begin - first : end - first].copy_(piece[begin - start : end - start])
            start += of[0]


@contextmanager
def _saved(path: Path, name: str) -> Iterator[Any]:
    """Yield the tensor of that name in a file, of which any rows can be read.

    Raises:
        MemplanError: there is none, or something inside cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118 - no mapping
                raise MemplanError(f"{path}: no tensor {name!r}; the checkpoint is of another model or optimizer")
            yield file.get_slice(name)
    except (OSError, SafetensorError) as error:
        raise MemplanError(f"{path}: cannot be read: {error}") from None
