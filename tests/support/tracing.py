"""Training steps for the tests of memplan.trace: models of torch's own, small, with sizes that divide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[], Any]


def step_of(model: nn.Module, loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, *, bf16: bool) -> Step:
    """zero_grad, forward, backward, step."""

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def mlp(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = nn.Sequential(nn.Linear(37, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 11))
    x, labels = torch.randn(batch, 37), torch.zeros(batch, dtype=torch.long)
    return model, lambda: nn.functional.cross_entropy(model(x), labels)


def transformer(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
    source, target = torch.randn(batch, 13, 32), torch.randn(batch, 9, 32)
    return model, lambda: model(source, target).pow(2).mean()


def gru(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    model = nn.GRU(17, 24, 2, batch_first=True)
    x = torch.randn(batch, 7, 17)
    return model, lambda: model(x)[0].pow(2).mean()


def residual(batch: int) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A gradient that two consumers add to; look-ups; dropout."""
    table = nn.Embedding(301, 48)
    layers = nn.ModuleList([nn.Linear(48, 48) for _ in range(3)])
    model = nn.ModuleDict({"table": table, "layers": layers})
    ids = torch.randint(0, 301, (batch,))

    def loss() -> Tensor:
        x = table(ids)
        for layer in layers:
            x = x + nn.functional.dropout(torch.relu(layer(x)), 0.1)
        return x.index_select(0, ids % batch).pow(2).mean()

    return model, loss


MODELS = {"mlp": mlp, "transformer": transformer, "gru": gru, "residual": residual}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(p, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p),
}


def make_step(model: str, optimizer: str, *, bf16: bool = False, batch: int = 203) -> Step:
    """Build one of the steps."""
    built, loss = MODELS[model](batch)
    return step_of(built, loss, OPTIMIZERS[optimizer](built.parameters()), bf16=bf16)
