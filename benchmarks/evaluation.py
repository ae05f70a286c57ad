"""The full filtered test evaluation of ICEWS14 against the original's way: plain scores, then a loop over queries.

    python benchmarks/evaluation.py --data-dir data            # TNTPairRE, rank 100, 17,926 queries, after one epoch

The original takes a batch of queries, scores all entities in plain PyTorch (TNTPairRE's code in chunks of 2,000
entities), looks each query's known answers up in a dict, sets their scores to −1e6 and compares with the target's
score from a computation of its own. Its filter is built before the clock starts, and so is ours. A second comparison
gives the loop our fused scores: what the filtering alone is worth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memplan.catalog.folders import SPLITS
from memplan.device.present import usable_threads
from memplan.prediction.estimate import estimate
from memplan.workload import Workload, build_workload
from tkbc.data import Dataset, load_dataset
from tkbc.data.dataset import with_reciprocals
from tkbc.measure.meter import CpuMeter
from tkbc.models import Batch
from tkbc.ranking.evaluation import count_rivals
from tkbc.step.trainer import Trainer

Answers = dict[tuple[int, int, int], list[int]]

FILTERED = -1e6
ENTITIES_AT_ONCE = 2000
QUERIES_AT_ONCE = 500


def plain_scores(query: tuple[Tensor, ...], entity: Tensor) -> Tensor:
    """Return −Σ_k |a_k − w_k e_k| in plain PyTorch, a chunk of entities at a time: (b, N)."""
    a, w = query
    parts = [-(a[:, None] - w[:, None] * chunk).abs().sum(-1) for chunk in entity.split(ENTITIES_AT_ONCE)]
    return torch.cat(parts, 1)


def known_answers(graph: Dataset) -> Answers:
    """Return the tails that are true for each (head, relation, time), as the original keeps them."""
    found = defaultdict(list)
    for split in SPLITS:
        for h, r, t, tau in with_reciprocals(graph.split(split), len(graph.relations)).tolist():
            found[h, r, tau].append(t)
    return found


@torch.no_grad()
def looped_ranks(
    trainer: Trainer, graph: Dataset, answers: dict[tuple[int, int, int], list[int]], *, fused: bool
) -> np.ndarray:
    """Return each query's rank, ties counted against the target, by the original's loop."""
    queries = with_reciprocals(graph.test, len(graph.relations))
    entity = trainer.model.entity.detach()
    ranks = torch.ones(len(queries))
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        ids = torch.from_numpy(np.ascontiguousarray(part.T))
        query = trainer.model.encode(Batch(*ids)).query
        if fused:
            buffer = torch.empty((len(part), len(entity)))
            scores = trainer.score.forward(query, entity, buffer, grad=False)
            targets = scores.gather(1, ids[2].long()[:, None])
        else:
            scores = plain_scores(query, entity)
            a, w = query
            targets = -(a - w * entity[ids[2].long()]).abs().sum(-1, keepdim=True)
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


def main() -> None:
    """Train an epoch, rank three ways, print and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="of our evaluation; the others run once")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    graph = load_dataset("ICEWS14", options.data_dir)
    settings = {"emb_reg": 1e-3, "time_reg": 1e-2, "unit_norm": True, "eval_batch_size": 1024}
    workload = build_workload(
        graph.shape, model="TNTPairRE", rank=options.rank, batch_size=1000, threads=usable_threads(), **settings
    )
    trainer = Trainer(workload, graph.train, learning_rate=0.1)
    for part in trainer.shuffled(1).split(workload.batch_size):
        trainer.step(part)
    answers, index = known_answers(graph), graph.filter_index
    seconds = []
    for _ in range(options.repeats):
        begin = time.perf_counter()
        higher, ties = count_rivals(trainer.model, trainer.score, graph.test, index, workload)
        seconds.append(time.perf_counter() - begin)
    ours = sorted(seconds)[len(seconds) // 2]
    ranks = 1 + higher + ties
    found = {"queries": len(ranks), "rank": options.rank, "threads": usable_threads(), "seconds": round(ours, 2)}
    for name, fused in (("original", False), ("loop over our scores", True)):
        begin = time.perf_counter()
        looped = looped_ranks(trainer, graph, answers, fused=fused)
        took = time.perf_counter() - begin
        found[name] = {
            "seconds": round(took, 2),
            "ratio": round(took / ours, 1),
            "equal_ranks": int((looped == ranks).sum()),
            "largest_difference": int(np.abs(looped - ranks).max()),
            "mrr_difference": float(abs((1 / looped).mean() - (1 / ranks).mean())),
        }
    planned, measured = planned_and_measured(trainer, graph, workload)
    found |= {"planned_bytes": planned, "measured_bytes": measured}
    text = json.dumps(found, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
