"""Draw docs/memory.svg: what a step of TNTPairRE takes in plain PyTorch and fused, beside what a T4 has to give.

Every bar is the planner's number (``memplan estimate --device T4``), which the tests hold to PyTorch's allocator's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from memplan import estimate

TARGET = Path(__file__).resolve().parents[1] / "docs" / "memory.svg"
GIB = 2**30
SIZES = ((64, 256), (100, 1000), (280, 1000), (2000, 1000))
"""The guide's recommendation, its problem, this project's recipe, and a rank where the literature's best stand."""


def main() -> None:
    """Draw it."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "memory"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    budget = 0
    for at, (rank, batch) in enumerate(SIZES):
        for scoring, offset, color in (("materialized", -0.2, "#c44e52"), ("fused", 0.2, "#4c72b0")):
            settings: dict[str, Any] = {"rank": rank, "batch_size": batch, "scoring": scoring}
            found = estimate("ICEWS14", model="TNTPairRE", recipe="plain", device="T4", **settings)
            budget = found.budget_bytes or budget
            gib = found.peak.device_bytes / GIB
            label = {"materialized": "plain PyTorch: builds (batch, entities, rank) tensors", "fused": "fused kernels"}
            axes.barh(at + offset, gib, 0.36, color=color, label=label[scoring] if at == 0 else None)
            axes.text(gib * 1.05, at + offset, f"{gib:.2f} GiB", va="center", fontsize=9, backgroundcolor="white")
    axes.axvline(budget / GIB, color="black", linestyle="--", linewidth=1)
    axes.text(budget / GIB * 1.03, -0.72, "what a T4 has to give", fontsize=9)
    axes.set(xscale="log", xlim=(0.25, 700), ylim=(len(SIZES) - 0.4, -1), xlabel="GiB on the device, context included")
    axes.set_yticks(range(len(SIZES)), [f"rank {rank:,}, batch {batch:,}" for rank, batch in SIZES])
    axes.set_xticks([0.5, 1, 2, 4, 8, 16, 64, 256], ["0.5", "1", "2", "4", "8", "16", "64", "256"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
