"""What each part of the evidence is worth: a split ranked with none of it, with some, with all.

    python benchmarks/rules.py RUN [--split valid] [--json FILE]

Each row has weights of its own, fitted to the validation split. Prints MRR and Hits@10, the mean over tails and heads,
and how long mining the rules, fitting and ranking took.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memplan.files import write_text
from memplan.plan import Plan
from tkbc import load
from tkbc.data.ids import Ids
from tkbc.ranking.evaluation import count_rivals
from tkbc.ranking.fitting import fit
from tkbc.ranking.rules import N_FEATURES, N_GAPS, Evidence, Rules
from tkbc.ranking.weights import FittedRules
from tkbc.runs.state import present_versions
from tkbc.scoring import make_score
from tkbc.step.threads import score_threads

CONFIDENCES, SAME, TOTAL, KNOWN = (
    range(N_GAPS),
    range(N_GAPS, 2 * N_GAPS),
    [2 * N_GAPS],
    [2 * N_GAPS + 1],
)
ROWS: dict[str, Sequence[int]] = {
    "that there is a fact within a month": [*KNOWN],
    "facts of the same relation, by gap": [*SAME],
    "confidences of the same time alone": [CONFIDENCES[0]],
    "confidences, by gap": [*CONFIDENCES],
    "confidences and facts of the same relation, by gap": [*CONFIDENCES, *SAME],
    "all": [*range(N_FEATURES)],
}


@dataclass(frozen=True)
class Part(Rules):
    """Rules of whose evidence only some columns are kept; the others are 0."""

    columns: tuple[int, ...] = ()

    def pieces(self, queries: Ids) -> Iterator[Evidence]:
        """Yield the evidence with the other columns at 0."""
        kept = np.zeros(N_FEATURES)
        kept[list(self.columns)] = 1.0
        return (Evidence(row, tail, features * kept) for row, tail, features in super().pieces(queries))


def main() -> None:
    """Print a line for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=("valid", "test"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trained = load(options.run)
    model, data = trained.model, trained.data
    workload = model.workload.model_copy(update={"rules": True})
    score = make_score(workload.score, workload.scoring, "cpu", workload.threads, workload.precision)
    facts, known = data.queries(options.split), data.filter_index
    rows, seconds = {}, {}
    with score_threads(workload):
        began = time.perf_counter()
        mined = Rules.of(data)
        seconds["mining"] = time.perf_counter() - began
        for name, columns in {"the embeddings alone": (), **ROWS}.items():
            rules = Part(**vars(mined), columns=tuple(columns))
            began = time.perf_counter()
            fitted = FittedRules(rules, fit(model, score, rules, data.queries("valid"), known, workload))
            seconds["fitting"] = time.perf_counter() - began
            began = time.perf_counter()
            found = count_rivals(model, score, facts, known, workload, fitted=fitted).evaluation()
            seconds["ranking"] = time.perf_counter() - began
            rows[name] = {"mrr": found.both.mrr, "hits_at_1": found.both.hits_at_1, "hits_at_10": found.both.hits_at_10,
                          "loss": fitted.weights.loss, "scale": fitted.weights.scale}  # fmt: skip
            print(f"{name:52}MRR {found.both.mrr:.4f}  Hits@10 {found.both.hits_at_10:.4f}", flush=True)
    print(*(f"{what} {value:.1f} s" for what, value in seconds.items()), f"{len(mined.codes):,} rules", sep="  ")
    if options.json is not None:
        plan = Plan.read(options.run / "plan.json")
        about = {"model": plan.workload.model, "rank": plan.rank, "dataset": data.name, "split": options.split}
        result = {
            **about,
            "rows": rows,
            "n_rules": len(mined.codes),
            "seconds": seconds,
            "versions": present_versions(),
        }
        write_text(options.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
