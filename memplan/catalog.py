"""What is known beforehand: datasets, GPUs and recipes, each number with where it is from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memplan.errors import unknown_name
from memplan.workload import ModelName, Shape

GIB = 2**30


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


@dataclass(frozen=True)
class Gpu:
    """A GPU's memory and rates, as its maker states them."""

    name: str
    memory_bytes: int
    flops_per_second: float
    """fp32 outside tensor cores."""
    bytes_per_second: float
    source: str


def _gpu(name: str, memory_gib: int, tflops: float, gb_per_second: float, source: str) -> Gpu:
    return Gpu(name, memory_gib * GIB, tflops * 1e12, gb_per_second * 1e9, source)


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("GTX 1060", 6, 4.4, 192, "NVIDIA GeForce GTX 1060 specifications"),
        _gpu("GTX 1080 Ti", 11, 11.3, 484, "NVIDIA GeForce GTX 1080 Ti specifications"),
        _gpu("GTX 1650", 4, 3.0, 128, "NVIDIA GeForce GTX 1650 specifications"),
        _gpu("RTX 2060", 6, 6.5, 336, "NVIDIA GeForce RTX 2060 specifications"),
        _gpu("RTX 3060", 12, 12.7, 360, "NVIDIA GeForce RTX 3060 specifications"),
        _gpu("RTX 3090", 24, 35.6, 936, "NVIDIA Ampere GA102 whitepaper"),
        _gpu("RTX 4090", 24, 82.6, 1008, "NVIDIA Ada whitepaper"),
        _gpu("P100", 16, 9.3, 732, "NVIDIA Tesla P100 PCIe datasheet"),
        _gpu("V100", 16, 15.7, 900, "NVIDIA V100 SXM2 datasheet"),
        _gpu("T4", 16, 8.1, 320, "NVIDIA T4 datasheet"),
        _gpu("A10", 24, 31.2, 600, "NVIDIA A10 datasheet"),
        _gpu("L4", 24, 30.3, 300, "NVIDIA L4 datasheet"),
        _gpu("A100 40GB", 40, 19.5, 1555, "NVIDIA A100 datasheet"),
        _gpu("A100 80GB", 80, 19.5, 2039, "NVIDIA A100 SXM datasheet"),
        _gpu("H100", 80, 67.0, 3350, "NVIDIA H100 SXM datasheet"),
    )
}


@dataclass(frozen=True)
class Recipe:
    """Training settings for a model, and where they are from. ``settings`` are fields of the workload."""

    source: str
    settings: dict[str, Any]
    learning_rate: float
    max_epochs: int


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


def find_gpu(name: str) -> Gpu:
    """Return the catalog's GPU for ``name``: case, blanks, dashes and a leading NVIDIA, GeForce or Tesla do not matter.

    Raises:
        UsageError: there is none; the message lists the nearest names.
    """

    def key(text: str) -> str:
        words = text.lower().replace("-", " ").split()
        return "".join(word for word in words if word not in ("nvidia", "geforce", "tesla"))

    for gpu in GPUS.values():
        if key(gpu.name) == key(name):
            return gpu
    raise unknown_name("device", name, [*GPUS, "cpu", "cuda"])


def find_recipe(dataset: str | None, model: ModelName) -> Recipe:
    """Return the recipe for ``model`` on ``dataset``: its own where there is one, else the model's general recipe."""
    if dataset == DEMO.name:
        return _DEMO_RECIPES[model]
    return _RECIPES[model]


_RECIPES: dict[ModelName, Recipe] = {
    "TNTPairRE": Recipe(
        "ICEWS14, measured over 5 epochs: test MRR 0.446",
        {"rank": 100, "batch_size": 1000, "optimizer": "adagrad", "emb_reg": 1e-3, "time_reg": 1e-2, "unit_norm": True},
        learning_rate=0.1,
        max_epochs=30,
    ),
    "TNTComplEx": Recipe(
        "tkbc's README for ICEWS14, Lacroix et al., ICLR 2020",
        {"rank": 156, "batch_size": 1000, "optimizer": "adagrad", "emb_reg": 1e-2, "time_reg": 1e-2},
        learning_rate=0.1,
        max_epochs=50,
    ),
}
_DEMO_RECIPES: dict[ModelName, Recipe] = {
    "TNTPairRE": Recipe(
        "the demo graph, measured over 30 epochs: test MRR 0.34",
        {"rank": 100, "batch_size": 500, "optimizer": "adagrad", "emb_reg": 1e-3, "time_reg": 1e-2, "unit_norm": True},
        learning_rate=0.1,
        max_epochs=30,
    ),
    "TNTComplEx": Recipe(
        "the demo graph, measured over 15 to 20 epochs: test MRR 0.42",
        {"rank": 50, "batch_size": 500, "optimizer": "adagrad", "emb_reg": 1e-2, "time_reg": 1e-2},
        learning_rate=0.1,
        max_epochs=30,
    ),
}
