"""What tests of models share with others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from memplan.workload import TRAITS, ModelName, Score, Shape, build_workload
from tests.support.models import in_float64
from tkbc.models import MODELS, Batch, Model
from tkbc.verify import random_facts

SHAPE = Shape(n_entities=31, n_relations=4, n_timestamps=9, n_facts=40)


MODEL_NAMES: tuple[ModelName, ...] = tuple(TRAITS)


TEMPORAL = [name for name in MODEL_NAMES if TRAITS[name].is_temporal]


SCORED = [(name, score) for name in MODEL_NAMES for score in TRAITS[name].scores]


def make_model(
    name: ModelName, rank: int = 5, seed: int = 0, score: Score | None = None, *, n3_parts: bool = False
) -> Model:
    """A float64 model with entries of order 1, so that errors cannot hide in small numbers."""
    model = MODELS[name](build_workload(SHAPE, model=name, rank=rank, score=score, n3_parts=n3_parts))
    generator = torch.Generator().manual_seed(seed)
    for parameter in in_float64(model).parameters():
        parameter.data.normal_(generator=generator)
    return model


def make_batch(b: int = 13, seed: int = 0) -> Batch:
    facts = torch.from_numpy(random_facts(SHAPE, b, seed)).T.contiguous()
    facts[1, ::2] += SHAPE.n_relations  # reciprocal relations too
    return Batch(*facts)


def as_complex(rows: Tensor) -> Tensor:
    half = rows.shape[-1] // 2
    return torch.complex(rows[..., :half], rows[..., half:])


def formula(model: Model, h: Tensor, r: Tensor, t: Tensor, time: Tensor) -> Tensor:
    """The score of each triple at its time, straight from the papers."""
    tables = dict(model.named_parameters())
    name = type(model).__name__
    if name.endswith("ComplEx"):
        z = {name: as_complex(table) for name, table in tables.items()}
        relation = {
            "ComplEx": lambda: z["relation"][r],
            "TComplEx": lambda: z["relation"][r] * z["time"][time],
            "TNTComplEx": lambda: z["relation"][r] * z["time"][time] + z["relation_static"][r],
        }[name]()
        return (z["entity"][h] * relation * z["entity"][t].conj()).sum(-1).real

    def side(which: str) -> Tensor:
        parts = []
        if name != "TPairRE":
            parts.append(tables[f"relation_{which}"][r])
        if name not in ("PairRE", "ContinuousPairRE"):
            parts.append(tables[f"relation_{which}_temporal"][r] * tables["time"][time])
        return sum(parts)  # type: ignore[return-value]

    left, right = tables["entity"][h] * side("head"), tables["entity"][t] * side("tail")
    if name == "ContinuousPairRE":
        alpha = 1 / (1 + torch.exp(-tables["relation_gate"][r]))
        frequency, phase = tables["wave"]
        gate = alpha * torch.cos(frequency * time[..., None] / (SHAPE.n_timestamps - 1) + phase) + 1 - alpha
        left, right = gate * left, gate * right
    match model.workload.score:
        case "l1":
            return -torch.linalg.vector_norm(left - right, ord=1, dim=-1)
        case "l2":
            return -torch.linalg.vector_norm(left - right, ord=2, dim=-1).square()
        case _:
            return (left * right).sum(-1)


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def autograd_of(model: Model, value: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    for parameter in parameters:
        parameter.requires_grad_()
    result = value()
    found = torch.autograd.grad(result, parameters, allow_unused=True)
    for parameter in parameters:
        parameter.requires_grad_(False)
    zeros = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))
    return result.detach(), dict(zip(names, zeros, strict=True))
