"""Finding what a user names: entities and relations as they write them, times by where they lie."""

from __future__ import annotations

import difflib
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import date
from string import digits

from memplan.errors import UsageError
from tkbc.data.dataset import NO_TIME

SHOWN = 5
_YEAR = re.compile(r"-?[0-9]+")
_DATE = re.compile(r'"?(-?[0-9]+)-[0-9#]{2}-[0-9#]{2}"?')


def find_name(what: str, given: str, names: Sequence[str]) -> int:
    """Return the id of the name ``given``, or of the one that differs from it in case, ``_``, ``<>`` or quotes alone.

    ``what`` is how the message calls it, such as ``entity``. A part of a name is never taken for it: the message
    suggests the names that hold it, the shortest first, then those that are spelt alike.

    Raises:
        UsageError: there is no such name, or there are several.
    """
    if given in names:
        return names.index(given)
    plain = _plain(given)
    by_plain: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        by_plain.setdefault(_plain(name), []).append(i)
    alike = by_plain.get(plain, [])
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UsageError(f"{what} {given!r}: could be {_or(names[i] for i in alike[:SHOWN])}; say which")
    holding = sorted((name for name in by_plain if plain and plain in name), key=len)[:SHOWN]
    spelt_alike = difflib.get_close_matches(plain, by_plain, n=SHOWN, cutoff=0.6)
    near = list(dict.fromkeys(holding + spelt_alike))[:SHOWN]
    if near:
        raise UsageError(f"no {what} {given!r}; did you mean {_or(names[by_plain[name][0]] for name in near)}?")
    raise UsageError(
        f"no {what} {given!r} among {len(names):,}, nor one that is spelt alike; memplan export RUN FILE.npz lists them"
    )


def find_time(given: str, timestamps: Sequence[str]) -> int:
    """Return the id of the time ``given``; numbers may be written with other leading zeros, as in 2014-5-1.

    Where the data's times are years, a date such as 1986-05-17 or 1986-##-## stands for its year.

    Raises:
        UsageError: it is not in the data; the message says from when to when the data are and what is nearest.
    """
    if given in timestamps:
        return timestamps.index(given)
    dated = _DATE.fullmatch(given.strip())
    if dated is not None and all(_YEAR.fullmatch(name) for name in timestamps if name != NO_TIME):
        return find_time(dated[1], timestamps)
    times = sorted((_parts(name), i) for i, name in enumerate(timestamps) if name != NO_TIME)
    parts = _parts(given.strip())
    at = bisect_left(times, (parts, -1))
    if at < len(times) and times[at][0] == parts:
        return times[at][1]
    if not times:
        raise UsageError(f"no time {given!r}: the data's facts are all without time, {NO_TIME}")
    near = " and ".join(timestamps[i] for _, i in times[max(0, at - 1) : at + 1])
    first, last = (timestamps[times[end][1]] for end in (0, -1))
    raise UsageError(f"no time {given!r} among the {len(times):,} from {first} to {last}; the nearest: {near}")


def moments(timestamps: Sequence[str]) -> list[float]:
    """Return where each timestamp lies in time, so that differences can be compared.

    A year by its number, an ISO date by its day; where the data have other times, each by its place in their order.
    "No time" is infinitely far.
    """
    try:
        return [math.inf if name == NO_TIME else float(int(name)) for name in timestamps]
    except ValueError:
        pass
    try:
        return [math.inf if name == NO_TIME else float(date.fromisoformat(name).toordinal()) for name in timestamps]
    except ValueError:
        return [math.inf if name == NO_TIME else float(i) for i, name in enumerate(timestamps)]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").strip("<>\"' ").casefold().split())


def _parts(time: str) -> list[tuple[int, int, str]]:
    """Return a sort key: numbers by value (a sign at the start is theirs, as years have it), other text as it is."""
    found = re.findall(r"^-?[0-9]+|[0-9]+|[^0-9]+", time)
    return [(1, 0, part) if part[-1] not in digits else (0, int(part), "") for part in found]


def _or(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names)
