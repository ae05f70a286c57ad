"""What ``--devices`` says: how many, and which where it says so."""

from __future__ import annotations

import re
from typing import NamedTuple

from memplan.errors import UsageError
from memplan.workload import MAX_PROCESSES

AUTO = "auto"


class Asked(NamedTuple):
    """A number of devices, and what kind where it was said."""

    n: int
    device: str | None


def parse_devices(text: str) -> Asked:
    """Return what ``2`` or ``2xT4`` asks for.

    Raises:
        UsageError: it is neither, or no number that can be.
    """
    match = re.fullmatch(r"(\d{1,9})(?:\s*[x×]\s*(\S.*))?", text.strip(), flags=re.IGNORECASE | re.ASCII)
    if match is None:
        raise UsageError(f"--devices: {text!r}: write a number such as 2, a number of a kind such as 2xT4, or auto")
    n = int(match[1])
    if not 1 <= n <= MAX_PROCESSES:
        raise UsageError(f"--devices: {n}: a number between 1 and {MAX_PROCESSES}")
    return Asked(n, match[2])


def is_auto(devices: str | None) -> bool:
    """Return whether the number of devices is the search's to choose."""
    return devices is not None and devices.strip().lower() == AUTO
