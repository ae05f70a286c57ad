"""Predicted against measured: every allocation of PyTorch's CPU allocator, phase by phase, to the byte."""

from __future__ import annotations

import pytest

from memplan.catalog.datasets import find_dataset
from memplan.workload import ModelName, Score, Scoring, Shape, Workload, build_workload
from tests.support.memory_prediction import assert_exact, settings_of
from tests.support.models_cases import SCORED
from tests.support.slow import mostly_slow
from tkbc.verify import random_workloads

SMALL = Shape(n_entities=1501, n_relations=11, n_timestamps=19, n_facts=500)


@pytest.mark.parametrize(("model", "score"), SCORED)
@pytest.mark.parametrize(
    ("scoring", "chunk"), [("materialized", None), ("chunked", 400), ("fused", None), ("fused", 400)]
)
@pytest.mark.slow
def test_every_model_score_and_scoring(model: ModelName, score: Score, scoring: Scoring, chunk: int | None) -> None:
    """With a ragged chunk, a ragged micro-batch, and each optimizer and precision in turn."""
    for optimizer, precision, parts in (("adagrad", "fp32", 1), ("adam", "bf16", 5), ("sgd", "fp16", 5)):
        assert_exact(
            build_workload(
                SMALL,
                model=model,
                rank=37,
                score=score,
                scoring=scoring,
                optimizer=optimizer,
                precision=precision,
                batch_size=67,
                micro_batch_size=-(-67 // parts),
                chunk_size=chunk,
                eval_chunk_size=chunk,
                threads=2,
                **settings_of(model),
            )
        )


@pytest.mark.parametrize("model", ["TNTComplEx", "TNTPairRE"])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
@pytest.mark.parametrize(
    ("scoring", "batch", "chunk", "parts"),
    [("fused", 1000, None, 1), ("fused", 1000, None, 5), ("chunked", 50, 1000, 1), ("materialized", 40, None, 1)],
)
@pytest.mark.slow
def test_the_shape_of_icews14(
    model: ModelName, scoring: Scoring, batch: int, chunk: int | None, parts: int, optimizer: str
) -> None:
    assert_exact(
        build_workload(
            find_dataset("ICEWS14").shape,
            model=model,
            rank=100,
            scoring=scoring,
            optimizer=optimizer,
            batch_size=batch,
            micro_batch_size=-(-batch // parts),
            chunk_size=chunk,
            eval_batch_size=batch,
            eval_chunk_size=chunk,
            threads=2,
            **settings_of(model),
        )
    )


@pytest.mark.parametrize(
    "workload",
    mostly_slow(random_workloads(100, seed=0), quick=15),
    ids=lambda w: f"{w.model}-{w.score}-{w.scoring}-{w.precision}-N{w.n_entities}",
)
def test_random_workloads(workload: Workload) -> None:
    """Odd sizes, regularizers on and off, one to three threads, ragged chunks and micro-batches."""
    assert_exact(workload)
