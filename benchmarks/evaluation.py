"""Filtered ranking of ICEWS14's test split against the original's way: plain scores, then a loop over queries.

    python benchmarks/evaluation.py --data-dir data              # TNTPairRE, rank 100, 17,926 queries, after one epoch
    taskset -c 0 python benchmarks/evaluation.py --data-dir data --facts 1500 --repeats 5    # a short run on one core

The original takes a batch of queries, scores all entities in plain PyTorch (TNTPairRE's code in chunks of 2,000
entities, TNTComplEx's as one product of matrices), looks each query's known answers up in a dict, sets their scores to
−1e6 and compares with the target's score from a computation of its own. Its filter is built before the clock starts,
and so is ours. Four ratios to our ranking with TNTPairRE:

    original                 the guide's plain L1 and the loop: nearly all of it is the kernel's merit
    loop over our scores     what the filtering alone is worth
    original TNTComplEx      the original's own model in the original's way
    times                    what the average precision of times adds to our ranking

Beside seconds by the clock stand those of the processor, all threads together, which other work on the machine hardly
changes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from memplan.catalog.folders import SPLITS
from memplan.device.present import usable_threads
from memplan.prediction.estimate import estimate
from memplan.workload import Workload, build_workload
from tkbc.data import Dataset, load_dataset
from tkbc.data.dataset import with_reciprocals
from tkbc.data.ids import Ids
from tkbc.measure.meter import CpuMeter
from tkbc.models import Batch
from tkbc.ranking.evaluation import count_rivals
from tkbc.ranking.times import time_precisions
from tkbc.step.trainer import Trainer

T = TypeVar("T")
Answers = dict[tuple[int, int, int], list[int]]

FILTERED = -1e6
ENTITIES_AT_ONCE = 2000
QUERIES_AT_ONCE = 500


class Seconds(NamedTuple):
    """How long something took, by the clock and of the processor."""

    clock: float
    processor: float

    def per(self, other: Seconds) -> dict[str, float]:
        """Return the seconds by the clock, and both in units of ``other``'s."""
        return {
            "seconds": round(self.clock, 2),
            "ratio": round(self.clock / other.clock, 2),
            "processor_ratio": round(self.processor / other.processor, 2),
        }


def timed(work: Callable[[], T]) -> tuple[Seconds, T]:
    """Return how long ``work`` takes, and what it returns."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return Seconds(time.perf_counter() - clock, time.process_time() - processor), found


def plain_scores(query: tuple[Tensor, ...], entity: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of all entities, (b, N), and of the tails by themselves, (b, 1), in plain PyTorch.

    −Σ_k |a_k − w_k e_k|, a chunk of entities at a time; of a query of one tensor its product with the entities.
    """
    if len(query) == 1:
        (q,) = query
        return q @ entity.T, (q * entity[tails]).sum(-1, keepdim=True)
    a, w = query
    parts = [-(a[:, None] - w[:, None] * chunk).abs().sum(-1) for chunk in entity.split(ENTITIES_AT_ONCE)]
    return torch.cat(parts, 1), -(a - w * entity[tails]).abs().sum(-1, keepdim=True)


def known_answers(graph: Dataset) -> Answers:
    """Return the tails that are true for each (head, relation, time), as the original keeps them."""
    found = defaultdict(list)
    for split in SPLITS:
        for h, r, t, tau in with_reciprocals(graph.split(split), len(graph.relations)).tolist():
            found[h, r, tau].append(t)
    return found


@torch.no_grad()
def looped_ranks(trainer: Trainer, queries: Ids, answers: Answers, *, fused: bool) -> np.ndarray:
    """Return each query's rank, ties counted against the target, by the original's loop."""
    entity = trainer.model.entity.detach()
    ranks = torch.ones(len(queries))
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        ids = torch.from_numpy(np.ascontiguousarray(part.T))
        query, tails = trainer.model.encode(Batch(*ids)).query, ids[2].long()
        if fused:
            buffer = torch.empty((len(part), len(entity)))
            scores = trainer.score.forward(query, entity, buffer, grad=False)
            targets = scores.gather(1, tails[:, None])
        else:
            scores, targets = plain_scores(query, entity, tails)
        for i, (h, r, t, tau) in enumerate(part.tolist()):
            scores[i, torch.LongTensor([*answers[h, r, tau], t])] = FILTERED
        ranks[start : start + len(part)] += (scores >= targets).float().sum(1)
    return ranks.numpy()


def planned_and_measured(trainer: Trainer, graph: Dataset, workload: Workload) -> tuple[int, int]:
    """Return the bytes of the evaluation as planned and as PyTorch's allocator was asked for them."""
    planned = next(phase.peak_bytes for phase in estimate(workload).phases if phase.name == "evaluation")
    meter = CpuMeter()
    few = graph.test[: workload.eval_batch_size]
    with meter.recording(trainer.persistent_tensors()), meter.phase("evaluation"):
        count_rivals(trainer.model, trainer.score, few, graph.filter_index, workload)
    return planned, meter.peaks["evaluation"].requested_bytes


def trained(graph: Dataset, model: str, rank: int) -> Trainer:
    """Return a model after one epoch."""
    settings = {"emb_reg": 1e-3, "time_reg": 1e-2, "eval_batch_size": 1024}
    if model == "TNTPairRE":
        settings["unit_norm"] = True
    workload = build_workload(
        graph.shape, model=model, rank=rank, batch_size=1000, threads=usable_threads(), **settings
    )
    trainer = Trainer(workload, graph.train, learning_rate=0.1)
    for part in trainer.shuffled(1).split(workload.batch_size):
        trainer.step(part)
    return trainer


def main() -> None:
    """Train an epoch of each model, rank in every way, print and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--facts", type=int, default=None, help="of the test split, the first; all where left out")
    parser.add_argument("--repeats", type=int, default=3, help="of our evaluation; the others run once")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    graph = load_dataset("ICEWS14", options.data_dir)
    facts = graph.test[: options.facts]
    queries = with_reciprocals(facts, len(graph.relations))
    trainer, original = (trained(graph, model, options.rank) for model in ("TNTPairRE", "TNTComplEx"))
    answers, index = known_answers(graph), graph.filter_index

    def rank_with(trainer: Trainer) -> np.ndarray:
        higher, ties = count_rivals(trainer.model, trainer.score, facts, index, trainer.workload)
        return 1 + higher + ties

    runs = sorted((timed(lambda: rank_with(trainer)) for _ in range(options.repeats)), key=lambda run: run[0])
    ours, ranks = runs[len(runs) // 2]
    found = {
        "queries": len(ranks), "rank": options.rank, "threads": usable_threads(), "seconds": round(ours.clock, 2)
    }  # fmt: skip
    ways = {
        "original": (trainer, False, ranks),
        "loop over our scores": (trainer, True, ranks),
        "original TNTComplEx": (original, False, rank_with(original)),
    }
    for name, (one, fused, expected) in ways.items():
        took, looped = timed(lambda one=one, fused=fused: looped_ranks(one, queries, answers, fused=fused))
        found[name] = took.per(ours) | {
            "equal_ranks": int((looped == expected).sum()),
            "largest_difference": int(np.abs(looped - expected).max()),
            "mrr_difference": float(abs((1 / looped).mean() - (1 / expected).mean())),
        }
    took, _ = timed(lambda: time_precisions(trainer.model, trainer.score, graph, facts))
    found["times"] = took.per(ours)
    planned, measured = planned_and_measured(trainer, graph, trainer.workload)
    found |= {"planned_bytes": planned, "measured_bytes": measured}
    text = json.dumps(found, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
