"""Memory over a run as a curve: live bytes after every allocation and free, by kind and by phase."""

from __future__ import annotations

from typing import NamedTuple

from memplan.ledger import KINDS, Kind, Ledger

BLOCKS = "▁▂▃▄▅▆▇█"


class Point(NamedTuple):
    """The bytes alive after one event."""

    phase: str
    bytes_of: dict[Kind, int]

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.bytes_of.values())


def curve(ledger: Ledger) -> list[Point]:
    """Return a point for each birth or death in the ledger, in order."""
    alive: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    points = []
    phase = ""
    for allocation, is_birth in ledger.events:
        if allocation is None:
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
