"""Timestamps in chronological order, whatever way the files write dates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from memplan.errors import MemplanError
from tkbc.data.dataset import NO_TIME

_YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")

Key = tuple[int, ...]


def in_order(times: Iterable[str], where: str) -> list[str]:
    """Return timestamps in time: numbers by value, dates by the calendar, other text alphabetically, "no time" last.

    Dates are 2014-05-13 or 13/05/2014 (also with ``/``, ``.`` or ``-`` between); 5/13/2014 where no month is above 12
    so, and every time has to be written the same way. ISO dates with a time of day sort as text, which is in time.

    Raises:
        MemplanError: dates such as 05/06/2014 of which none says which number is the month; names ``where``.
    """
    known = sorted(set(times) - {NO_TIME})
    key = _calendar(known, where) or _as_number_or_text
    ordered = sorted(known, key=key)  # equal moments, such as 1 and 01, stay in the order of their text
    return [*ordered, NO_TIME] if NO_TIME in set(times) else ordered


def _as_number_or_text(time: str) -> tuple[int, int, str]:
    try:
        return 0, int(time), time  # "1" and "01" are two timestamps, in the same order in every process
    except ValueError:
        return 1, 0, time


def _calendar(times: list[str], where: str) -> Callable[[str], Key] | None:
    """Return the key of dates where all of ``times`` are dates of one form, else None."""
    if times and all(_YEAR_FIRST.fullmatch(time) for time in times):
        return lambda time: _numbers(_YEAR_FIRST, time)
    if not times or not all(_YEAR_LAST.fullmatch(time) for time in times):
        return None
    numbers = [_numbers(_YEAR_LAST, time) for time in times]
    day_first = any(first > 12 for first, _, _ in numbers)
    month_first = any(second > 12 for _, second, _ in numbers)
    if day_first and month_first:
        raise MemplanError(f"{where}: dates such as {times[0]!r} are written in two ways; write them as 2014-05-13")
    if not day_first and not month_first and any(first != second for first, second, _ in numbers):
        raise MemplanError(
            f"{where}: dates such as {times[0]!r} do not say which number is the month: no day is above 12; write them "
            "as 2014-05-13"
        )
    order = (2, 0, 1) if month_first else (2, 1, 0)
    return lambda time: tuple(_numbers(_YEAR_LAST, time)[i] for i in order)


def _numbers(pattern: re.Pattern[str], time: str) -> Key:
    match = pattern.fullmatch(time)
    assert match is not None
    return int(match[1]), int(match[3]), int(match[4])
