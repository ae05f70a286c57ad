"""Measure the guide's configurations, built plainly, in chunks as its own code does, and fused, beside its figures.

All are predicted too, the chunks by memplan trace. The chunks are ways.py's: TNTPairRE as one would write it, 2,000
entities scored at a time, their graphs kept until the backward.

python benchmarks/guide_figures.py [--json FILE]: about a minute and 9 GiB of RAM on two cores; random facts at each
dataset's shape, one optimizer step and one batch of queries each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ways import Straightforward, in_chunks

from memplan.catalog.datasets import find_dataset
from memplan.catalog.guide import CLAIMS
from memplan.catalog.recipes import find_recipe
from memplan.device.target import resolve
from memplan.prediction.estimate import estimate
from memplan.trace.real import record_real
from memplan.trace.tracing import record
from memplan.workload import Workload, build_workload
from tkbc.verify import measure, random_facts


def in_chunks_bytes(workload: Workload) -> tuple[int, int]:
    """Return the requested bytes at the peak of steps that score as the guide's code does, traced and measured."""

    def make_step() -> Callable[[], None]:
        examples = torch.from_numpy(np.ascontiguousarray(random_facts(workload, workload.batch_size).T))
        model = Straightforward(workload, in_chunks)
        return lambda: model.step(examples)

    target = resolve("cpu", None)
    traced, measured = (how(make_step, {}, target).ledger.peak_bytes for how in (record, record_real))
    return traced, measured


def main() -> None:
    """Print a line for each configuration and scoring; write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    file = parser.parse_args().json
    rows, chunked = [], []
    print(f"{'configuration':<36}{'guide':>9}{'one tensor':>14}{'scoring':>14}{'predicted B':>16}{'measured B':>16}")
    for claim in {(c.dataset, c.rank, c.batch_size): c for c in CLAIMS}.values():
        shape = find_dataset(claim.dataset).shape
        for scoring in ("materialized", "fused"):
            settings = {**find_recipe(claim.dataset, "TNTPairRE", "guide").settings, "rank": claim.rank}
            workload = build_workload(
                shape, model="TNTPairRE", scoring=scoring, threads=torch.get_num_threads(), eval_batch_size=1,
                **{**settings, "batch_size": claim.batch_size},
            )  # fmt: skip
            predicted = estimate(workload).peak.requested_bytes
            measured = max(reading.requested_bytes for reading in measure(workload).values())
            tensor = 4 * claim.batch_size * shape.n_entities * claim.rank
            rows.append(
                {
                    "dataset": claim.dataset,
                    "rank": claim.rank,
                    "batch_size": claim.batch_size,
                    "guide_says": [c.says for c in CLAIMS if c[1:4] == claim[1:4]],
                    "one_tensor_bytes": tensor,
                    "scoring": scoring,
                    "predicted_bytes": predicted,
                    "measured_bytes": measured,
                }
            )
            what = f"{claim.dataset} rank {claim.rank} batch {claim.batch_size}"
            says = "/".join(rows[-1]["guide_says"])  # type: ignore[arg-type]
            print(f"{what:<36}{says:>9}{tensor:>14,}{scoring:>14}{predicted:>16,}{measured:>16,}", flush=True)
        traced, measured = in_chunks_bytes(workload)
        named = {"dataset": claim.dataset, "rank": claim.rank, "batch_size": claim.batch_size}
        chunked.append({**named, "predicted_bytes": traced, "measured_bytes": measured})
        print(f"{what:<36}{says:>9}{tensor:>14,}{'in chunks':>14}{traced:>16,}{measured:>16,}", flush=True)
    if file is not None:
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        file.write_text(
            json.dumps({"versions": versions, "rows": rows, "in_chunks": chunked}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
