"""The picture of memory over one step: live bytes by kind, the budget as a line, what was measured over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memplan.errors import MemplanError, UsageError
from memplan.memory.curve import aligned, curve, segments
from memplan.memory.ledger import KINDS, Kind, Ledger
from memplan.memory.programs.step import one_step
from memplan.units import format_bytes
from memplan.workload import Workload

COLOURS: dict[Kind, str] = {
    "parameters": "#4477aa",
    "optimizer": "#66ccee",
    "gradients": "#228833",
    "data": "#bbbbbb",
    "scores": "#ee6677",
    "temporaries": "#ccbb44",
}
"""Paul Tol's bright scheme, distinct to colour-blind eyes."""
FORMATS = (".png", ".svg", ".pdf")


def plot_step(
    workload: Workload,
    path: Path,
    *,
    budget_bytes: int | None = None,
    measured: Sequence[tuple[str, int]] | None = None,
) -> None:
    """Draw memory over one step to ``path`` (PNG, SVG or PDF by its ending).

    ``measured``: phase and live bytes after each event of a run's first step, as its folder keeps them.

    Raises:
        As ``plot_ledger`` does.
    """
    ledger = one_step(workload)
    title = (
        f"{workload.model} ({workload.score}, {workload.scoring}) on {workload.dataset or 'your graph'}: rank "
        f"{workload.rank}, batch {workload.batch_size}, peak {format_bytes(ledger.peak_bytes)}"
    )
    plot_ledger(ledger, title, path, budget_bytes=budget_bytes, measured=measured)


def plot_ledger(
    ledger: Ledger,
    title: str,
    path: Path,
    *,
    budget_bytes: int | None = None,
    measured: Sequence[tuple[str, int]] | None = None,
) -> None:
    """Draw memory over a ledger of setup and one step; see ``plot_step``.

    Raises:
        UsageError: another ending.
        MemplanError: matplotlib is not installed, or the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: a picture ends in {', '.join(FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MemplanError("--plot needs matplotlib: pip install 'memplan-tkbc[plot]'") from None
    points = curve(ledger)
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.add_subplot()
    mib = 2**20
    where = range(len(points))
    axes.stackplot(
        where,
        [[point.bytes_of[kind] / mib for point in points] for kind in KINDS],
        labels=KINDS,
        colors=[COLOURS[kind] for kind in KINDS],
        step="post",
    )
    highest = max(point.total for point in points)
    if measured:
        xs, ys = aligned(points, measured)
        axes.step(xs, [y / mib for y in ys], where="post", color="black", linewidth=1, linestyle="--", label="measured")
        highest = max(highest, *ys)
    if budget_bytes is not None and budget_bytes < 3 * highest:
        axes.axhline(budget_bytes / mib, color="#aa3377", linewidth=1.5, label=f"budget {format_bytes(budget_bytes)}")
        highest = max(highest, budget_bytes)
    for phase, start, stop in segments([point.phase for point in points]):
        axes.axvline(start, color="white", linewidth=0.6)
        if stop - start < len(points) / 50:
            continue  # its name would lie on its neighbour's
        axes.text((start + stop) / 2, 1.01, phase, rotation=35, fontsize=7, transform=axes.get_xaxis_transform())
    axes.set_xlim(0, len(points) - 1)
    axes.set_ylim(0, 1.05 * highest / mib)
    axes.set_xlabel("allocations and frees of setup and one step, in order")
    axes.set_ylabel("MiB alive")
    axes.set_title(title, pad=52)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise MemplanError(f"--plot {path}: cannot be written: {error.strerror or error}") from None
