"""The picture of memory over one step: live bytes by kind, the budget as a line, what was measured over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memplan.errors import MemplanError, UsageError
from memplan.memory.curve import Point, aligned, curve, segments
from memplan.memory.ledger import KINDS, Kind, Ledger
from memplan.plan import Estimate, Peak
from memplan.prediction.estimate import device_curve
from memplan.prediction.rehearsal import one_step
from memplan.units import UNITS, format_bytes
from memplan.workload import Workload
from memplan.workload.alloc_conf import AllocatorSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: dict[Kind, str] = {
    "parameters": "#4477aa",
    "optimizer": "#66ccee",
    "gradients": "#228833",
    "data": "#bbbbbb",
    "scores": "#ee6677",
    "temporaries": "#ccbb44",
}
"""Paul Tol's bright scheme, distinct to colour-blind eyes."""
BUDGET_COLOUR = "#aa3377"
TAKEN = "reserved on the device, with its context"
AT_MOST = "over the whole run at most"
FORMATS = (".png", ".svg", ".pdf")


class Taken(NamedTuple):
    """What a CUDA run takes of its device, reserved bytes and the context: this is what a budget is compared with."""

    after: Sequence[int]
    """After each birth or death of set-up and one step."""
    at_most_bytes: int
    """Over the whole run: the short last step of an epoch and an evaluation may take more."""


def plot_step(found: Estimate, path: Path, *, measured: Sequence[tuple[str, int]] | None = None) -> None:
    """Draw memory over one step to ``path`` (PNG, SVG or PDF by its ending); on CUDA with what the device gives, too.

    ``measured``: phase and live bytes after each event of a run's first step, as its folder keeps them.

    Raises:
        As ``plot_ledger`` does.
    """
    workload = found.workload
    ledger = one_step(workload)
    title = (
        f"{workload.model} ({workload.score}, {workload.scoring}) on {workload.dataset or 'your graph'}: rank "
        f"{workload.rank}, batch {workload.batch_size}, peak {format_bytes(ledger.peak_bytes)}"
    )
    taken = taken_of_device(ledger, workload, found.peak)
    plot_ledger(ledger, title, path, budget_bytes=found.budget_bytes, measured=measured, taken=taken)


def taken_of_device(ledger: Ledger, workload: Workload, peak: Peak) -> Taken | None:
    """Return what set-up and one step take of the device, and the run with its ``peak``; None on the CPU."""
    if workload.device == "cpu":
        return None
    settings = AllocatorSettings.parse(workload.alloc_conf)
    outside_bytes = peak.device_bytes - peak.reserved_bytes
    return Taken(device_curve(ledger, settings, workload.device_total_bytes, outside_bytes), peak.device_bytes)


def unit_of(n_bytes: int) -> tuple[str, int]:
    """Return the largest unit that ``n_bytes`` holds once, and its bytes."""
    return next((name, size) for name, size in UNITS if n_bytes >= size or size == 1)


def plot_ledger(
    ledger: Ledger,
    title: str,
    path: Path,
    *,
    budget_bytes: int | None = None,
    measured: Sequence[tuple[str, int]] | None = None,
    taken: Taken | None = None,
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
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    axes = figure.add_subplot()
    points = curve(ledger)
    lines = _lines(points, measured, taken)
    highest = max([*(point.total for point in points), *(y for line in lines for y in line.ys)])
    if budget_bytes is not None and budget_bytes < 3 * highest:
        lines.append(_level(points, budget_bytes, f"budget {format_bytes(budget_bytes)}", "-", BUDGET_COLOUR))
        highest = max(highest, budget_bytes)
    _draw(axes, points, lines, highest)
    axes.set_title(title, pad=52)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise MemplanError(f"--plot {path}: cannot be written: {error.strerror or error}") from None


class _Line(NamedTuple):
    """A line of steps over the stack; each value holds from its place to the next."""

    xs: Sequence[float]
    ys: Sequence[int]
    label: str
    style: str
    colour: str = "black"


def _lines(points: Sequence[Point], measured: Sequence[tuple[str, int]] | None, taken: Taken | None) -> list[_Line]:
    lines = []
    if taken is not None:
        lines.append(_Line(range(len(points)), taken.after, TAKEN, "-"))
        if taken.at_most_bytes > max(taken.after):
            label = f"{AT_MOST} {format_bytes(taken.at_most_bytes)}"
            lines.append(_level(points, taken.at_most_bytes, label, ":"))
    if measured:
        lines.append(_Line(*aligned(points, measured), "measured", "--"))
    return lines


def _level(points: Sequence[Point], n_bytes: int, label: str, style: str, colour: str = "black") -> _Line:
    return _Line((0, len(points)), (n_bytes, n_bytes), label, style, colour)


def _draw(axes: Axes, points: Sequence[Point], lines: Sequence[_Line], highest: int) -> None:
    unit, factor = unit_of(highest)
    # One place more than events: what the last one left is seen, too.
    stack = [[point.bytes_of[kind] / factor for point in [*points, points[-1]]] for kind in KINDS]
    colours = [COLOURS[kind] for kind in KINDS]
    axes.stackplot(range(len(points) + 1), stack, labels=KINDS, colors=colours, step="post")
    for line in lines:
        xs, ys = [*line.xs, len(points)], [y / factor for y in [*line.ys, line.ys[-1]]]
        axes.step(xs, ys, where="post", color=line.colour, linestyle=line.style, linewidth=1.2, label=line.label)
    for phase, start, stop in segments([point.phase for point in points]):
        axes.axvline(start, color="white", linewidth=0.6, zorder=1)
        if stop - start < len(points) / 50:
            continue  # its name would lie on its neighbour's
        axes.text((start + stop) / 2, 1.01, phase, rotation=35, fontsize=7, transform=axes.get_xaxis_transform())
    axes.set_xlim(0, len(points))
    axes.set_ylim(0, 1.05 * highest / factor)
    axes.set_xlabel("allocations and frees of setup and one step, in order")
    axes.set_ylabel(unit)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, frameon=False)
