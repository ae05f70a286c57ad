"""The parsed cache: a folder read once is kept as arrays, keyed by the content of its files."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from memplan.catalog.folders import SPLITS, missing_files
from memplan.errors import MemplanError
from tkbc.data.dataset import Dataset
from tkbc.data.reading import read_folder
from tkbc.data.reading_intervals import NAME_FILES

_FORMAT = 3
_NAMES = ("entities", "relations", "timestamps")


def load_folder(folder: Path, dataset: str, cache_folder: Path | None = None) -> Dataset:
    """Return the graph in ``folder``, from the cache where its files were read before with the same content.

    ``dataset``: what the graph shall be called. ``cache_folder``: the user's cache directory where None. A cache that
    cannot be read or written is done without.
    """
    if missing_files(folder):
        return read_folder(folder, dataset)  # which says what is missing
    if cache_folder is None:
        cache_folder = Path(platformdirs.user_cache_dir("tkbc"))
    digest = hashlib.sha256(f"format {_FORMAT}".encode())
    for name in (*SPLITS, *NAME_FILES):
        path = folder / name
        if name in NAME_FILES and not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise MemplanError(f"{path}: cannot be read: {error.strerror}") from None
    path = cache_folder / f"{digest.hexdigest()[:32]}.npz"
    cached = _read(path, dataset)
    if cached is None:
        cached = read_folder(folder, dataset)
        _write(path, cached)
    return cached


def _read(path: Path, dataset: str) -> Dataset | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [tuple(file[key].tobytes().decode().split("\n")) for key in _NAMES]
            splits = [file[split] for split in SPLITS]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None
    for facts in splits:
        facts.setflags(write=False)
    return Dataset(dataset, *names, *splits)  # type: ignore[arg-type]


def _write(path: Path, graph: Dataset) -> None:
    # Names contain neither tab nor line break (the files are split at both), so that a line break may join them.
    arrays: dict[str, npt.NDArray[Any]] = {
        key: np.frombuffer("\n".join(getattr(graph, key)).encode(), dtype=np.uint8) for key in _NAMES
    }
    arrays |= {split: graph.split(split) for split in SPLITS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            unfinished = Path(scratch) / path.name
            np.savez(unfinished, allow_pickle=False, **arrays)
            unfinished.replace(path)
    except OSError:
        return  # the cache only saves time
