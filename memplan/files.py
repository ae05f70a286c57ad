"""Writing so that what is said to be written is there after the power went: synced, and its name synced too."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are safe on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make the folder ``path`` where it is not there yet, and those above it, each with its name safe."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def replace_file(unfinished: Path, path: Path) -> None:
    """Give the file ``unfinished`` the name ``path``: a reader finds the old content or the new, whenever it looks."""
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)
