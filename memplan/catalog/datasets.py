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
    n_valid: int | None
    n_test: int | None
    """None where no source at hand says."""
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
_HYTE = "Dasgupta, Ray, Talukdar (HyTE), EMNLP 2018"
_FROM_HYTE = (
    "https://github.com/malllabiisc/HyTE, whose README links the archive: train.txt, valid.txt and test.txt, renamed "
    "train, valid and test, and beside them entity2id.txt and relation2id.txt"
)

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
        DatasetEntry(
            "YAGO11k",
            Shape(n_entities=10_622, n_relations=10, n_timestamps=381, n_facts=16_406, intervals=True),
            n_valid=2_050,
            n_test=2_051,
            source=f"{_HYTE}; counted over its three files, timestamps as docs/data.md reads them",
            how_to_get=_FROM_HYTE,
        ),
        DatasetEntry(
            "Wikidata12k",
            # 1709 to 2018: no more timestamps than the span has years; the files may name fewer.
            Shape(n_entities=12_554, n_relations=24, n_timestamps=310, n_facts=32_497, intervals=True),
            n_valid=4_062,
            n_test=4_062,
            source=f"{_HYTE}, as published; timestamps: the years of its span, an upper bound",
            how_to_get=_FROM_HYTE,
        ),
        DatasetEntry(
            "GDELT",
            Shape(n_entities=500, n_relations=20, n_timestamps=366, n_facts=2_735_685),
            n_valid=341_961,
            n_test=341_961,
            source="Goel et al. (DE-SimplE), AAAI 2020, arXiv 1907.03143, as published",
            how_to_get="https://github.com/BorealisAI/de-simple, whose datasets/README.md describes it (its files are "
            "its authors' to give)",
        ),
        DatasetEntry(
            "Wikidata",
            Shape(n_entities=432_715, n_relations=407, n_timestamps=1_726, n_facts=7_224_361, intervals=True),
            n_valid=None,
            n_test=None,
            source="Lacroix et al., ICLR 2020, arXiv 2004.04926, by shape: no file, no table at hand",
            how_to_get="https://github.com/facebookresearch/tkbc, whose scripts/download_data.sh fetches its raw files",
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
