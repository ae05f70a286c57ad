"""Where each dataset's files are on the web, mirror after mirror, and how to know them."""

from __future__ import annotations

from dataclasses import dataclass

from memplan.catalog.datasets import DatasetEntry


@dataclass(frozen=True)
class RemoteFile:
    """One split's file: plain text, no archive."""

    split: str
    urls: tuple[str, ...]
    """Mirrors, the first to be tried first."""
    n_lines: int
    """Facts, as the catalog counts them: what a file of unknown checksum is known by."""
    sha256: str | None = None
    """None where nobody has vouched for the original's bytes yet."""


_GITHUB = "https://raw.githubusercontent.com/mniepert/mmkb/master/TemporalKGs"
_JSDELIVR = "https://cdn.jsdelivr.net/gh/mniepert/mmkb@master/TemporalKGs"

_FOLDERS = {
    "ICEWS14": ("icews14", "icews_2014"),
    "ICEWS05-15": ("icews05-15", "icews_2005-2015"),
    "YAGO15K": ("yago15k", "yago15k"),
}
_SHA256 = {
    ("ICEWS14", "valid"): "23dfa5cd6f3bb5421efcc30fc03bed0e8de4c2cf251d1765ff722d6f8b15dbe3",
    ("ICEWS14", "test"): "50d53602409a3dbaca2f13d9c7e30bf7311d8c1868fac890dc0c2836118b4cb4",
}
"""Of the files that other copies were compared with byte for byte."""


def remote_files(entry: DatasetEntry) -> tuple[RemoteFile, ...]:
    """Return the files of the catalog's ``entry``: train, valid and test; none where it is not on the web."""
    if entry.name not in _FOLDERS:
        return ()
    folder, prefix = _FOLDERS[entry.name]
    counts = {"train": entry.shape.n_facts, "valid": entry.n_valid, "test": entry.n_test}
    return tuple(
        RemoteFile(
            split,
            tuple(f"{root}/{folder}/{prefix}_{split}.txt" for root in (_GITHUB, _JSDELIVR)),
            n_lines,
            _SHA256.get((entry.name, split)),
        )
        for split, n_lines in counts.items()
        if n_lines is not None
    )
