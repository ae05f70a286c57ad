"""The lines of a raw file as columns: plain or gzip, separated by tabs or, in a .csv, by commas; headers read over."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from memplan.errors import MemplanError
from tkbc.data.reading_intervals import NAME_FILES

LONGEST_LINE_BYTES = 65_536
Row = tuple[int, list[str]]
"""A line's number and its columns."""

_ROLES = {
    "head": {"head", "h", "subject", "subj", "s", "source", "src", "lhs", "entity1", "head_id", "subject_id"},
    "relation": {"relation", "rel", "r", "predicate", "pred", "p", "relation_id", "predicate_id", "type", "event"},
    "tail": {"tail", "object", "obj", "o", "target", "tgt", "rhs", "entity2", "tail_id", "object_id", "t"},
    "time": {"time", "timestamp", "date", "datetime", "year", "time_id", "ts", "begin", "start", "since", "end",
             "until", "start_time", "end_time"},
}  # fmt: skip


def read_lines(path: Path, problems: list[str]) -> list[Row]:
    """Return number and columns of each line that is not blank; what cannot be read goes to ``problems``.

    A first line that names the columns is read over; where it names another order than head, relation, tail that is a
    problem.

    Raises:
        MemplanError: the file cannot be read, or is empty.
    """
    rows: list[Row] = []
    is_csv = ".csv" in path.suffixes
    try:
        with _open(path) as file:
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
                    rows.append((number, next(csv.reader([text])) if is_csv else text.split("\t")))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise MemplanError(f"{path}: damaged gzip file: {error}") from None
    except OSError as error:
        raise MemplanError(f"{path}: cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise MemplanError(f"{path}: cannot be read as CSV: {error}") from None
    rows = _without_header(path, rows, problems)
    if not rows and not problems:
        needs = "an id file needs names" if path.name in NAME_FILES else "every split needs at least one fact"
        raise MemplanError(f"{path}: empty; {needs}")
    return rows


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _without_header(path: Path, rows: list[Row], problems: list[str]) -> list[Row]:
    if not rows or path.name in NAME_FILES or not is_header(rows[0][1]):
        return rows
    number, columns = rows[0]
    for column, role in zip(columns, ("head", "relation", "tail"), strict=False):
        if column.strip().lower() not in _ROLES[role]:
            problems.append(
                f"{path}:{number}: the header's columns are {', '.join(columns)}; expected head, relation, tail, time"
            )
            break
    return rows[1:]


def is_header(columns: list[str]) -> bool:
    """Return whether the columns are names of columns: four or five, each a known one, the last a time's.

    So a graph may have an entity "source" or "t" without losing its first fact: no fact is at the time "time".
    """
    names = [column.strip().lower() for column in columns]
    known = set().union(*_ROLES.values())
    return len(names) in (4, 5) and all(name in known for name in names) and names[-1] in _ROLES["time"]
