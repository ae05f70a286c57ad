"""Training on facts that hold over intervals: the times drawn, the time-prediction loss, its memory, whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memplan.errors import UsageError
from memplan.workload import ModelName, Score, Scoring, Shape, Workload, build_workload
from tests.conftest import random_graph
from tests.support.intervals import SHAPE, TIMED
from tests.support.memory_prediction import assert_exact, settings_of
from tests.support.models_cases import SHAPE as MODEL_SHAPE
from tests.support.models_cases import autograd_of, formula, gradients, make_batch, make_model
from tests.support.resume import ADAGRAD, ADAM, SETTINGS, StopAt, assert_same_run
from tests.support.slow import mostly_slow
from tests.support.training import make_plan
from tkbc.data.dataset import with_reciprocals
from tkbc.data.ids import Ids
from tkbc.data.intervals import draw_times
from tkbc.models import Batch, Model
from tkbc.models.base import gradient
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import TrainSettings, resume, train
from tkbc.scoring import make_score
from tkbc.scoring.reference import FORMULAS
from tkbc.step.loss import softmax_cross_entropy
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

pytestmark = pytest.mark.usefixtures("one_thread")


def test_times_are_drawn_uniformly_inside_the_interval_and_always_the_same() -> None:
    begin = np.repeat(np.array([0, 4, 7], dtype=np.int32), 30_000)
    end = np.repeat(np.array([0, 6, 300], dtype=np.int32), 30_000)
    drawn = draw_times(begin, end, 3, 1)
    assert drawn.dtype == np.int32
    assert ((begin <= drawn) & (drawn <= end)).all()
    point, short, long = np.split(drawn, 3)
    assert not point.any()
    assert np.bincount(short)[4:] == pytest.approx(10_000, rel=0.05)
    assert {long.min(), long.max()} == {7, 300}
    assert np.array_equal(drawn, draw_times(begin, end, 3, 1))
    assert not np.array_equal(drawn, draw_times(begin, end, 3, 2))
    assert not np.array_equal(drawn, draw_times(begin, end, 4, 1))
    assert draw_times(begin, end, 0)[-5:].tolist() == [119, 249, 229, 22, 88], "another stream gives other evaluations"


def test_the_largest_possible_interval_does_not_overflow() -> None:
    end = np.full(1000, 2**31 - 1, dtype=np.int32)
    drawn = draw_times(np.zeros_like(end), end, 0)
    assert drawn.min() >= 0
    assert drawn.max() > 2**30


def times_scored(model: Model, batch: Batch) -> Tensor:
    """The score of each (head, relation, tail) at every timestamp, by the ordinary formula."""
    n = MODEL_SHAPE.n_timestamps
    ids = (column[:, None].expand(-1, n) for column in batch[:3])
    return formula(model, *ids, torch.arange(n).expand(len(batch.head), -1))


@pytest.mark.parametrize(("name", "score"), TIMED)
def test_the_score_over_all_timestamps_is_the_triple_s_score_at_each(name: ModelName, score: Score) -> None:
    """The original's has two wrong signs. TNTComplEx's lacks the static term, the same for all timestamps."""
    model, batch = make_model(name, score=score), make_batch()
    with torch.no_grad():
        found = FORMULAS[score](model.encode_time(batch).query, model.table("time"))
        expected = times_scored(model, batch)
    constant = (expected - found)[:, :1]
    if name == "TNTComplEx":
        assert constant.abs().max() > 1
        expected = expected - constant
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "score"), TIMED)
def test_the_time_loss_and_its_gradient_are_autograd_s(name: ModelName, score: Score) -> None:
    """Through the softmax, weights included, in chunks, in float64."""
    model, batch = make_model(name, score=score), make_batch()
    weights = (torch.arange(len(batch.head)) % 3 > 0).double()

    def loss_of() -> Tensor:
        each = torch.nn.functional.cross_entropy(times_scored(model, batch), batch.time.long(), reduction="none")
        return (each * weights).sum()

    truth, expected = autograd_of(model, loss_of)
    for chunk in (MODEL_SHAPE.n_timestamps, 4):
        for parameter in model.parameters():
            gradient(parameter).zero_()
        with torch.no_grad():
            encoding = model.encode_time(batch)
            value, grad_query = softmax_cross_entropy(
                make_score(score, "chunked", "cpu"),
                encoding.query,
                model.table("time").detach(),
                batch.time.long(),
                gradient(model.table("time")),
                chunk_size=chunk,
                weights=weights,
            )
            model.encode_time_backward(batch, encoding, grad_query)
        torch.testing.assert_close(value, truth)
        for table, found in gradients(model).items():
            torch.testing.assert_close(found, expected[table], rtol=1e-8, atol=1e-9, msg=lambda m, t=table: f"{t}: {m}")


def workload_of(model: ModelName, **settings: Any) -> Workload:
    return build_workload(SHAPE, model=model, rank=5, **{**settings_of(model), **settings})


def facts_of() -> Ids:
    """Facts with intervals, a third of them open at both ends."""
    facts = random_facts(SHAPE, SHAPE.n_facts)
    facts[::3, 3:] = (0, SHAPE.n_timestamps - 1)
    return facts


def trained(workload: Workload, n_steps: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    trainer = Trainer(workload, facts_of(), learning_rate=0.1, seed=3)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(20)  # away from 0, where every score is alike
    order = trainer.shuffled(4)
    for step in range(n_steps):
        trainer.step(order[step * workload.batch_size : (step + 1) * workload.batch_size])
    return {name: table.detach().clone() for name, table in trainer.model.named_parameters()}, trainer.totals[0]


@pytest.mark.parametrize(("name", "score"), TIMED)
@pytest.mark.parametrize(
    ("scoring", "micro_batch", "chunk"),
    [("fused", 50, 23), ("fused", 7, 3), ("chunked", 50, 4), ("chunked", 13, 23), ("materialized", 9, 23)],
)
def test_micro_batches_chunks_and_scoring_change_nothing(
    name: ModelName, score: Score, scoring: Scoring, micro_batch: int, chunk: int
) -> None:
    """120 examples in batches of 50: the last of three steps has 20. SGD, whose update is the gradient itself."""
    common: dict[str, Any] = {"score": score, "batch_size": 50, "optimizer": "sgd"}
    expected, loss = trained(workload_of(name, scoring="chunked", **common))
    found, other_loss = trained(
        workload_of(name, scoring=scoring, micro_batch_size=micro_batch, chunk_size=chunk, **common)
    )
    torch.testing.assert_close(other_loss, loss, rtol=1e-4, atol=1e-4)
    for table, values in expected.items():
        torch.testing.assert_close(found[table], values, rtol=1e-3, atol=1e-4, msg=lambda m, t=table: f"{t}: {m}")


@pytest.mark.parametrize(("name", "score"), TIMED)
def test_the_step_s_gradient_is_that_of_both_losses(name: ModelName, score: Score) -> None:
    """Mean over the batch of the entities' loss and the time's, the latter 0 for facts open at both ends."""
    workload = workload_of(
        name, score=score, batch_size=50, micro_batch_size=20, optimizer="sgd", emb_reg=0, time_reg=0
    )
    trainer = Trainer(workload.model_copy(update={"unit_norm": False}), facts_of(), learning_rate=1.0, seed=3)
    order = trainer.shuffled(1)[:50]
    model = trainer.model
    begin, end = with_reciprocals(facts_of(), SHAPE.n_relations)[order, 3:].T
    h, r, t, time, _ = trainer.examples[:, order].long()
    assert ((torch.from_numpy(begin) <= time) & (time <= torch.from_numpy(end))).all()
    dated = torch.from_numpy((begin > 0) | (end < SHAPE.n_timestamps - 1))
    assert 0 < dated.sum() < 50

    def loss_of() -> Tensor:
        def across(n: int, *columns: Tensor) -> list[Tensor]:
            return [column[:, None].expand(-1, n) for column in columns]

        entities, times = torch.arange(SHAPE.n_entities).expand(50, -1), torch.arange(SHAPE.n_timestamps).expand(50, -1)
        hs, rs, ts = across(SHAPE.n_entities, h, r, time)
        loss = torch.nn.functional.cross_entropy(formula(model, hs, rs, entities, ts), t, reduction="sum")
        over_times = formula(model, *across(SHAPE.n_timestamps, h, r, t), times)
        each = torch.nn.functional.cross_entropy(over_times, time, reduction="none")
        return (loss + (each * dated).sum()) / 50

    truth, expected = autograd_of(model, loss_of)
    before = {name: table.detach().clone() for name, table in model.named_parameters()}
    trainer.step(order)
    assert trainer.totals[0, 0].item() / 50 == pytest.approx(float(truth), rel=1e-5)
    for table, was in before.items():
        change = was - model.table(table).detach()
        torch.testing.assert_close(change, expected[table], rtol=1e-3, atol=1e-6, msg=lambda m, t=table: f"{t}: {m}")


def test_an_epoch_s_times_depend_on_seed_and_epoch_alone() -> None:
    one, other = (Trainer(workload_of("TNTPairRE"), facts_of(), learning_rate=0.1, seed=3) for _ in range(2))
    one.shuffled(1)
    one.shuffled(5)
    other.shuffled(5)
    assert torch.equal(one.examples, other.examples)
    other.shuffled(6)
    assert not torch.equal(one.examples[3], other.examples[3])
    assert torch.equal(one.examples[[0, 1, 2, 4]], other.examples[[0, 1, 2, 4]])


@pytest.mark.parametrize(("model", "score"), [*TIMED, ("ComplEx", "dot"), ("PairRE", "dot")])
@pytest.mark.parametrize(
    ("scoring", "chunk"), [("materialized", None), ("chunked", 400), ("chunked", 60), ("fused", None), ("fused", 60)]
)
@pytest.mark.parametrize(
    ("optimizer", "precision", "parts"), mostly_slow([("adagrad", "fp32", 1), ("adam", "fp16", 5)])
)
def test_the_memory_of_training_and_evaluation_is_foretold(
    model: ModelName, score: Score, scoring: Scoring, chunk: int | None, optimizer: str, precision: str, parts: int
) -> None:
    """With all timestamps at once and in chunks, the last one ragged, and with a ragged micro-batch."""
    assert_exact(
        build_workload(
            Shape(n_entities=801, n_relations=11, n_timestamps=170, n_facts=300, intervals=True),
            model=model,
            rank=19,
            score=score,
            scoring=scoring,
            optimizer=optimizer,
            precision=precision,
            batch_size=203,
            micro_batch_size=-(-203 // parts),
            chunk_size=chunk,
            eval_chunk_size=chunk,
            threads=2,
            **settings_of(model),
        )
    )


def test_more_timestamps_than_entities_are_foretold_too() -> None:
    shape = Shape(n_entities=5, n_relations=2, n_timestamps=900, n_facts=50, intervals=True)
    for scoring in ("materialized", "chunked", "fused"):
        assert_exact(build_workload(shape, model="TNTPairRE", rank=3, scoring=scoring, batch_size=30, threads=2))


def test_the_dot_score_of_pairre_models_predicts_no_time() -> None:
    with pytest.raises(UsageError, match=r"score: TPairRE with dot is quadratic in the timestamp .* use l1 or l2"):
        build_workload(SHAPE, model="TPairRE", score="dot")
    assert build_workload(SHAPE, model="PairRE", score="dot").score == "dot"


@pytest.mark.parametrize("settings", mostly_slow([ADAM, ADAGRAD]), ids=["adam", "adagrad"])
@pytest.mark.parametrize("step", mostly_slow([6, 1, 15]))
def test_a_resumed_run_ends_like_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, settings: dict[str, Any], step: int
) -> None:
    graph = random_graph(SHAPE)
    plan = make_plan(graph, batch_size=20, micro_batch_size=8, emb_reg=0.01, time_reg=0.01, **settings)
    train(plan, graph, TrainSettings(**SETTINGS), tmp_path / "whole")
    reporter = StopAt(step)
    cut = train(plan, graph, TrainSettings(**SETTINGS), tmp_path / "cut", reporter, lambda: reporter.stop)
    assert cut.interrupted
    name, state = Checkpoints(tmp_path / "cut" / "checkpoint").newest(lambda _: None)
    resume(tmp_path / "cut", name, state, graph)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    check = json.loads((tmp_path / "whole" / "memory_check.json").read_text())
    assert [phase["relative_error"] for phase in check["phases"]] == [0] * len(check["phases"])
