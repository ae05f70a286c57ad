"""Steps with negatives: the estimate against its equation and the papers' scores, and that other rows stay."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memplan.errors import UsageError
from memplan.workload import SCORINGS, TRAITS, ModelName, Score, Scoring, Shape, Workload, build_workload
from tests.support.models import in_float64
from tests.support.models_cases import SCORED, autograd_of, formula
from tests.support.scoring import draw_inputs, reference
from tkbc.models import Batch
from tkbc.scoring import make_score
from tkbc.scoring.pairs import PairScore
from tkbc.step.sampled import sampled_softmax_cross_entropy
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

SHAPE = Shape(n_entities=31, n_relations=4, n_timestamps=9, n_facts=30)

pytestmark = pytest.mark.usefixtures("one_thread")


def estimated(scores: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
    """Each query's Z as the docstring has it, from the scores of all entities, (b, N), in plain loops."""
    n = scores.shape[1]
    sums = []
    for row, label in zip(scores, labels.tolist(), strict=True):
        others = [row[k].exp() for k in drawn.tolist() if k != label]
        sums.append(row[label].exp() + (n - 1) / len(others) * torch.stack(others).sum())
    return torch.stack(sums)


def distinct(n: int, k: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]


def places(labels: Tensor, drawn: Tensor) -> Tensor:
    """Where each label is among the drawn; beyond them where it is not."""
    at = {entity: place for place, entity in enumerate(drawn.tolist())}
    return torch.tensor([at.get(label, len(drawn) + i) for i, label in enumerate(labels.tolist())])


def check(score: Score, scoring: Scoring, b: int, n: int, k: int, chunk: int, seed: int, scale: float = 1.0) -> None:
    query, entities, _ = draw_inputs(score, b, n, 6, seed)
    query = tuple(scale * tensor for tensor in query)
    labels = torch.randint(0, n, (b,), generator=torch.Generator().manual_seed(seed))
    drawn = distinct(n, k, seed)
    grad_drawn = torch.ones(k, 6)
    loss, grad_query, grad_rows = sampled_softmax_cross_entropy(
        make_score(score, scoring, "cpu", 2),
        query,
        entities[drawn],
        PairScore(score, "fp32", query, entities[labels]),
        places(labels, drawn),
        grad_drawn,
        n_entities=n,
        chunk_size=chunk,
    )
    *leaves, table = (tensor.double().requires_grad_() for tensor in (*query, entities))
    scores = reference(score, tuple(leaves), table)
    top = scores.detach().amax(1)  # exp(s − top) does not overflow
    z = estimated(scores - top[:, None], labels, drawn)
    truth = (z.log() + top - scores[torch.arange(b), labels]).sum()
    *true_query, true_table = torch.autograd.grad(truth, (*leaves, table))
    assert loss.item() == pytest.approx(truth.item(), rel=2e-5, abs=2e-5)
    grad_table = torch.zeros(n, 6).index_add_(0, drawn, grad_drawn - 1).index_add_(0, labels, grad_rows)
    for found, expected in zip((*grad_query, grad_table), (*true_query, true_table), strict=True):
        largest = float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * largest + 3e-6)


@pytest.mark.parametrize("score", ["l1", "l2", "dot"])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_value_and_gradients_are_those_of_the_equation(score: Score, scoring: Scoring, chunk: int) -> None:
    """20 of 29 entities drawn, so that most labels are among them; chunks of one, a ragged last one, all at once."""
    check(score, scoring, 11, 29, 20, 20 if scoring == "materialized" else chunk, seed=chunk)


@settings(max_examples=40)
@given(b=st.integers(1, 15), n=st.integers(2, 60), data=st.data(), seed=st.integers(0, 99))
def test_any_number_drawn_and_any_chunk(b: int, n: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(2, n))
    check(data.draw(st.sampled_from(["dot", "l1"])), "fused", b, n, k, data.draw(st.integers(1, k)), seed)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    for chunk in (20, 7):
        check("l1", "fused", 9, 29, 20, chunk, seed=5, scale=100.0)
        check("dot", "fused", 9, 29, 20, chunk, seed=5, scale=100.0)


