"""Draw what benchmarks/sass.py counted: instructions a term by kind, and the seconds that they bound.

python benchmarks/draw_sass.py benchmarks/results/sass.json docs/kernels.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "fp32": "#4477aa",
    "integer": "#66ccee",
    "memory": "#228833",
    "conversion": "#ccbb44",
    "shuffle": "#ee6677",
    "other": "#bbbbbb",
}
KERNEL_COLOURS = {"forward": "#4477aa", "backward to queries": "#66ccee", "backward to entities": "#228833"}


def draw_instructions(axes: Axes, kernel: str, rows: list[dict[str, Any]]) -> None:
    """One bar a GPU, stacked by kind; the line is what the formula takes."""
    of_kernel = [row for row in rows if row["kernel"] == kernel and row["precision"] == "fp32"]
    names = [row["gpu"] for row in of_kernel]
    below = [0.0] * len(names)
    for kind, colour in COLOURS.items():
        counts = [row["by_kind"][kind] for row in of_kernel]
        axes.bar(names, counts, bottom=below, color=colour, label=kind, width=0.6)
        below = [a + b for a, b in zip(below, counts, strict=True)]
    for x, (row, top) in enumerate(zip(of_kernel, below, strict=True)):
        axes.text(x, top + 0.1, f"{top:.1f}\n{row['registers']} reg.", ha="center", fontsize=7)
    axes.axhline(of_kernel[0]["floor"], color="black", linewidth=0.8, linestyle="--")
    axes.set_ylim(0, 8)
    axes.set_title(kernel, fontsize=9)
    axes.tick_params(labelsize=7)


def draw_bounds(axes: Axes, bounds: list[dict[str, Any]]) -> None:
    """Beside each other the score's bound, by kernel, and the products' of the ComplEx family."""
    ticks = []
    for place, row in enumerate(bounds):
        left = 0.0
        for kernel, seconds in row["seconds"].items():
            axes.barh(place - 0.2, 1e3 * seconds, left=left, height=0.35, color=KERNEL_COLOURS[kernel])
            left += 1e3 * seconds
        axes.barh(place + 0.2, 1e3 * row["products_seconds"], height=0.35, color="#bbbbbb")
        axes.text(left, place - 0.2, f" {left:.2f} ms", va="center", fontsize=7)
        axes.text(
            1e3 * row["products_seconds"],
            place + 0.2,
            f" {1e3 * row['products_seconds']:.2f} ms",
            va="center",
            fontsize=7,
        )
        ticks.append(f"{row['gpu']}, d = {row['shape'][2]}")
    axes.set_yticks(range(len(ticks)), ticks, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("least milliseconds of forward and backward, 1000 queries × 7,128 entities", fontsize=8)
    handles = [axes.barh(0, 0, color=colour) for colour in (*KERNEL_COLOURS.values(), "#bbbbbb")]
    names = [*KERNEL_COLOURS, "the ComplEx family's three products of rank d"]
    axes.legend(handles, names, fontsize=7, frameon=False, loc="lower right")


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    found = json.loads(options.results.read_text(encoding="utf-8"))
    mpl.rcParams["svg.hashsalt"] = "kernels"  # the same figure from the same numbers
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.2])
    panels = top.subplots(1, 3, sharey=True)
    for axes, kernel in zip(panels, KERNEL_COLOURS, strict=True):
        draw_instructions(axes, kernel, found["rows"])
    panels[0].set_ylabel("instructions a term, fp32", fontsize=8)
    panels[0].legend(frameon=False, fontsize=7, loc="upper left")
    draw_bounds(bottom.subplots(), found["bounds"])
    about = found["about"]
    figure.suptitle(
        f"Instructions counted, no time measured (triton {about['triton']}); dashed: what the formula takes",
        fontsize=9,
    )
    figure.savefig(options.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
