"""Small charts as SVG text for a page: colours from the page's style sheet, so that they suit light and dark alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from memplan.app.views.plot import AT_MOST, COLOURS, TAKEN, Taken, unit_of
from memplan.memory.curve import Point, aligned, segments
from memplan.memory.ledger import KINDS, Kind
from memplan.units import format_bytes

FONT = 13
LEFT, BOTTOM = 62, 44
N_TICKS = 5
MOST_DOTS = 60
BUDGET_COLOUR = "#c4588f"


class Axes:
    """A plot's frame: where values lie in the picture, and the ticks beside it."""

    def __init__(
        self, width: int, height: int, xs: tuple[float, float], ys: tuple[float, float], *, top: int, right: int
    ) -> None:
        self.width, self.height, self.top, self.right = width, height, top, right
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        """Return how far from the left."""
        return LEFT + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (self.width - LEFT - self.right)

    def y(self, value: float) -> float:
        """Return how far from the top."""
        return (
            self.height - BOTTOM - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (self.height - BOTTOM - self.top)
        )

    def frame(self, y_ticks: Iterable[tuple[float, str]], x_ticks: Iterable[tuple[float, str]], x_label: str) -> str:
        """Return grid lines with their labels."""
        parts = []
        for value, label in y_ticks:
            y = self.y(value)
            parts.append(_line(LEFT, self.width - self.right, y, y, 'class="grid"'))
            parts.append(_text(LEFT - 6, y + FONT / 3, label, anchor="end"))
        parts += [_text(self.x(value), self.height - BOTTOM + 18, label) for value, label in x_ticks]
        parts.append(_text((LEFT + self.width - self.right) / 2, self.height - 6, x_label))
        return "".join(parts)


def line_chart(
    points: Sequence[tuple[int, float]], *, alt: str, digits: int, marked: tuple[int, str] | None = None
) -> str:
    """Return a line over epochs as SVG; ``alt`` says it in words, ``marked`` is an epoch to point out and its label."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    ticks = _ticks(low - margin, high + margin)
    axes = Axes(480, 260, (min(xs) - 0.5, max(xs) + 0.5), (low - margin, high + margin), top=32, right=14)
    decimals = max(digits, -math.floor(math.log10(ticks[1] - ticks[0]))) if len(ticks) > 1 else digits
    epochs = [x for x in _ticks(min(xs), max(xs)) if x == int(x)]
    parts = [
        axes.frame(((t, f"{t:.{decimals}f}") for t in ticks), ((x, f"{x:.0f}") for x in epochs), "epoch"),
        f'<polyline class="line" points="{_joined((axes.x(x), axes.y(y)) for x, y in points)}"/>',
    ]
    if len(points) <= MOST_DOTS:
        for x, y in points:
            parts.append(f'<circle class="dot" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3">')
            parts.append(f"<title>epoch {x}: {y:.4f}</title></circle>")
    if marked is not None:
        x, y = marked[0], dict(points)[marked[0]]
        parts.append(f'<circle class="best" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="6"/>')
        anchor = "end" if axes.x(x) > 0.7 * axes.width else "start" if axes.x(x) < 0.3 * axes.width else "middle"
        parts.append(_text(axes.x(x), axes.y(y) - 12, marked[1], anchor=anchor, strong=True))
    return _svg(axes, alt, parts)


def memory_chart(
    points: Sequence[Point],
    *,
    alt: str,
    budget_bytes: int,
    measured: Sequence[tuple[str, int]] | None,
    taken: Taken | None,
) -> tuple[str, list[tuple[str, str]]]:
    """Return memory over set-up and one step as SVG, predicted, measured and budget, with colours and meanings.

    The budget is drawn where it is less than three times the highest: a line far above would flatten all the rest.
    """
    xs, ys = aligned(points, measured) if measured else ([], [])
    highest = max([*(point.total for point in points), *ys, *([] if taken is None else [taken.at_most_bytes])])
    with_budget = budget_bytes < 3 * highest
    if with_budget:
        highest = max(highest, budget_bytes)
    unit, factor = unit_of(highest)
    axes = Axes(760, 380, (0, len(points)), (0, 1.04 * highest / factor), top=78, right=40)
    ticks = _ticks(0, 1.04 * highest / factor)
    parts = [
        axes.frame(((t, f"{t:g} {unit}") for t in ticks), (), "allocations and frees of set-up and one step, in order")
    ]
    stack = _stack(axes, points, factor)
    parts += stack.values()
    legend: list[tuple[str, str]] = [(COLOURS[kind], kind) for kind in stack]
    for phase, start, stop in segments([point.phase for point in points]):
        x = axes.x(start)
        parts.append(_line(x, x, axes.top, axes.height - BOTTOM, 'class="phase"'))
        if stop - start >= len(points) / 45:  # else its name would lie on its neighbour's
            x, y = axes.x((start + stop) / 2), axes.top - 6
            parts.append(f'<text class="small" transform="translate({x:.1f} {y}) rotate(-35)">{escape(phase)}</text>')
    if with_budget:
        level = axes.y(budget_bytes / factor)
        parts.append(_line(LEFT, axes.width - axes.right, level, level, f'stroke="{BUDGET_COLOUR}" stroke-width="2"'))
        legend.append((BUDGET_COLOUR, f"budget, {format_bytes(budget_bytes)}"))
    if taken is not None:
        line = _joined(_steps(axes, range(len(points) + 1), [y / factor for y in taken.after]))
        parts.append(f'<polyline class="taken" points="{line}"/>')
        level = axes.y(taken.at_most_bytes / factor)
        parts.append(_line(LEFT, axes.width - axes.right, level, level, 'class="taken" stroke-dasharray="2 4"'))
        legend.append(("var(--accent)", f"{TAKEN}; dotted: {AT_MOST} {format_bytes(taken.at_most_bytes)}"))
    if ys:
        line = _joined(_steps(axes, [*xs, len(points)], [y / factor for y in ys]))
        parts.append(f'<polyline class="measured" points="{line}"/>')
        legend.append(("var(--ink)", "measured (dashed)"))
    return _svg(axes, alt, parts), legend


def _stack(axes: Axes, points: Sequence[Point], factor: int) -> dict[Kind, str]:
    """Return the area of each kind that there is, one upon the other."""
    areas: dict[Kind, str] = {}
    ends = range(len(points) + 1)
    below = [0.0] * len(points)
    for kind in KINDS:
        above = [low + point.bytes_of[kind] / factor for low, point in zip(below, points, strict=True)]
        if above != below:
            path = _joined([*_steps(axes, ends, above), *reversed(_steps(axes, ends, below))])
            areas[kind] = f'<polygon fill="{COLOURS[kind]}" points="{path}"><title>{kind}</title></polygon>'
        below = above
    return areas


def _steps(axes: Axes, ends: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return a line that keeps each value from its end to the next: one more end than values."""
    places = zip(ends[:-1], ends[1:], values, strict=True)
    return [(axes.x(x), axes.y(value)) for start, stop, value in places for x in (start, stop)]


def _joined(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / N_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", strong: bool = False) -> str:
    style = ' class="strong"' if strong else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, x2: float, y1: float, y2: float, style: str) -> str:
    return f'<line {style} x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _svg(axes: Axes, alt: str, parts: Iterable[str]) -> str:
    size = f'viewBox="0 0 {axes.width} {axes.height}"'
    return f'<svg {size} role="img" aria-label="{escape(alt)}" font-size="{FONT}">{"".join(parts)}</svg>'
