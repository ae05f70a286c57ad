"""The stand-in driver's three ways to place segments, for the replay: what STANDIN_ADDRESSES names."""

from __future__ import annotations

from bisect import insort

from memplan.memory.cuda import Addresses

UNIT = 2 * 2**20
HIGHEST = 2**42


class FallingAddresses:
    """Each segment below those before it."""

    def __init__(self) -> None:
        self._lowest = HIGHEST

    def take(self, n_bytes: int) -> int:
        """Return where a new segment of that size begins."""
        self._lowest -= _whole_units(n_bytes)
        return self._lowest

    def give_back(self, address: int, n_bytes: int) -> None:
        """Leave a hole."""


class LowestAddresses:
    """Each segment at the lowest addresses that are free."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []

    def take(self, n_bytes: int) -> int:
        """Return where a new segment of that size begins."""
        begin, size = 0, _whole_units(n_bytes)
        for first, last in self._taken:
            if begin + size <= first:
                break
            begin = last
        insort(self._taken, (begin, begin + size))
        return begin

    def give_back(self, address: int, n_bytes: int) -> None:
        """Free a segment's addresses."""
        self._taken.remove((address, address + _whole_units(n_bytes)))


def addresses(name: str) -> Addresses | None:
    """Return the way that STANDIN_ADDRESSES names: first, new or down; None: new, the replay's own."""
    match name:
        case "first":
            return LowestAddresses()
        case "new":
            return None
        case "down":
            return FallingAddresses()
    raise ValueError(f"addresses: {name!r}: first, new or down")


def _whole_units(n_bytes: int) -> int:
    return -(-n_bytes // UNIT) * UNIT
