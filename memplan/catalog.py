"""What is known beforehand of datasets, each number with where it is from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from memplan.errors import unknown_name
from memplan.workload import Shape


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset's shape, as published or as counted."""

    name: str
    shape: Shape
    n_valid: int
    n_test: int
    source: str
    how_to_get: str = ""
    no_time: bool = False
    """The graph has facts without time, at one extra timestamp (the last)."""


def _mmkb(folder: str, prefix: str) -> str:
    return (
        f"https://github.com/mniepert/mmkb, folder TemporalKGs/{folder}: {prefix}_train.txt, _valid.txt and _test.txt, "
        "renamed train, valid and test"
    )


_GARCIA_DURAN = "García-Durán, Dumančić, Niepert, EMNLP 2018"

DEMO = DatasetEntry(
    "demo",
    Shape(n_entities=500, n_relations=8, n_timestamps=48, n_facts=20_000),
    n_valid=2_500,
    n_test=2_500,
    source="generated, the same graph for the same seed",
)

DATASETS: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DEMO,
        DatasetEntry(
            "ICEWS14",
            Shape(n_entities=7_128, n_relations=230, n_timestamps=365, n_facts=72_826),
            n_valid=8_941,
            n_test=8_963,
            source=f"{_GARCIA_DURAN}; counted over its three files",
            how_to_get=_mmkb("icews14", "icews_2014"),
        ),
        DatasetEntry(
            "ICEWS05-15",
            Shape(n_entities=10_488, n_relations=251, n_timestamps=4_017, n_facts=368_962),
            n_valid=46_275,
            n_test=46_092,
            source=f"{_GARCIA_DURAN}; entities counted in its entity list",
            how_to_get=_mmkb("icews05-15", "icews_2005-2015"),
        ),
        DatasetEntry(
            "YAGO15K",
            Shape(n_entities=15_403, n_relations=34, n_timestamps=198, n_facts=110_441),
            n_valid=13_815,
            n_test=13_800,
            # The trainer counts relation and occursSince/occursUntil as one relation, as tkbc does, so the real files
            # give more than the 34 published ones: with --data-dir they are counted.
            source=f"{_GARCIA_DURAN}, as published",
            how_to_get=_mmkb("yago15k", "yago15k"),
            no_time=True,
        ),
    )
}


def find_dataset(name: str) -> DatasetEntry:
    """Return the catalog's entry for ``name``, whatever its case.

    Raises:
        UsageError: there is none; the message lists the nearest names.
    """
    for known, entry in DATASETS.items():
        if known.lower() == name.lower():
            return entry
    raise unknown_name("dataset", name, DATASETS)


def is_folder(dataset: str) -> bool:
    """Return whether ``--dataset`` names a folder rather than an entry of the catalog."""
    known = {name.lower() for name in DATASETS}
    try:
        return dataset.lower() not in known and (os.sep in dataset or (dataset != "" and Path(dataset).is_dir()))
    except OSError:
        return False  # no name that a folder could have
