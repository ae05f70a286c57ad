"""PairRE in PyKEEN on the fused L1 score: the same numbers, without the (batch, entities, dimension) tensors.

pip install pykeen && python examples/pykeen_pairre.py

``FusedPairRE`` takes the place of PyKEEN's ``PairREInteraction``: in ``ERModel(interaction=FusedPairRE)``, or as below
in a model that is there. Where one side of a triple runs over all entities, as in training against all (LCWA) and
in ranking, it calls ``tkbc.scoring.weighted_l1``; a few sampled negatives go PyKEEN's own way.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from pykeen.datasets import Nations
from pykeen.evaluation import RankBasedEvaluator
from pykeen.models import PairRE
from pykeen.nn.modules import PairREInteraction
from pykeen.training import LCWATrainingLoop
from pykeen.triples import CoreTriplesFactory
from torch import Tensor

from memplan.units import format_bytes
from tkbc.measure.meter import CpuMeter
from tkbc.scoring import weighted_l1


class FusedPairRE(PairREInteraction):
    """−‖h ∘ r_h − t ∘ r_t‖₁, fused where heads or tails are all entities."""

    def __init__(self, p: int = 1, power_norm: bool = False) -> None:
        if p != 1:
            raise ValueError(f"p={p}: the fused score is the L1 distance, p=1")
        super().__init__(p=p, power_norm=power_norm)

    def forward(self, h: Tensor, r: tuple[Tensor, Tensor], t: Tensor) -> Tensor:
        """Return the scores in the shape that the three broadcast to: PyKEEN's (b, 1, d) against (1, N, d)."""
        r_h, r_t = r
        if _is_a_query(h, r_h, r_t) and _is_all_entities(t):
            return weighted_l1((h * r_h)[:, 0], r_t[:, 0], t[0])
        if _is_a_query(t, r_h, r_t) and _is_all_entities(h):
            return weighted_l1((t * r_t)[:, 0], r_h[:, 0], h[0])
        return super().forward(h, r, t)


def _is_a_query(*tensors: Tensor) -> bool:
    return all(tensor.dim() == 3 and tensor.shape[1] == 1 for tensor in tensors)


def _is_all_entities(tensor: Tensor) -> bool:
    return tensor.dim() == 3 and tensor.shape[0] == 1


def train_on_nations(*, fused: bool) -> tuple[list[float], float]:
    """Return the loss of each epoch, and the test MRR, of five epochs on the small dataset that comes with PyKEEN."""
    torch.manual_seed(0)  # PyKEEN draws the order of the triples from here
    dataset = Nations()
    model = PairRE(triples_factory=dataset.training, embedding_dim=32, p=1, random_seed=0, loss="crossentropy")
    if fused:
        model.interaction = FusedPairRE()
    graph = dataset.training
    loop = LCWATrainingLoop(model=model, triples_factory=graph, optimizer="sgd", optimizer_kwargs={"lr": 0.5})
    losses = loop.train(triples_factory=graph, num_epochs=5, batch_size=128, use_tqdm=False, pin_memory=False)
    found = RankBasedEvaluator().evaluate(
        model,
        dataset.testing.mapped_triples,
        additional_filter_triples=[graph.mapped_triples],
        batch_size=128,
        use_tqdm=False,
    )
    return losses, found.get_metric("both.realistic.inverse_harmonic_mean_rank")


def measure_step(*, fused: bool) -> tuple[float, int]:
    """Return seconds and peak bytes of a step: 32 queries against 7,128 entities of 100 dimensions."""
    generator = np.random.default_rng(0)
    triples = torch.from_numpy(generator.integers(0, (7128, 230, 7128), (1000, 3)))
    graph = CoreTriplesFactory.create(triples, num_entities=7128, num_relations=230)
    model: Any = PairRE(triples_factory=graph, embedding_dim=100, p=1, random_seed=0)
    if fused:
        model.interaction = FusedPairRE()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        scores = model.score_t(triples[:32, :2])
        torch.nn.functional.cross_entropy(scores, triples[:32, 2]).backward()
        optimizer.step()

    step()  # compiles the kernels, fills the caches
    begin = time.perf_counter()
    step()
    seconds = time.perf_counter() - begin
    meter = CpuMeter()
    with meter.recording(), meter.phase("step"):
        step()
    return seconds, meter.peaks["step"].requested_bytes


def main() -> None:
    """Train both ways, compare, and measure a larger step both ways."""
    plain, fused = train_on_nations(fused=False), train_on_nations(fused=True)
    print(f"Nations, 5 epochs: loss {plain[0][-1]:.4f}, fused {fused[0][-1]:.4f}; MRR {plain[1]:.4f}, {fused[1]:.4f}")
    furthest = max(abs(one - other) for one, other in zip(plain[0], fused[0], strict=True))
    if furthest > 1e-4:
        raise SystemExit(f"the losses differ by up to {furthest}")
    (slow, much), (fast, little) = measure_step(fused=False), measure_step(fused=True)
    print(f"a step, batch 32, 7,128 entities, rank 100: {format_bytes(much)}, fused {format_bytes(little)}")
    print(
        f"memory {much / little:.0f} times less, time {slow / fast:.0f} times less on {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
