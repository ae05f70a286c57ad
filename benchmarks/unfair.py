"""What a term that only the target's score has does to MRR: why docs/results.md leaves some published figures out.

    python benchmarks/unfair.py RUN [--split test]

Ranks a split with the run's best checkpoint and with embeddings that have learned nothing, with so many
standard deviations of the query's own scores added to the target's score and to no rival's. Added to all alike
the same number changes no rank.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from memplan.catalog.folders import Split
from tkbc import load
from tkbc.data import Dataset
from tkbc.data.dataset import with_reciprocals
from tkbc.models import MODELS, Batch, Model
from tkbc.scoring import make_score

BIASES = (0.0, 0.5, 1.0, 2.0, 3.0)
QUERIES_AT_ONCE = 500


@torch.no_grad()
def mrr_by_bias(model: Model, data: Dataset, split: Split) -> list[float]:
    """Return the filtered MRR, the mean over tails and heads, with each of ``BIASES`` added to the target alone."""
    queries = with_reciprocals(data.queries(split), len(data.relations))
    workload = model.workload
    score = make_score(workload.score, workload.scoring, "cpu", workload.threads, workload.precision)
    sums = torch.zeros(len(BIASES), dtype=torch.float64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        ids = torch.from_numpy(np.ascontiguousarray(part.T))
        buffer = torch.empty((len(part), len(data.entities)))
        scores = score.forward(model.encode(Batch(*ids)).query, model.entity.detach(), buffer, grad=False)
        deviation = scores.std(1, keepdim=True)
        target = scores.gather(1, ids[2].long()[:, None])
        row, tail = data.filter_index.lookup(part)  # the target is among them: what is left are its rivals
        scores[torch.from_numpy(row), torch.from_numpy(tail)] = -torch.inf
        for i, bias in enumerate(BIASES):
            biased = target + bias * deviation
            ranks = 1 + (scores > biased).sum(1) + (scores == biased).sum(1) / 2
            sums[i] += (1 / ranks.double()).sum()
    return (sums / len(queries)).tolist()


def main() -> None:
    """Print a line for each bias."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=("valid", "test"))
    options = parser.parse_args()
    found = load(options.run)
    workload = found.model.workload
    nothing_learned = MODELS[workload.model](workload, torch.Generator().manual_seed(0))
    print(f"{workload.model} on {found.data.name}, {options.split}\nbias, std. deviations   trained   untrained")
    columns = (mrr_by_bias(model, found.data, options.split) for model in (found.model, nothing_learned))
    for bias, trained, untrained in zip(BIASES, *columns, strict=True):
        print(f"{bias:>23}{trained:>10.4f}{untrained:>12.4f}")


if __name__ == "__main__":
    main()
