"""Where datasets lie on this machine. Imports nothing that reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from memplan.catalog.datasets import DatasetEntry

Split = Literal["train", "valid", "test"]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
"""A dataset's parts, and the names of their files."""

ENDINGS = ("", ".txt", ".tsv", ".csv", ".gz", ".txt.gz", ".tsv.gz", ".csv.gz")
"""What may follow a split's name."""


def data_folder(data_dir: Path | None) -> Path:
    """Return where datasets lie: ``data_dir``, else ``$TKBC_DATA``, else the user's data directory."""
    if data_dir is not None:
        return data_dir
    from_environment = os.environ.get("TKBC_DATA")
    if from_environment:
        return Path(from_environment)
    import platformdirs

    return Path(platformdirs.user_data_dir("tkbc"))


def split_files(folder: Path) -> dict[Split, Path]:
    """Return the file of each split that ``folder`` has; of several the plain name, then the first of ``ENDINGS``."""
    found: dict[Split, Path] = {}
    for split in SPLITS:
        paths = (folder / f"{split}{ending}" for ending in ENDINGS)
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[split] = path
    return found


def missing_files(folder: Path) -> list[str]:
    """Return the splits of which ``folder`` has no file."""
    found = split_files(folder)
    return [name for name in SPLITS if name not in found]


def find_folder(entry: DatasetEntry, data_dir: Path | None) -> Path | None:
    """Return the folder with the entry's three files, in the data folder or a folder of its name there, or None."""
    root = data_folder(data_dir)
    names = (entry.name, entry.name.lower())
    candidates = [root / name for name in names]
    if data_dir is not None and root.name.lower() == entry.name.lower():
        candidates.insert(0, root)
    return next((folder for folder in candidates if folder.is_dir() and not missing_files(folder)), None)
