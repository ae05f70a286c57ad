"""Raw tkbc folders (``train``, ``valid``, ``test``, tab-separated, or .csv and the like) read into a ``Dataset``.

Three formats are read, one a folder. Quadruples: head, relation, tail, time. YAGO15K's: head, relation, tail and, where
the fact has a time, ``<occursSince>`` or ``<occursUntil>`` and ``"2012-##-##"``; as in tkbc the relation becomes
relation and modifier joined, the time a year, and facts without time take one extra timestamp, the last. Intervals:
head, relation, tail, begin, end; reading_intervals.py says which.

A byte order mark, CRLF, blanks and tabs at a line's end, and blank lines are read over, as tkbc does. A fact that
occurs twice stays twice: the published splits are counted so. Entities, relations and timestamps count over all three
splits; one that occurs in valid or test alone keeps the embedding that it began with. docs/data.md says all this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from memplan.catalog.folders import ENDINGS, SPLITS, Split, missing_files, split_files
from memplan.errors import MemplanError
from tkbc.data.dataset import NO_TIME, Dataset
from tkbc.data.ids import Ids
from tkbc.data.lines import Row, read_lines
from tkbc.data.reading_intervals import NAME_FILES, OPEN, is_interval, named, names_of, parse_interval
from tkbc.data.times import in_order

MODIFIERS = ("<occursSince>", "<occursUntil>")
UNUSED = ("0", "-1")
SHOWN_PROBLEMS = 20
SHOWN_NAMES = 8
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
        there = sorted(path.name for path in folder.iterdir())[:SHOWN_NAMES] if folder.is_dir() else []
        raise MemplanError(
            f"{folder}: no file {', '.join(absent)}; a dataset folder holds train, valid and test, tab-separated, or "
            f"with the endings {', '.join(ENDINGS[1:])}; there is {', '.join(there) or 'nothing'}"
        )
    problems: list[str] = []
    paths = split_files(folder)
    lines = {split: read_lines(paths[split], problems) for split in SPLITS}
    parse = _parser_of([columns for rows in lines.values() for _, columns in rows])
    splits = {split: _parse_lines(paths[split], rows, parse, problems) for split, rows in lines.items()}
    if parse is parse_interval or _are_ids(splits):
        splits = _with_names(folder, splits, problems)
    if problems:
        raise _error_of(folder, problems)
    every_fact = [fact for facts in splits.values() for fact in facts]
    entities = sorted({fact[0] for fact in every_fact} | {fact[2] for fact in every_fact})
    relations = sorted({fact[1] for fact in every_fact})
    times = {time for fact in every_fact for time in fact[3:]}
    timestamps = in_order(times - {OPEN} if parse is parse_interval else times, str(folder))
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

    encoded = (encode(splits[split]) for split in SPLITS)
    return Dataset(dataset, tuple(entities), tuple(relations), tuple(timestamps), *encoded)


def _with_names(folder: Path, splits: dict[Split, list[RawFact]], problems: list[str]) -> dict[Split, list[RawFact]]:
    """Return the facts with what the id files beside them name; what is wrong with these joins ``problems``."""
    id_files = [folder / name for name in NAME_FILES]
    names = [names_of(path, read_lines(path, problems), problems) if path.is_file() else {} for path in id_files]
    return splits if problems else {split: named(facts, *names) for split, facts in splits.items()}


def problem_of_split(path: Path) -> str | None:
    """Return why the file ``path`` is a split of no dataset, whatever its format, or None."""
    problems: list[str] = []
    try:
        rows = read_lines(path, problems)
    except MemplanError as error:
        return str(error)
    for parse in (_parse_quadruple, _parse_yago15k, parse_interval, _parse_numbered):
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
    # Most lines decide, so that one line out of place is named and not all the others.
    if 2 * sum(map(is_interval, lines)) > len(lines):
        return parse_interval
    if 2 * sum(map(_is_numbered, lines)) > len(lines):
        return _parse_numbered
    return _parse_quadruple


def _are_ids(splits: Mapping[Split, list[RawFact]]) -> bool:
    """Return whether heads, relations and tails are numbers: what id files beside them give names to."""
    return all(text.isdecimal() for facts in splits.values() for fact in facts for text in fact[:3])


def _is_numbered(columns: list[str]) -> bool:
    """Return whether a line is one of RE-Net's and its followers': ids, the time's number, and a column of no use."""
    return len(columns) == 5 and all(text.isdecimal() for text in columns[:4]) and columns[4] in UNUSED


def _parse_numbered(columns: list[str]) -> RawFact | str:
    return tuple(columns[:4]) if _is_numbered(columns) else f"no line of ids, time and {' or '.join(UNUSED)}"


def _parse_lines(
    path: Path, rows: list[Row], parse: Callable[[list[str]], RawFact | str], problems: list[str]
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
