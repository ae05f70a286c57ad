"""Draw what benchmarks/scoring.py found: growth with entities and dimensions, and whole steps in every way.

python benchmarks/draw.py benchmarks/results/scoring-cpu.json docs/scoring.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"fused L1": "#ee6677", "two matrix products": "#4477aa", "two matrix products, in place": "#66ccee"}
ICEWS14 = 7128
"""Entities at which the dimensions grow."""


def draw_growth(axes: Axes, rows: list[dict[str, Any]], along: str, title: str) -> None:
    """One curve a contestant, both axes logarithmic."""
    for name, colour in COLOURS.items():
        points = sorted((row[along], row["median_seconds"]) for row in rows if row["name"] == name)
        axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name)
    axes.set_xlabel(title)
    axes.set_ylabel("seconds, forward and backward")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False, fontsize=8)


def draw_steps(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Bars of seconds, the fastest on top."""
    ordered = sorted(rows, key=lambda row: -float(row["median_seconds"]))
    seconds = [row["median_seconds"] for row in ordered]
    colours = ["#ee6677" if "fused" in row["name"] and "PairRE" in row["name"] else "#bbbbbb" for row in ordered]
    bars = axes.barh([row["name"] for row in ordered], seconds, color=colours)
    axes.bar_label(bars, [f"{1e3 * value:,.0f} ms" for value in seconds], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=20 * max(seconds))
    axes.set_xlabel("seconds a training step, rank 100, batch 1000, 7,128 entities")
    axes.tick_params(axis="y", labelsize=8)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    found = json.loads(options.results.read_text(encoding="utf-8"))
    rows = found["rows"]
    growth = [row for row in rows if row["part"] == "growth"]
    figure = Figure(figsize=(12, 7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.1])
    draw_steps(top.subplots(), [row for row in rows if row["part"] == "step"])
    left, right = bottom.subplots(1, 2)
    with_entities = [row for row in growth if row["rank"] == 64 and row["entities"] != ICEWS14]
    draw_growth(left, with_entities, "entities", "entities (d = 64, batch 256)")
    with_rank = [row for row in growth if row["entities"] == ICEWS14]
    draw_growth(right, with_rank, "rank", f"dimensions ({ICEWS14:,} entities, batch 256)")
    about = found["about"]
    figure.suptitle(f"{about['threads']} CPU threads, torch {about['torch']}; medians of one run", fontsize=9)
    figure.savefig(options.figure)


if __name__ == "__main__":
    main()
