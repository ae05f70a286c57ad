"""That training teaches something: a temporal model beats a static one, and real data gives a real score."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from memplan.catalog.recipes import find_recipe
from memplan.workload import ModelName, Score, build_workload
from tests.support.models_cases import SCORED
from tests.support.slow import mostly_slow
from tkbc.data import Dataset, load_dataset
from tkbc.ranking.evaluation import Metrics, evaluate
from tkbc.step.trainer import Trainer


def train_and_rank(graph: Dataset, model: ModelName, epochs: int, rank: int, recipe_name: str | None = None) -> Metrics:
    """Train with the recipe, at a lower rank, and return the test metrics."""
    recipe = find_recipe(graph.name, model, recipe_name)
    workload = build_workload(graph.shape, model=model, threads=1, **{**recipe.settings, "rank": rank})
    trainer = Trainer(workload, graph.train, learning_rate=recipe.learning_rate)
    for epoch in range(epochs):
        for part in trainer.shuffled(epoch).split(workload.batch_size):
            trainer.step(part)
    return evaluate(trainer.model, trainer.score, graph.test, graph.filter_index, workload).both


@pytest.mark.parametrize(("static", "temporal"), [("ComplEx", "TNTComplEx"), ("PairRE", "TNTPairRE")])
@pytest.mark.slow
def test_on_the_demo_graph_a_temporal_model_beats_a_static_one(static: ModelName, temporal: ModelName) -> None:
    graph = load_dataset("demo")
    without_time, with_time = (train_and_rank(graph, model, epochs=8, rank=50) for model in (static, temporal))
    chance = sum(1 / rank for rank in range(1, 501)) / 500
    assert without_time.mrr > 3 * chance
    assert with_time.mrr > 1.2 * without_time.mrr


@pytest.mark.slow
def test_tntpaire_learns_icews14_in_two_epochs(real_data: Path) -> None:
    """Rank 32, batch 1000, Adagrad 0.2, the plain recipe: 2,000 test facts, an MRR of 0.337 and hits@10 of 0.517."""
    graph = load_dataset("ICEWS14", real_data)
    found = train_and_rank(replace(graph, test=graph.test[:2000]), "TNTPairRE", 2, rank=32, recipe_name="plain")
    assert found.mrr >= 0.33
    assert found.hits_at_10 >= 0.5


@pytest.mark.parametrize(("name", "score"), mostly_slow(SCORED))
def test_every_model_leaves_ln_n_from_its_initial_embeddings(name: ModelName, score: Score) -> None:
    """Where embeddings begin too small their products vanish, gradients fall below Adagrad's ε, nothing is learned."""
    graph = load_dataset("demo")
    workload = build_workload(graph.shape, model=name, score=score, rank=32, batch_size=500, threads=1)
    trainer = Trainer(workload, graph.train, learning_rate=0.1)
    for part in trainer.shuffled(1).split(500)[:40]:
        trainer.step(part)
    first = trainer.totals[0, 0].item() / (40 * 500)
    assert first < 0.999 * math.log(graph.shape.n_entities)
