"""Where datasets lie on this machine. Imports nothing that reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from memplan.catalog.datasets import DatasetEntry

Split = Literal["train", "valid", "test"]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
"""A dataset's parts, and the names of their files."""


def data_folder(data_dir: Path | None) -> Path:
    """Return where datasets lie: ``data_dir``, else ``$TKBC_DATA``, else the user's data directory."""
    if data_dir is not None:
        return data_dir
    from_environment = os.environ.get("TKBC_DATA")
    if from_environment:
        return Path(from_environment)
    import platformdirs

    return Path(platformdirs.user_data_dir("tkbc"))


def missing_files(folder: Path) -> list[str]:
    """Return the split files that ``folder`` lacks."""
    return [name for name in SPLITS if not (folder / name).is_file()]


def find_folder(entry: DatasetEntry, data_dir: Path | None) -> Path | None:
    """Return the folder with the entry's three files, in the data folder or a folder of its name there, or None."""
    root = data_folder(data_dir)
    names = (entry.name, entry.name.lower())
    candidates = [root / name for name in names]
    if data_dir is not None and root.name.lower() == entry.name.lower():
        candidates.insert(0, root)
    return next((folder for folder in candidates if folder.is_dir() and not missing_files(folder)), None)
