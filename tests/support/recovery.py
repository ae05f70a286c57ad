"""What tests of recovery share with others."""

from __future__ import annotations

from typing import Any

from memplan.workload import Shape, build_workload
from tests.conftest import random_facts
from tkbc.step.trainer import Trainer

SHAPE = Shape(n_entities=300, n_relations=3, n_timestamps=6, n_facts=60)


CONFIGURATIONS: list[dict[str, Any]] = [
    {"model": "TNTPairRE", "scoring": "chunked", "optimizer": "adam", "unit_norm": True},
    {"model": "TNTPairRE", "scoring": "fused", "optimizer": "adagrad", "unit_norm": True},
    {"model": "TNTComplEx", "scoring": "materialized", "optimizer": "adam"},
    {"model": "TNTComplEx", "scoring": "fused", "optimizer": "adagrad"},
    {"model": "TNTPairRE", "scoring": "fused", "optimizer": "adagrad", "unit_norm": True, "negatives": 50},
]


def settings_of(configuration: dict[str, Any]) -> dict[str, Any]:
    chunk = None if configuration["scoring"] == "materialized" else 200
    sizes = {"rank": 4, "batch_size": 40, "micro_batch_size": 20, "chunk_size": chunk, "eval_chunk_size": chunk}
    if chunk is not None and "negatives" in configuration:
        sizes["chunk_size"] = 30
    return {**configuration, **sizes, "emb_reg": 0.01, "time_reg": 0.01, "threads": 2}


def make_trainer(configuration: dict[str, Any]) -> Trainer:
    workload = build_workload(SHAPE, **settings_of(configuration))
    return Trainer(workload, random_facts(SHAPE, SHAPE.n_facts), learning_rate=0.1)
