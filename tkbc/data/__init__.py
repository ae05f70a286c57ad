"""Data: raw folders, ids, the filter index and the generated demo graph. Imports numpy, not torch."""

from __future__ import annotations

from pathlib import Path

from memplan.catalog.datasets import DEMO, find_dataset, is_folder
from memplan.catalog.downloads import remote_files
from memplan.catalog.folders import data_folder, find_folder
from memplan.errors import MemplanError
from tkbc.data.cache import load_folder
from tkbc.data.dataset import Dataset, FilterIndex, with_reciprocals
from tkbc.data.demo import generate_demo

__all__ = ["Dataset", "FilterIndex", "load_dataset", "with_reciprocals"]


def load_dataset(dataset: str, data_dir: Path | None = None, *, seed: int = 0) -> Dataset:
    """Return the graph that ``--dataset`` names: ``demo``, a folder, or a catalog name looked for in the data folder.

    Raises:
        UsageError: no such name in the catalog.
        MemplanError: it is not on the disk (says where it was looked for and how to get it), or a file is broken.
    """
    if is_folder(dataset):
        folder = Path(dataset)
        if not folder.is_dir():
            what = "a file, not a folder" if folder.exists() else "no such folder"
            raise MemplanError(
                f"{folder}: {what}; --dataset takes a catalog name or a folder with train, valid and test"
            )
        return load_folder(folder, str(folder.resolve()))
    entry = find_dataset(dataset)
    if entry is DEMO:
        return generate_demo(seed)
    folder_found = find_folder(entry, data_dir)
    if folder_found is None:
        expected = data_folder(data_dir) / entry.name
        fetch = f"Fetch them with memplan datasets download {entry.name}; they" if remote_files(entry) else "They"
        raise MemplanError(
            f"{entry.name} is not on this machine: looked in {expected} for train, valid and test. {fetch} are at "
            f"{entry.how_to_get}. Or name the folder above theirs with --data-dir or TKBC_DATA"
        )
    return load_folder(folder_found, entry.name)
