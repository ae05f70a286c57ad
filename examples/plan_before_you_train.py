"""Use the planner as a library: what does ICEWS14 take, and what fits an eighth of a gigabyte?

python examples/plan_before_you_train.py
"""

from __future__ import annotations

from memplan import Shape, estimate, plan
from memplan.units import format_bytes


def main() -> None:
    """Print an estimate for each scoring, a plan for a small budget, and one for a graph that is not there yet."""
    for scoring in ("materialized", "chunked", "fused"):
        chunk = None if scoring == "materialized" else 512
        found = estimate("ICEWS14", model="TNTPairRE", rank=100, scoring=scoring, chunk_size=chunk, device="cpu")
        largest = found.tensors_at_peak[0]
        print(f"{scoring:<13} {format_bytes(found.peak.requested_bytes):>9}, the largest tensor: {largest.name}")
    chosen = plan("ICEWS14", model="TNTPairRE", rank=100, device="cpu", budget="25MiB")
    print(f"25 MiB: {chosen.reason}; {format_bytes(chosen.peak.requested_bytes)}")
    wikidata = Shape(n_entities=432_715, n_relations=407, n_timestamps=1726, n_facts=7_224_361)
    chosen = plan(wikidata, model="TNTComplEx", rank="max", epoch_seconds=3600, device="T4")
    print(f"a graph of {wikidata.n_entities:,} entities on a T4: {chosen.reason}")


if __name__ == "__main__":
    main()