@pytest.mark.parametrize("k", [2, 3, 5, 6])
def test_over_all_draws_the_estimate_is_the_sum_over_all_entities(k: int) -> None:
    """Every set of k of 6 entities is as likely as any other: the mean of Z over them is Σ_n exp s_n."""
    query, entities, _ = draw_inputs("l1", 4, 6, 3, 0)
    labels = torch.tensor([0, 3, 3, 5])
    own = PairScore("l1", "fp32", query, entities[labels]).scores
    sums = []
    for chosen in itertools.combinations(range(6), k):
        drawn = torch.tensor(chosen)
        for i in range(4):
            one = tuple(tensor[i : i + 1] for tensor in query)
            loss, _, _ = sampled_softmax_cross_entropy(
                make_score("l1", "fused", "cpu"),
                one,
                entities[drawn],
                PairScore("l1", "fp32", one, entities[labels[i : i + 1]]),
                places(labels[i : i + 1], drawn),
                torch.zeros(k, 3),
                n_entities=6,
                chunk_size=k,
            )
            sums.append((loss + own[i]).double().exp())
    found = torch.stack(sums).view(-1, 4).mean(0)
    torch.testing.assert_close(found, reference("l1", query, entities).double().exp().sum(1), rtol=1e-5, atol=0)


def make_workload(model: ModelName = "TNTPairRE", **given: Any) -> Workload:
    traits = TRAITS[model]
    base: dict[str, Any] = {"rank": 5, "emb_reg": 0.02, "unit_norm": not traits.is_complex, "batch_size": 12}
    base["time_reg"] = 0.05 if traits.is_temporal else 0
    return build_workload(SHAPE, model=model, **{**base, **given})


def make_trainer(workload: Workload) -> Trainer:
    trainer = Trainer(workload, random_facts(SHAPE, SHAPE.n_facts), learning_rate=0.1, seed=3)
    for parameter in trainer.model.parameters():
        parameter.mul_(20)  # away from 0, where every score is alike
    return trainer


def tables_after(workload: Workload, n_steps: int = 3) -> dict[str, Tensor]:
    trainer = make_trainer(workload)
    order = trainer.shuffled(0)
    for step in range(n_steps):
        trainer.step(order[step * workload.batch_size : (step + 1) * workload.batch_size])
    return dict(trainer.model.named_parameters())


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    # Adagrad divides a gradient by its own size: where it is nearly 0 its rounding decides the update.
    for name, table in one.items():
        difference = (table - other[name]).abs()
        assert difference.max() < 0.02, name
        assert (difference > 1e-4).float().mean() < 0.01, name


@pytest.mark.parametrize(("model", "score"), SCORED)
def test_a_step_s_gradient_is_autograd_s_of_the_papers_score(model: ModelName, score: Score) -> None:
    """Through the code that trains, in float64, entities that come several times among them; N3 apart."""
    workload = make_workload(model, score=score, negatives=9, micro_batch_size=5, emb_reg=0, time_reg=0, batch_size=24)
    trainer = make_trainer(workload)
    generator = torch.Generator().manual_seed(0)
    for parameter in in_float64(trainer.model).parameters():
        parameter.normal_(std=0.7, generator=generator)
    order = trainer.shuffled(0)[:24]
    trainer._accumulate(order, lambda: None)
    used = trainer.model.used
    assert used is not None
    batch = Batch(*trainer.examples[:, order].long())
    drawn, entities = used.drawn_ids.clone(), torch.arange(SHAPE.n_entities)

    def loss() -> Tensor:
        columns = [ids[:, None] for ids in (batch.head, batch.relation, batch.time)]
        scores = formula(trainer.model, columns[0], columns[1], entities[None, :], columns[2])
        return (estimated(scores, batch.tail, drawn).log() - scores[torch.arange(24), batch.tail]).sum()

    value, truth = autograd_of(trainer.model, loss)
    assert float(trainer.totals[1, 0]) == pytest.approx(float(value))
    for name, gradient in trainer.model.gradients():
        if name == "entity":
            gradient = torch.zeros_like(truth[name]).index_add_(0, used.ids, gradient)
        torch.testing.assert_close(gradient, truth[name], rtol=1e-6, atol=1e-9)
    assert len(set(used.ids.tolist())) < len(used.ids), "some entity comes more than once"


