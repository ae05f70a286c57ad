"""Raw facts that hold over intervals, as HyTE's YAGO11k and Wikidata12k have them: head, relation, tail, begin, end.

A date is a year, a month and a day, ``#`` where it is not known: ``1952-##-##``, ``-431-##-##``, ``####-##-##``. The
year counts. A year of which only the first digits are known stands for all that begin so: 195# begins in 1950 and ends
in 1959. A year that is not known at all is open: it stands for the first timestamp as a begin, for the last as an end.
An end before the begin is wrong, so it is not known: open, as HyTE's own code has it (its time_proj.py).

Heads, relations and tails are ids where ``entity2id.txt`` and ``relation2id.txt`` lie beside the facts: a name, a tab,
its id, and further columns that are read over.
"""

from __future__ import annotations

import re
from pathlib import Path

from memplan.errors import MemplanError

OPEN = "####"
"""The year that is not known."""
NAME_FILES = ("entity2id.txt", "relation2id.txt")
_DATE = re.compile(r"(?P<sign>-?)(?P<known>\d{0,6})(?P<unknown>#{0,6})-[\d#]{2}-[\d#]{2}")


def year_of(date: str, *, is_end: bool) -> str | None:
    """Return the year of a date: ``OPEN`` where nothing is known of it, None where it is no date."""
    match = _DATE.fullmatch(date)
    if match is None or not 1 <= len(match["known"] + match["unknown"]) <= 6:
        return None
    if not match["known"]:
        return None if match["sign"] else OPEN
    # The last of the years that begin so, or the first: before our era it is the other way round.
    digit = "9" if is_end != bool(match["sign"]) else "0"
    return str(int(match["sign"] + match["known"] + digit * len(match["unknown"])))


def is_interval(columns: list[str]) -> bool:
    """Return whether a line's columns have the form of a fact with begin and end."""
    return len(columns) == 5 and all(_DATE.fullmatch(date) for date in columns[3:])


def parse_interval(columns: list[str]) -> tuple[str, ...] | str:
    """Return head, relation, tail and the years of begin and end, or what is wrong with the line."""
    if len(columns) != 5:
        return f"{len(columns)} columns where 5 are expected (head, relation, tail, begin, end, separated by tabs)"
    if not all(columns):
        return f"column {columns.index('') + 1} is empty"
    begin, end = year_of(columns[3], is_end=False), year_of(columns[4], is_end=True)
    if begin is None or end is None:
        wrong = columns[3 if begin is None else 4]
        return f"{wrong[:40]!r} is no date; expected one such as 1952-##-##, or ####-##-## where it is open"
    if OPEN not in (begin, end) and int(end) < int(begin):
        end = OPEN
    return (*columns[:3], begin, end)


def names_of(path: Path, rows: list[tuple[int, list[str]]], problems: list[str]) -> dict[str, str]:
    """Return the name of every id in the lines of an id file; what cannot be read goes to ``problems``."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for number, columns in rows:
        if len(columns) < 2 or not all(columns[:2]):
            problems.append(f"{path}:{number}: a name and its id are expected, separated by a tab")
            continue
        name, id_ = columns[:2]
        if names.setdefault(id_, name) != name or ids.setdefault(name, id_) != id_:
            problems.append(f"{path}:{number}: {name[:40]!r} or its id {id_[:40]!r} occurs twice")
    return names


def named(facts: list[tuple[str, ...]], entities: dict[str, str], relations: dict[str, str]) -> list[tuple[str, ...]]:
    """Return ``facts`` with names in place of ids, where there are any.

    Raises:
        MemplanError: a fact has an id without a name.
    """
    try:
        return [
            (
                entities[head] if entities else head,
                relations[relation] if relations else relation,
                entities[tail] if entities else tail,
                *times,
            )
            for head, relation, tail, *times in facts
        ]
    except KeyError as error:
        raise MemplanError(
            f"{' or '.join(NAME_FILES)}: no name for the id {error}; complete the file, or remove it to keep the ids"
        ) from None
