"""Memory over a run as a curve: live bytes after every allocation and free, by kind and by phase."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from memplan.errors import MemplanError
from memplan.memory.ledger import KINDS, Kind, Ledger
from memplan.workload import first_problem

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_FILE = "memory_curve.json"
"""In a run folder: what was measured, up to the end of the first step."""


class Point(NamedTuple):
    """The bytes alive after one event."""

    phase: str
    bytes_of: dict[Kind, int]

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.bytes_of.values())


def curve(ledger: Ledger) -> list[Point]:
    """Return a point for each birth or death in the ledger, in order; tensors without a byte are left out."""
    alive: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    points = []
    phase = ""
    for allocation, is_birth in ledger.events:
        if allocation is None or not allocation.n_bytes:
            continue
        if is_birth:
            phase = allocation.phase
        alive[allocation.kind] += allocation.n_bytes if is_birth else -allocation.n_bytes
        points.append(Point(phase, dict(alive)))
    return points


def sparkline(points: list[Point], width: int) -> str:
    """Return the curve as one line of ``width`` block characters; each shows the highest bytes of its share."""
    highest = max(point.total for point in points)
    line = []
    for column in range(width):
        start, stop = column * len(points) // width, (column + 1) * len(points) // width
        top = max(point.total for point in points[start : max(stop, start + 1)])
        line.append(BLOCKS[min(len(BLOCKS) - 1, top * len(BLOCKS) // max(1, highest))])
    return "".join(line)


def segments(phases: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return each stretch of one phase as (phase, first index, index after the last)."""
    found, at = [], 0
    for phase, group in groupby(phases):
        length = len(list(group))
        found.append((phase, at, at + length))
        at += length
    return found


def aligned(points: Sequence[Point], measured: Sequence[tuple[str, int]]) -> tuple[list[float], list[int]]:
    """Return where each measured point belongs on the predicted axis: phase by phase, at the event of the same bytes.

    What has no such event lies evenly between those around it. The prediction holds the first micro-batch and the last,
    ragged one; a phase's n-th stretch is set over the measured n-th, its last over the measured last.
    """
    predicted = segments([point.phase for point in points])
    found = segments([phase for phase, _ in measured])
    stretches: dict[str, list[tuple[int, int]]] = {}
    for phase, start, stop in found:
        stretches.setdefault(phase, []).append((start, stop))
    times: dict[str, int] = {}
    for phase, _, _ in predicted:
        times[phase] = times.get(phase, 0) + 1
    seen: dict[str, int] = {}
    xs: list[float] = []
    ys: list[int] = []
    for phase, start, stop in predicted:
        seen[phase] = seen.get(phase, 0) + 1
        if phase not in stretches:
            continue
        of_phase = stretches[phase]
        is_last = times[phase] > 1 and seen[phase] == times[phase]
        first, after = of_phase[-1] if is_last else of_phase[min(seen[phase], len(of_phase)) - 1]
        values = [n_bytes for _, n_bytes in measured[first:after]]
        xs += [start + x for x in _places([point.total for point in points[start:stop]], values)]
        ys += values
    return xs, ys


def _places(predicted: Sequence[int], measured: Sequence[int]) -> list[float]:
    """Return where each measured value lies among the predicted ones: at its equal, or between its neighbours."""
    places: list[float] = []
    for block in SequenceMatcher(None, predicted, measured, autojunk=False).get_matching_blocks():
        at = len(places)
        before = places[-1] + 1 if places else 0.0
        # From the place after the last match to that of the next: the first of them where the last one ended.
        step = (block.a - before) / max(block.b - at, 1)
        places += [before + step * i for i in range(block.b - at)]
        places += [float(block.a + i) for i in range(block.size)]
    return places


class MeasuredCurve(BaseModel, frozen=True, extra="forbid"):
    """Phase and live bytes after each of a run's first allocations and frees."""

    points: list[tuple[str, Annotated[int, Field(ge=0)]]]


def read_measured(run_folder: Path) -> list[tuple[str, int]] | None:
    """Return what a run measured up to the end of its first step; None where it kept nothing.

    Raises:
        MemplanError: the file is damaged.
    """
    path = run_folder / CURVE_FILE
    try:
        return MeasuredCurve.model_validate_json(path.read_text(encoding="utf-8")).points
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise MemplanError(f"{path}: cannot be read: {error}") from None
    except ValidationError as error:
        raise MemplanError(f"{path}: no measured curve: {first_problem(error)}") from None