@pytest.mark.parametrize("model", ["TNTPairRE", "TNTComplEx", "ContinuousPairRE"])
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_with_all_entities_drawn_a_step_is_the_full_softmax_s(model: ModelName, optimizer: str) -> None:
    """N3, smoothness and unit norm with it; 60 examples in batches of 24: the third step's is short."""
    settings = {"optimizer": optimizer, "batch_size": 24, "micro_batch_size": 10}
    sampled = tables_after(make_workload(model, negatives=SHAPE.n_entities, **settings))
    assert_close(tables_after(make_workload(model, **settings)), sampled)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("micro_batch", [1, 7])
def test_micro_batches_chunks_and_scoring_change_nothing(scoring: Scoring, micro_batch: int) -> None:
    chunk = None if scoring == "materialized" else 4
    part = make_workload(scoring=scoring, micro_batch_size=micro_batch, chunk_size=chunk, negatives=10)
    assert_close(tables_after(make_workload(negatives=10)), tables_after(part))


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_rows_that_no_step_used_keep_their_bits(optimizer: str) -> None:
    trainer = make_trainer(make_workload(optimizer=optimizer, batch_size=3, negatives=4))
    table = trainer.model.entity
    kept = [table, *(state for key, state in trainer.optimizer.state[table].items() if key == "sum")]
    order = trainer.shuffled(0)
    for step in range(3):
        before = [tensor.clone() for tensor in kept]
        trainer.step(order[3 * step : 3 * step + 3])
        used = trainer.model.used
        assert used is not None
        is_used = torch.zeros(SHAPE.n_entities, dtype=torch.bool).index_fill_(0, used.ids, True)
        assert 4 <= int(is_used.sum()) <= 10
        for old, new in zip(before, kept, strict=True):
            assert torch.equal((old != new).any(1), is_used)
    norms = torch.linalg.vector_norm(table[is_used], dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    workload = make_workload(negatives=10)
    one, other = make_trainer(workload), make_trainer(make_workload(negatives=10, micro_batch_size=5, batch_size=7))

    def drawn(trainer: Trainer, step: int) -> list[int]:
        ids = torch.zeros(10, dtype=torch.int64)
        trainer.steps = step
        trainer.draw(ids)
        return ids.tolist()

    draws = [drawn(one, step) for step in range(50)]
    assert draws[::-1] == [drawn(other, step) for step in reversed(range(50))]
    assert all(len(set(ids)) == 10 for ids in draws)
    assert set().union(*draws) == set(range(SHAPE.n_entities))
    other.seed += 1
    assert all(drawn(other, step) != ids for step, ids in enumerate(draws))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"negatives": 1}, "negatives: 1: input should be greater than or equal to 2"),
        ({"negatives": 32}, "negatives: 32 are more than the 31 entities to draw from; leave it out for the"),
        ({"negatives": 8, "optimizer": "adam"}, "use --optimizer adagrad or sgd, or leave the negatives out"),
        ({"negatives": 8, "shards": 2}, "negatives: 8: only one process trains with negatives, not 2"),
        ({"negatives": 8, "chunk_size": 9}, "chunk_size: 9 is larger than the 8 negatives"),
        ({"negatives": 8, "scoring": "materialized", "chunk_size": 4}, "scoring 'materialized' scores all"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_workload(**given)
    assert said in str(caught.value)


def test_training_scores_the_drawn_and_ranking_all() -> None:
    workload = make_workload(negatives=8)
    assert (workload.chunk_size, workload.eval_chunk_size) == (8, 31)
    assert make_workload(negatives=8, chunk_size=4).eval_chunk_size == 4
