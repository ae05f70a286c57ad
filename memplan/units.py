"""Bytes as text and back. 1 GiB = 2^30 bytes and 1 GB = 10^9 bytes; the two are never mixed up."""

from __future__ import annotations

import re

_FACTORS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_BY_LOWER_CASE = {name.lower(): factor for name, factor in _FACTORS.items()}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)")
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
"""Binary units, the largest first."""
MAX_BYTES = 2**63 - 1


def parse_bytes(text: str) -> int:
    """Return the number of bytes that ``text`` names: ``"8GiB"``, ``"200 MB"``, ``"8g"``, ``"123456 B"``.

    The unit's case does not matter. ``K``, ``M``, ``G`` and ``T`` alone count in 1,024, as docker, java and systemd
    read them, so that "8g" is an 8 GiB card's memory.

    Raises:
        ValueError: the text is no size, its unit is missing or unknown, or it is not between 1 byte and 2^63 − 1.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write a number and a unit, such as 8GiB, 200MiB or 1.5GB")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{text!r} has no unit; write {number}GiB, {number}MiB or {number}B")
    factor = _BY_LOWER_CASE.get(unit.lower())
    if factor is None:
        raise ValueError(
            f"{text!r}: {unit!r} is no unit of size; use B, KB, MB, GB, TB or KiB, MiB, GiB, TiB (G alone is GiB)"
        )
    value = float(number) * factor if "." in number else int(number) * factor
    if not 1 <= value <= MAX_BYTES:
        raise ValueError(f"{text!r} is out of range; a size lies between 1 B and {MAX_BYTES} B")
    return int(value)


def format_bytes(n_bytes: int) -> str:
    """Return ``n_bytes`` in binary units with three significant figures: 2,851,200,000 gives ``"2.66 GiB"``."""
    sign, size = ("−", -n_bytes) if n_bytes < 0 else ("", n_bytes)
    if size < 1024:
        return f"{sign}{size} B"
    scaled = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        scaled /= 1024
        if scaled < 999.5 or unit == "EiB":
            break
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{sign}{scaled:,.{decimals}f} {unit}"


def format_mib_up(n_bytes: int) -> str:
    """Return the bytes in whole MiB, rounded up, as ``--budget`` takes them: enough, and less than a MiB too much."""
    return f"{-(-n_bytes // 2**20)}MiB"


def format_count(n: float) -> str:
    """Return a count with thousands separators: ``1,000,000``."""
    return f"{n:,.0f}"
