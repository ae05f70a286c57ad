"""Encoders and regularizers against their published formulas, written independently with complex numbers or by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memplan.workload import TRAITS, ModelName, Score
from tests.support.models_cases import (
    MODEL_NAMES,
    SCORED,
    SHAPE,
    TEMPORAL,
    as_complex,
    autograd_of,
    formula,
    gradients,
    make_batch,
    make_model,
)
from tkbc.models import Batch, Model
from tkbc.scoring.reference import FORMULAS

PAIRRE = [name for name in MODEL_NAMES if not TRAITS[name].is_complex]


@pytest.mark.parametrize(("name", "score"), SCORED)
def test_the_triple_score_is_the_all_entity_score(name: ModelName, score: Score) -> None:
    model, batch = make_model(name, score=score), make_batch()
    with torch.no_grad():
        everything = FORMULAS[score](model.encode(batch).query, model.entity)
        for entity in range(SHAPE.n_entities):
            one = formula(model, batch.head, batch.relation, torch.full_like(batch.tail, entity), batch.time)
            torch.testing.assert_close(everything[:, entity], one, rtol=1e-10, atol=1e-10)


def n3_of(model: Model, batch: Batch) -> Tensor:
    """tkbc's factors, such as 2^(1/3)|lhs|, |r ∘ τ|, |s|, 2^(1/3)|rhs|; the guide's: e_h, the relation's sum, e_t.

    With ``n3_parts`` also of the PairRE family |r^H|, |r^T|, |r^{H,t} ∘ τ|, |r^{T,t} ∘ τ| in place of the sum.
    """
    tables = dict(model.named_parameters())
    h, r, t, time = batch
    if model.traits.is_complex:
        z = {name: as_complex(table) for name, table in tables.items()}
        name = type(model).__name__
        scale = 2 ** (1 / 3) if name == "TNTComplEx" else 1
        factors = [scale * z["entity"][h].abs(), scale * z["entity"][t].abs()]
        factors.append(z["relation"][r].abs() if name == "ComplEx" else (z["relation"][r] * z["time"][time]).abs())
        if name == "TNTComplEx":
            factors.append(z["relation_static"][r].abs())
    elif model.workload.n3_parts:
        factors = [tables["entity"][h].abs(), tables["entity"][t].abs()]
        for name, table in tables.items():
            if name.startswith("relation") and name != "relation_gate":
                at_time = tables["time"][time] if name.endswith("_temporal") else 1
                factors.append((table[r] * at_time).abs())
    else:
        vectors = (table for name, table in tables.items() if name.startswith("relation") and name != "relation_gate")
        relation = sum(table[r] for table in vectors)
        assert isinstance(relation, Tensor)
        factors = [tables["entity"][h].abs(), relation.abs(), tables["entity"][t].abs()]
    return sum((factor**3).sum() for factor in factors)  # type: ignore[return-value]


def smoothness_of(model: Model, rows: int) -> Tensor:
    time = model.table("time")[:rows]
    if model.traits.is_complex:
        return (as_complex(time[1:]) - as_complex(time[:-1])).abs().pow(3).sum() / (rows - 1)
    return (time[1:] - time[:-1]).pow(2).sum() / (rows - 1)


@pytest.mark.parametrize(("name", "score"), SCORED)
def test_the_written_gradients_are_autograd_s(name: ModelName, score: Score) -> None:
    """The encoder's gradients, written by hand, against autograd of the formulas above, in float64."""
    model, batch = make_model(name, score=score), make_batch()
    weights = torch.randn(len(batch.head), SHAPE.n_entities, dtype=torch.float64)
    labels = torch.arange(SHAPE.n_entities)

    def weighted_scores() -> Tensor:
        def column(ids: Tensor) -> Tensor:
            return ids[:, None].expand(-1, SHAPE.n_entities)

        scores = formula(
            model, column(batch.head), column(batch.relation), labels.expand(len(batch.head), -1), column(batch.time)
        )
        return (scores * weights).sum()

    _, expected = autograd_of(model, weighted_scores)
    with torch.no_grad():
        encoding = model.encode(batch)
        leaves = [t.clone().requires_grad_() for t in encoding.query]
        entities = model.entity.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = (FORMULAS[score](tuple(leaves), entities) * weights).sum()
        *grad_query, grad_entities = torch.autograd.grad(total, [*leaves, entities])
        model.encode_backward(batch, encoding, tuple(grad_query))
    found = gradients(model)
    found["entity"] += grad_entities
    for table, truth in expected.items():
        torch.testing.assert_close(found[table], truth, rtol=1e-9, atol=1e-9, msg=lambda m, t=table: f"{t}: {m}")


@pytest.mark.parametrize(
    ("name", "n3_parts"), [*((name, False) for name in MODEL_NAMES), *((name, True) for name in PAIRRE)]
)
def test_n3_is_the_published_sum_with_its_gradient(name: ModelName, n3_parts: bool) -> None:
    model, batch = make_model(name, n3_parts=n3_parts), make_batch()
    truth, expected = autograd_of(model, lambda: 0.3 * n3_of(model, batch))
    with torch.no_grad():
        value = model.regularize(batch, 0.3)
    torch.testing.assert_close(value, truth)
    for table, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[table])


@pytest.mark.parametrize("name", TEMPORAL)
@pytest.mark.parametrize("no_time_emb", [False, True])
def test_smoothness_is_the_published_sum_with_its_gradient(name: ModelName, no_time_emb: bool) -> None:
    model = make_model(name)
    rows = SHAPE.n_timestamps - no_time_emb
    truth, expected = autograd_of(model, lambda: 0.7 * smoothness_of(model, rows))
    with torch.no_grad():
        value = model.regularize_time(0.7, no_time_emb=no_time_emb)
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(gradients(model)["time"], expected["time"])
    if no_time_emb:
        assert not gradients(model)["time"][-1].any()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_regularizers_are_finite_at_zero(name: ModelName) -> None:
    """The original's square root gives NaN gradients at 0."""
    model, batch = make_model(name), make_batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model.regularize(batch, 1.0) == 0
        if model.traits.is_temporal:
            assert model.regularize_time(1.0, no_time_emb=False) == 0
    assert all(not gradient.any() for gradient in gradients(model).values())


def test_projection_gives_unit_rows_and_leaves_zero_rows() -> None:
    model = make_model("TNTPairRE")
    with torch.no_grad():
        model.entity[3] = 0
        model.project(*model.room_to_project())
    norms = model.entity.detach().norm(dim=1)
    assert norms[3] == 0
    torch.testing.assert_close(norms[norms > 0], torch.ones(SHAPE.n_entities - 1, dtype=torch.float64))
