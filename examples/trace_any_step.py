"""Plan training steps that memplan does not know: what do they take, and what batch fits a T4?

    memplan trace examples/trace_any_step.py:tntpairre --device T4 --fit batch_size=1..4096
    memplan trace examples/trace_any_step.py:language_model --size batch_size=16 --explain
    memplan trace examples/trace_any_step.py:pykeen_pairre --device cpu          # where PyKEEN is installed

Each function builds model, optimizer and inputs and returns one training step; none of it knows memplan.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Step = Callable[[], None]


class TNTPairRE(nn.Module):
    """TNTPairRE written straightforwardly: its score builds a (batch, entities, rank) tensor."""

    def __init__(self, n_entities: int, n_relations: int, n_timestamps: int, rank: int) -> None:
        super().__init__()
        self.entity = nn.Embedding(n_entities, rank)
        self.relations = nn.ModuleList([nn.Embedding(n_relations, rank) for _ in range(4)])
        self.time = nn.Embedding(n_timestamps, rank)

    def forward(self, h: Tensor, r: Tensor, tau: Tensor) -> Tensor:
        """Return the scores of all entities, (batch, entities)."""
        head, tail, head_at_time, tail_at_time = (table(r) for table in self.relations)
        a = self.entity(h) * (head + head_at_time * self.time(tau))
        w = tail + tail_at_time * self.time(tau)
        return -(a[:, None, :] - w[:, None, :] * self.entity.weight).abs().sum(-1)


def tntpairre(batch_size: int = 1000, rank: int = 100) -> Step:
    """The step of the memory guide, on ICEWS14's shape."""
    model = TNTPairRE(7128, 460, 365, rank)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    h, r, t, tau = (torch.randint(0, n, (batch_size,)) for n in (7128, 460, 7128, 365))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(h, r, tau), t).backward()
        optimizer.step()

    return step


class Block(nn.Module):
    """A layer of a GPT-2-like decoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x after attention and feed-forward, (batch, length, width)."""
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed_forward(self.norms[1](x))


def language_model(batch_size: int = 8, length: int = 512, width: int = 768, layers: int = 12) -> Step:
    """A GPT-2-like model of 124 million parameters, AdamW."""
    tokens, positions = nn.Embedding(50257, width), nn.Embedding(length, width)
    blocks = nn.Sequential(*[Block(width, width // 64) for _ in range(layers)], nn.LayerNorm(width))
    model = nn.ModuleDict({"tokens": tokens, "positions": positions, "blocks": blocks})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, 50257, (batch_size, length + 1))

    def step() -> None:
        optimizer.zero_grad()
        x = tokens(ids[:, :-1]) + positions.weight
        scores = blocks(x) @ tokens.weight.T
        cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()

    return step


class Residual(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + layers(x))."""
        return torch.relu(x + self.layers(x))


def image_classifier(batch_size: int = 64, size: int = 64) -> Step:
    """A ResNet-like network, SGD with momentum."""
    stages: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1)]
    for channels in (32, 64, 128):
        stages += [Residual(channels), nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)]
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(batch_size, 3, size, size), torch.randint(0, 10, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def pykeen_pairre(batch_size: int = 256, dim: int = 100) -> Step:
    """PyKEEN's PairRE in PyKEEN's own training loop, one batch a step (pip install pykeen)."""
    from pykeen.datasets import Nations
    from pykeen.models import PairRE
    from pykeen.training import SLCWATrainingLoop

    triples = Nations().training
    model = PairRE(triples_factory=triples, embedding_dim=dim)
    optimizer = torch.optim.Adam(model.get_grad_params())
    loop = SLCWATrainingLoop(model=model, triples_factory=triples, optimizer=optimizer)

    def step() -> None:
        loop.train(triples, num_epochs=1, batch_size=batch_size, use_tqdm=False)

    return step


make_step = tntpairre


if __name__ == "__main__":
    from memplan.trace import trace

    print(f"{trace(tntpairre).peak.requested_bytes:,} bytes at the peak of a step")
