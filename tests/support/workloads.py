"""Small workloads with everything that decides an allocation, to be recorded without PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import get_args

from memplan.workload import (
    PRECISIONS,
    SCORINGS,
    TRAITS,
    DeviceType,
    OptimizerName,
    Shape,
    Workload,
    build_workload,
)

SHAPE = Shape(n_entities=1501, n_relations=11, n_timestamps=19, n_facts=500)


def combinations() -> Iterator[Workload]:
    """Yield a workload for each device, model, score, scoring and precision, optimizers in turn, regularizers on."""
    optimizers = itertools.cycle(get_args(OptimizerName))
    for device, (model, traits), scoring, precision in itertools.product(
        get_args(DeviceType), TRAITS.items(), SCORINGS, PRECISIONS
    ):
        for score in traits.scores:
            can_predict_time = traits.is_complex or score != "dot" or not traits.is_temporal
            yield build_workload(
                SHAPE.model_copy(update={"intervals": can_predict_time}),
                model=model,
                rank=37,
                score=score,
                scoring=scoring,
                precision=precision,
                optimizer=next(optimizers),
                batch_size=203,
                micro_batch_size=50,
                chunk_size=None if scoring == "materialized" else 400,
                emb_reg=0.1,
                n3_parts=not traits.is_complex and precision == "fp32",
                time_reg=0.1 if traits.is_temporal else 0,
                unit_norm=not traits.is_complex,
                threads=2,
                device=device,
                deterministic=device == "cuda" and precision == "fp32",
            )


def with_negatives() -> Iterator[Workload]:
    """Yield what trains with negatives, on both devices, Adagrad and SGD in turn: the rest as in ``combinations``."""
    optimizers: Iterator[OptimizerName] = itertools.cycle(("adagrad", "sgd"))
    for workload in combinations():
        if workload.precision != "bf16":
            chunk = 100 if workload.scoring == "materialized" else 40
            update = {"negatives": 100, "chunk_size": chunk, "optimizer": next(optimizers)}
            yield Workload.model_validate({**workload.model_dump(), **update})
