"""What tests of resume share with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.conftest import random_graph
from tests.support.training import SHAPE, make_plan, newest_checkpoint
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import Reporter, Result, TrainSettings, resume, train

SETTINGS: dict[str, Any] = {
    "learning_rate": 0.1, "max_epochs": 4, "cooldown": 0.6, "valid_freq": 2, "checkpoint_minutes": 0, "seed": 3,
}  # fmt: skip


ADAM = {"model": "TNTPairRE", "optimizer": "adam", "unit_norm": True}


ADAGRAD = {"model": "TNTComplEx", "optimizer": "adagrad"}


NEGATIVES = {"model": "TNTPairRE", "optimizer": "adagrad", "unit_norm": True, "negatives": 20}


class StopAt(Reporter):
    """Asks to stop when the given step is done, or in the middle of a ranking."""

    def __init__(self, step: int | None = None, *, ranking: bool = False) -> None:
        self.left, self.ranking, self.stop = step, ranking, False

    def step_done(self, *_: object) -> None:
        if self.left is not None:
            self.left -= 1
            self.stop = self.left <= 0

    def evaluating(self, *_: object) -> None:
        self.stop = self.stop or self.ranking


def begin(folder: Path, reporter: StopAt | None = None, **settings: Any) -> Result:
    graph = random_graph(SHAPE)
    made = make_plan(graph, batch_size=100, micro_batch_size=30, emb_reg=0.01, time_reg=0.01, **settings)
    reporter = reporter or StopAt()
    return train(made, graph, TrainSettings(**SETTINGS), folder, reporter, lambda: reporter.stop)


def go_on(folder: Path, reporter: StopAt | None = None, told: Callable[[str], None] = lambda _: None) -> Result:
    reporter = reporter or StopAt()
    name, state = Checkpoints(folder / "checkpoint").newest(told)
    return resume(folder, name, state, random_graph(SHAPE), reporter, lambda: reporter.stop)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(folder)
    return {
        f"{file}/{name}": tensor
        for file in ("model", "optimizer")
        for name, tensor in load_file(checkpoint / f"{file}.safetensors").items()
    }


def assert_same_run(one: Path, other: Path) -> None:
    """Parameters, optimizer state and every reported number but the times are equal, bit for bit."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert reported(one) == reported(other)


def reported(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "examples_per_second", "memory"}
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if "event" not in line]
