"""The device below the allocator: how many bytes its driver gives, and how many the process may take."""

from __future__ import annotations


class OutOfDeviceMemory(Exception):  # noqa: N818 - what the driver says, not a mistake of the caller
    """The driver has no memory left for a segment, even after cached ones were returned."""


class Device:
    """What the driver has given; sizes in bytes.

    ``capacity_bytes``: what it can give at most; None: no bound. ``allowed_bytes``: what PyTorch lets the process
    reserve (a memory fraction); None: no bound.
    """

    __slots__ = ("_next_begin", "allowed_bytes", "capacity_bytes", "peak_reserved_bytes", "reserved_bytes")

    def __init__(self, capacity_bytes: int | None, allowed_bytes: int | None) -> None:
        self.capacity_bytes = capacity_bytes
        self.allowed_bytes = allowed_bytes
        self.reserved_bytes = 0
        self.peak_reserved_bytes = 0
        self._next_begin = 0

    def begin(self, n_bytes: int) -> int:
        """Return where a new segment begins: above those before it, so that addresses tell which is the older."""
        self._next_begin += n_bytes
        return self._next_begin - n_bytes

    def allows(self, n_bytes: int) -> bool:
        """Return whether the process may reserve so much more."""
        return self.allowed_bytes is None or self.reserved_bytes + n_bytes <= self.allowed_bytes

    def take(self, n_bytes: int) -> bool:
        """Reserve memory; return whether the driver has so much."""
        reserved = self.reserved_bytes + n_bytes
        if self.capacity_bytes is not None and reserved > self.capacity_bytes:
            return False
        self.reserved_bytes = reserved
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, reserved)
        return True

    def give_back(self, n_bytes: int) -> None:
        """Return memory to the driver."""
        self.reserved_bytes -= n_bytes
