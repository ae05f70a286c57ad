"""Raw tkbc folders (``train``, ``valid``, ``test``, tab-separated) read into a ``Dataset``.

Two formats are read. Quadruples: head, relation, tail, time. YAGO15K's: head, relation, tail and, where the fact has a
time, ``<occursSince>`` or ``<occursUntil>`` and ``"2012-##-##"``; as in tkbc the relation becomes relation and modifier
joined, the time a year, and facts without time take one extra timestamp, the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from memplan.errors import MemplanError
from tkbc.data.dataset import NO_TIME, SPLITS, Dataset, Ids

MODIFIERS = ("<occursSince>", "<occursUntil>")
_YEAR = re.compile(r'"?(-?\d{1,6})-[\d#]{2}-[\d#]{2}"?')


class RawFact(NamedTuple):
    """A fact as text."""

    head: str
    relation: str
    tail: str
    time: str


def missing_files(folder: Path) -> list[str]:
    """Return the split files that ``folder`` lacks."""
    return [name for name in SPLITS if not (folder / name).is_file()]


def read_folder(folder: Path, dataset: str) -> Dataset:
    """Return the graph in ``folder``, to be called ``dataset``.

    Raises:
        MemplanError: a file is missing, empty, not UTF-8, or has a line that is no fact; names file and line.
    """
    absent = missing_files(folder)
    if absent:
        raise MemplanError(
            f"{folder}: no file {', '.join(absent)}; a dataset folder holds train, valid and test, tab-separated"
        )
    lines = {split: _read_lines(folder / split) for split in SPLITS}
    # One format for the folder: a split of YAGO15K may happen to hold no fact with a time.
    with_modifiers = any(len(row) == 5 and row[3] in MODIFIERS for rows in lines.values() for row in rows)
    parse = _parse_yago15k if with_modifiers else _parse_quadruple
    splits = {split: _parse_lines(folder / split, rows, parse) for split, rows in lines.items()}
    every_fact = [fact for facts in splits.values() for fact in facts]
    entities = sorted({fact.head for fact in every_fact} | {fact.tail for fact in every_fact})
    relations = sorted({fact.relation for fact in every_fact})
    timestamps = sorted({fact.time for fact in every_fact}, key=_chronological)
    ids = [{text: i for i, text in enumerate(names)} for names in (entities, relations, entities, timestamps)]

    def encode(facts: list[RawFact]) -> Ids:
        columns = [[of[text] for text in column] for of, column in zip(ids, zip(*facts, strict=True), strict=True)]
        array = np.ascontiguousarray(np.array(columns, dtype=np.int32).T)
        array.setflags(write=False)
        return array

    return Dataset(
        dataset,
        tuple(entities),
        tuple(relations),
        tuple(timestamps),
        *(encode(splits[split]) for split in SPLITS),
    )


def _read_lines(path: Path) -> list[list[str]]:
    """Return the columns of each line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MemplanError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise MemplanError(f"{path}: cannot be read: {error.strerror}") from None
    if not text:
        raise MemplanError(f"{path}: empty; every split needs at least one fact")
    # Not splitlines(): names may hold characters, such as U+2028, that it takes for line breaks.
    return [line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n")]


def _parse_lines(path: Path, lines: list[list[str]], parse: Callable[[list[str]], RawFact | str]) -> list[RawFact]:
    facts = []
    for number, columns in enumerate(lines, start=1):
        fact = parse(columns)
        if isinstance(fact, str):
            raise MemplanError(f"{path}:{number}: {fact}")
        facts.append(fact)
    return facts


def _parse_quadruple(columns: list[str]) -> RawFact | str:
    if len(columns) != 4:
        return f"{len(columns)} columns where 4 are expected (head, relation, tail, time, separated by tabs)"
    if not all(columns):
        return f"column {columns.index('') + 1} is empty"
    return RawFact(*columns)


def _parse_yago15k(columns: list[str]) -> RawFact | str:
    if len(columns) not in (3, 5):
        return f"{len(columns)} columns where 3 are expected, or 5 with occursSince/occursUntil and a date"
    head, relation, tail = columns[:3]
    if not (head and relation and tail):
        return f"column {columns.index('') + 1} is empty"
    if len(columns) == 3:
        return RawFact(head, relation, tail, NO_TIME)
    modifier, date = columns[3:]
    year = _YEAR.fullmatch(date)
    if modifier not in MODIFIERS:
        return f"{modifier!r} where {' or '.join(MODIFIERS)} is expected"
    if year is None:
        return f'{date!r} is no date; expected one such as "2012-##-##"'
    return RawFact(head, f"{relation} {modifier}", tail, str(int(year.group(1))))


def _chronological(time: str) -> tuple[int, int, str]:
    """Sort key: years by number, ISO dates and other text alphabetically (which is in time for ISO), "no time" last."""
    if time == NO_TIME:
        return 2, 0, ""
    try:
        return 0, int(time), ""
    except ValueError:
        return 1, 0, time
