"""docs/guide-figures.md says what the planner says, and what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from memplan.catalog.datasets import find_dataset
from memplan.catalog.guide import CLAIMS
from memplan.catalog.recipes import find_recipe
from memplan.prediction.estimate import estimate
from memplan.workload import build_workload

ROOT = Path(__file__).resolve().parents[1]


def test_every_row_of_the_page_is_the_planner_s_own_figure() -> None:
    text = (ROOT / "docs" / "guide-figures.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "rank " in line]
    assert len(rows) == len(CLAIMS)
    for claim, (_, configuration, says, tensor, code, plain, fused, _) in zip(CLAIMS, rows, strict=True):
        assert configuration == f"{claim.dataset}, rank {claim.rank}, batch {claim.batch_size}"
        assert says == claim.says
        shape = find_dataset(claim.dataset).shape
        assert int(tensor.replace(",", "")) == 4 * claim.batch_size * shape.n_entities * claim.rank
        assert int(code.replace(",", "")) == claim.code_bytes
        for scoring, figure in (("materialized", plain), ("fused", fused)):
            settings = {**find_recipe(claim.dataset, "TNTPairRE", "guide").settings, "rank": claim.rank}
            settings["batch_size"] = claim.batch_size
            workload = build_workload(
                shape, model="TNTPairRE", scoring=scoring, threads=2, eval_batch_size=1, **settings
            )
            assert int(figure.replace(",", "")) == estimate(workload).peak.requested_bytes


def test_what_was_measured_is_what_is_predicted() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "guide-figures-cpu.json").read_text(encoding="utf-8"))
    assert len(kept["rows"]) == 2 * len({claim[1:4] for claim in CLAIMS})
    assert all(row["predicted_bytes"] == row["measured_bytes"] for row in kept["rows"])
    in_chunks = {(row["dataset"], row["rank"], row["batch_size"]): row for row in kept["in_chunks"]}
    assert {claim[1:4]: claim.code_bytes for claim in CLAIMS} == {
        k: row["measured_bytes"] for k, row in in_chunks.items()
    }
    assert all(abs(row["predicted_bytes"] - row["measured_bytes"]) <= 8 for row in in_chunks.values())
