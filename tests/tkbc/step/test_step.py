"""One optimizer step: the same from any micro-batch, chunk and scoring, and right by finite differences."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.workload import SCORINGS, TRAITS, ModelName, Score, Scoring, Shape, Workload, build_workload
from tests.support.models import in_float64
from tests.support.models_cases import SCORED
from tests.support.slow import mostly_slow
from tkbc.models import Batch
from tkbc.models.base import gradient
from tkbc.step.loss import softmax_cross_entropy
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

SHAPE = Shape(n_entities=37, n_relations=3, n_timestamps=6, n_facts=30)


def make_workload(model: ModelName, **settings: Any) -> Workload:
    traits = TRAITS[model]
    base: dict[str, Any] = {"rank": 7, "emb_reg": 0.02, "unit_norm": not traits.is_complex}
    base["time_reg"] = 0.05 if traits.is_temporal else 0
    return build_workload(SHAPE, model=model, **{**base, **settings})


def make_trainer(workload: Workload, *, double: bool = False) -> Trainer:
    trainer = Trainer(workload, random_facts(SHAPE, SHAPE.n_facts), learning_rate=0.1, seed=3)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(20)  # away from 0, where every score is alike
    if double:
        in_float64(trainer.model)
    return trainer


def parameters_after(workload: Workload, n_steps: int = 3) -> dict[str, torch.Tensor]:
    trainer = make_trainer(workload)
    order = trainer.shuffled(0)
    for step in range(n_steps):
        trainer.step(order[step * workload.batch_size : (step + 1) * workload.batch_size])
    return {name: table.detach().clone() for name, table in trainer.model.named_parameters()}


@cache
def after_three_full_steps(model: ModelName, optimizer: str) -> dict[str, torch.Tensor]:
    """What every way to take the same steps has to lead to."""
    return parameters_after(make_workload(model, optimizer=optimizer, batch_size=24))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    # Adagrad and Adam divide a gradient by its own size, so where a gradient is nearly 0 its rounding decides the
    # update: compare with a tolerance of the update's size for few entries, tightly for all others.
    for name, table in one.items():
        difference = (table - other[name]).abs()
        assert difference.max() < 0.02, name
        assert (difference > 1e-4).float().mean() < 0.01, name


@pytest.mark.parametrize("model", ["TNTComplEx", "TNTPairRE"])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("micro_batch", mostly_slow([7, 1, 24]))
def test_micro_batches_and_scoring_change_nothing(
    model: ModelName, optimizer: str, scoring: Scoring, micro_batch: int
) -> None:
    """60 examples in batches of 24: the third step's batch holds 12, so its weight is its own size."""
    full = after_three_full_steps(model, optimizer)
    part = parameters_after(
        make_workload(model, optimizer=optimizer, batch_size=24, micro_batch_size=micro_batch, scoring=scoring)
    )
    assert_same(full, part)


@pytest.mark.slow
@settings(max_examples=25)
@given(data=st.data())
def test_any_batch_micro_batch_and_chunk_give_the_full_batch_step(data: st.DataObject) -> None:
    model, score = data.draw(st.sampled_from(SCORED))
    batch = data.draw(st.integers(1, 60))
    full = parameters_after(make_workload(model, score=score, batch_size=batch), n_steps=1)
    part = parameters_after(
        make_workload(
            model,
            score=score,
            batch_size=batch,
            micro_batch_size=data.draw(st.integers(1, batch)),
            chunk_size=data.draw(st.integers(1, SHAPE.n_entities)),
            scoring=data.draw(st.sampled_from(["chunked", "fused"])),
        ),
        n_steps=1,
    )
    assert_same(full, part)


@pytest.mark.parametrize(("model", "score"), SCORED)
@pytest.mark.parametrize(
    ("scoring", "chunk"), mostly_slow([("materialized", 37), ("fused", 37), ("chunked", 10), ("fused", 10)], quick=2)
)
def test_the_step_s_gradient_by_float64_finite_differences(
    model: ModelName, score: Score, scoring: Scoring, chunk: int
) -> None:
    """Loss, N3 and smoothness together, through the code that trains, in float64, along random directions."""
    workload = make_workload(model, score=score, batch_size=20, chunk_size=chunk, scoring=scoring, unit_norm=False)
    trainer = make_trainer(workload, double=True)
    batch = Batch(*trainer.examples[:, :20].contiguous())
    parameters = list(trainer.model.parameters())

    @torch.no_grad()
    def objective() -> float:
        """The mean loss and penalties, with their gradient left in the tables' gradients."""
        for parameter in parameters:
            gradient(parameter).zero_()
        encoding = trainer.model.encode(batch)
        loss, grad_query = softmax_cross_entropy(
            trainer.score,
            encoding.query,
            trainer.model.entity.detach(),
            batch.tail.long(),
            gradient(trainer.model.entity),
            chunk_size=chunk,
        )
        trainer.model.encode_backward(batch, encoding, grad_query)
        loss = (loss + trainer.model.regularize(batch, workload.emb_reg)) / 20
        for parameter in parameters:
            gradient(parameter).div_(20)
        if workload.time_reg > 0:
            loss += trainer.model.regularize_time(workload.time_reg, no_time_emb=False)
        return float(loss)

    objective()
    gradients = [gradient(parameter).clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(1)
    step = 1e-6
    for parameter, written in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            above = objective()
            parameter.sub_(direction, alpha=2 * step)
            below = objective()
            parameter.add_(direction, alpha=step)
        assert (above - below) / (2 * step) == pytest.approx(float((written * direction).sum()), rel=1e-5, abs=1e-7)


def test_another_scoring_is_taken_up_and_the_same_is_kept() -> None:
    """A score that is kept need not be compiled again; a workload of another scoring would else take other memory."""
    fused, chunked = (make_workload("TNTPairRE", batch_size=24, scoring=scoring) for scoring in ("fused", "chunked"))
    trainer, plain = make_trainer(fused), make_trainer(chunked)
    before = trainer.score
    trainer.adopt(fused.model_copy(update={"micro_batch_size": 3}))
    assert trainer.score is before
    assert trainer.workload.micro_batch_size == trainer.model.workload.micro_batch_size == 3
    assert type(before) is not type(plain.score)
    trainer.adopt(chunked)
    assert type(trainer.score) is type(plain.score)
    for one in (trainer, plain):
        one.step(one.shuffled(0)[:24])
    for mine, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    trainer, again = (make_trainer(make_workload("TNTPairRE")) for _ in range(2))
    trainer.step(trainer.shuffled(0)[:10])
    assert torch.equal(trainer.shuffled(4), again.shuffled(4))
    assert not torch.equal(trainer.shuffled(4), trainer.shuffled(5))
    assert torch.equal(trainer.shuffled(4).sort().values, torch.arange(60))
