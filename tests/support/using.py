"""A small trained run with its data, as tests of its use take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from memplan.workload import ModelName, Score
from tests.conftest import random_graph, write_folder
from tests.support.training import SHAPE, make_plan
from tkbc.data import Dataset, load_dataset
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import TrainSettings, train

NAMES = {0: "South Korea", 1: "South_Korea", 2: "Côte d'Ivoire", 3: "<script>alert(1)</script>", 4: "Iran", 5: "日本"}


class Trained(NamedTuple):
    run: Path
    data: Path
    model: ModelName
    score: Score
    graph: Dataset

    @property
    def tables(self) -> dict[str, np.ndarray]:
        """The best checkpoint's tables in float64, read without the code under test."""
        checkpoints = Checkpoints(self.run / "checkpoint")
        _, state = checkpoints.newest()
        file = checkpoints.folder / state.best.checkpoint / "model.safetensors"
        return {name: table.astype(np.float64) for name, table in load_file(file).items()}


def train_one(folder: Path, model: ModelName, score: Score, **settings: Any) -> Trained:
    graph = random_graph(SHAPE, n_valid=40, n_test=50)
    entities = tuple(NAMES.get(i, name) for i, name in enumerate(graph.entities))
    times = tuple(f"2014-05-{3 * i + 1:02}" for i in range(len(graph.timestamps)))
    named = Dataset("random", entities, graph.relations, times, graph.train, graph.valid, graph.test)
    data = write_folder(folder / "data", named)
    graph = load_dataset(str(data))
    plan = make_plan(
        graph, model=model, score=score, eval_chunk_size=7, rank=5, precision=settings.pop("precision", None)
    )
    chosen = TrainSettings(**{"learning_rate": 0.1, "max_epochs": 3, "valid_freq": 1, **settings})
    train(plan, graph, chosen, folder / "run")
    return Trained(folder / "run", data, model, score, graph)
