"""Use the planner as a library: what does ICEWS14 take, and what fits an eighth of a gigabyte?

python examples/plan_before_you_train.py
"""

from __future__ import annotations

from memplan.catalog import find_dataset
from memplan.devices import resolve
from memplan.estimator import estimate
from memplan.planner import plan
from memplan.units import format_bytes
from memplan.workload import build_workload


def main() -> None:
    """Print an estimate for each scoring, then a plan for a small budget."""
    shape = find_dataset("ICEWS14").shape
    for scoring in ("materialized", "chunked", "fused"):
        chunk = shape.n_entities if scoring == "materialized" else 512
        workload = build_workload(
            shape, model="TNTPairRE", rank=100, batch_size=1000, scoring=scoring, chunk_size=chunk
        )
        peak = estimate(workload).peak
        print(f"{scoring:<13} {format_bytes(peak.requested_bytes):>9}")
    chosen = plan(shape, resolve("cpu", "25MiB"), model="TNTPairRE", rank=100, batch_size=1000)
    print(f"25 MiB: {chosen.reason}; {format_bytes(chosen.peak.requested_bytes)}")


if __name__ == "__main__":
    main()
