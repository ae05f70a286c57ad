"""Raw tkbc folders (``train``, ``valid``, ``test``, tab-separated) read into a ``Dataset``.

Three formats are read, one a folder. Quadruples: head, relation, tail, time. YAGO15K's: head, relation, tail and, where
the fact has a time, ``<occursSince>`` or ``<occursUntil>`` and ``"2012-##-##"``; as in tkbc the relation becomes
relation and modifier joined, the time a year, and facts without time take one extra timestamp, the last. Intervals:
head, relation, tail, begin, end; raw_intervals.py tells them.

A byte order mark, CRLF, blanks and tabs at a line's end, and blank lines are read over, as tkbc does. A fact that
occurs twice stays twice: the published splits are counted so. Entities, relations and timestamps count over all three
splits; one that occurs in valid or test alone keeps the embedding that it began with. docs/data.md says all this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from memplan.catalog.folders import SPLITS, missing_files
from memplan.errors import MemplanError
from tkbc.data.dataset import NO_TIME, Dataset, Ids
from tkbc.data.reading_intervals import NAME_FILES, OPEN, is_interval, named, names_of, parse_interval

MODIFIERS = ("<occursSince>", "<occursUntil>")
LONGEST_LINE_BYTES = 65_536
SHOWN_PROBLEMS = 20
_YEAR = re.compile(r'"?(-?\d{1,6})-[\d#]{2}-[\d#]{2}"?')


RawFact = tuple[str, ...]
"""A fact as text: head, relation, tail, and its time or its begin and end."""


def read_folder(folder: Path, dataset: str) -> Dataset:
    """Return the graph in ``folder``, to be called ``dataset``.

    Raises:
        MemplanError: a file is missing, empty, not UTF-8, or has lines that are no facts or too long; names file and
            line, the first twenty of them at once.
    """
    absent = missing_files(folder)
    if absent:
        raise MemplanError(
            f"{folder}: no file {', '.join(absent)}; a dataset folder holds train, valid and test, tab-separated"
        )
    problems: list[str] = []
    lines = {split: _read_lines(folder / split, problems) for split in SPLITS}
    parse = _parser_of([columns for rows in lines.values() for _, columns in rows])
    splits = {split: _parse_lines(folder / split, rows, parse, problems) for split, rows in lines.items()}
    if parse is parse_interval:
        paths = [folder / name for name in NAME_FILES]
        names = [names_of(path, _read_lines(path, problems), problems) if path.is_file() else {} for path in paths]
        if not problems:
            splits = {split: named(facts, *names) for split, facts in splits.items()}
    if problems:
        raise _error_of(folder, problems)
    every_fact = [fact for facts in splits.values() for fact in facts]
    entities = sorted({fact[0] for fact in every_fact} | {fact[2] for fact in every_fact})
    relations = sorted({fact[1] for fact in every_fact})
    times = {time for fact in every_fact for time in fact[3:]}
    timestamps = sorted(times - {OPEN} if parse is parse_interval else times, key=_chronological)
    if not timestamps:
        raise MemplanError(f"{folder}: no fact has a begin or an end; leave the dates out and give each fact one time")
    ids = [{text: i for i, text in enumerate(names)} for names in (entities, relations, entities, timestamps)]
    if parse is parse_interval:
        ids[3:] = [{**ids[3], OPEN: 0}, {**ids[3], OPEN: len(timestamps) - 1}]

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


def problem_of_split(path: Path) -> str | None:
    """Return why the file ``path`` is a split of no dataset, whatever its format, or None."""
    problems: list[str] = []
    try:
        rows = _read_lines(path, problems)
    except MemplanError as error:
        return str(error)
    for parse in (_parse_quadruple, _parse_yago15k, parse_interval):
        wrong = list(problems)
        _parse_lines(path, rows, parse, wrong)
        if not wrong:
            return None
    return f"{path.name}: its lines are no facts of any format that is read"


def _parser_of(lines: list[list[str]]) -> Callable[[list[str]], RawFact | str]:
    """Return what reads the lines of a folder; one format for all of them."""
    # A split of YAGO15K may happen to hold no fact with a time.
    if any(len(columns) == 5 and columns[3] in MODIFIERS for columns in lines):
        return _parse_yago15k
    # Most lines decide, so that one that is out of place is told as such and not all the others.
    if 2 * sum(map(is_interval, lines)) > len(lines):
        return parse_interval
    return _parse_quadruple


def _read_lines(path: Path, problems: list[str]) -> list[tuple[int, list[str]]]:
    """Return number and columns of each line that is not blank; what cannot be read goes to ``problems``."""
    rows = []
    try:
        with path.open("rb") as file:
            # A bounded readline, not splitlines(): a file without line breaks is not read whole, and names may hold
            # characters, such as U+2028, that splitlines() takes for line breaks.
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES + 1), b""), start=1):
                if len(line) > LONGEST_LINE_BYTES:
                    problems.append(f"{path}:{number}: longer than {LONGEST_LINE_BYTES:,} bytes; not read any further")
                    break
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip(" \t\r\n")
                except UnicodeDecodeError as error:
                    problems.append(f"{path}:{number}: not UTF-8 at byte {error.start + 1}; save it as UTF-8")
                    continue
                if text:
                    rows.append((number, text.split("\t")))
    except OSError as error:
        raise MemplanError(f"{path}: cannot be read: {error.strerror}") from None
    if not rows and not problems:
        needs = "an id file needs names" if path.name in NAME_FILES else "every split needs at least one fact"
        raise MemplanError(f"{path}: empty; {needs}")
    return rows


def _parse_lines(
    path: Path, rows: list[tuple[int, list[str]]], parse: Callable[[list[str]], RawFact | str], problems: list[str]
) -> list[RawFact]:
    facts = []
    for number, columns in rows:
        fact = parse(columns)
        if isinstance(fact, str):
            problems.append(f"{path}:{number}: {fact}")
        else:
            facts.append(fact)
    return facts


def _error_of(folder: Path, problems: list[str]) -> MemplanError:
    """Return one line for one problem, else how many there are and the first of them, a line each."""
    if len(problems) == 1:
        return MemplanError(problems[0])
    shown = f"; the first {SHOWN_PROBLEMS}" if len(problems) > SHOWN_PROBLEMS else ""
    lines = "".join(f"\n  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    return MemplanError(f"{folder}: {len(problems):,} lines cannot be read as facts{shown}:{lines}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _parse_quadruple(columns: list[str]) -> RawFact | str:
    if len(columns) != 4:
        return f"{len(columns)} columns where 4 are expected (head, relation, tail, time, separated by tabs)"
    if not all(columns):
        return f"column {columns.index('') + 1} is empty"
    return tuple(columns)


def _parse_yago15k(columns: list[str]) -> RawFact | str:
    if len(columns) not in (3, 5):
        return f"{len(columns)} columns where 3 are expected, or 5 with occursSince/occursUntil and a date"
    head, relation, tail = columns[:3]
    if not (head and relation and tail):
        return f"column {columns.index('') + 1} is empty"
    if len(columns) == 3:
        return head, relation, tail, NO_TIME
    modifier, date = columns[3:]
    year = _YEAR.fullmatch(date)
    if modifier not in MODIFIERS:
        return f"{_shown(modifier)} where {' or '.join(MODIFIERS)} is expected"
    if year is None:
        return f'{_shown(date)} is no date; expected one such as "2012-##-##"'
    return head, f"{relation} {modifier}", tail, str(int(year.group(1)))


def _chronological(time: str) -> tuple[int, int, str]:
    """Sort key: years by number, ISO dates and other text alphabetically (which is in time for ISO), "no time" last."""
    if time == NO_TIME:
        return 2, 0, ""
    try:
        return 0, int(time), time  # "1" and "01" are two timestamps, in the same order in every process
    except ValueError:
        return 1, 0, time
