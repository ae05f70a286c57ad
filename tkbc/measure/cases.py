"""The steps that ``memplan calibrate`` times on a CPU: few and short, yet every kind of work is in some of them."""

from __future__ import annotations

from typing import Any

from memplan.workload import Shape, Workload, build_workload
from memplan.workload.rules import obstacle

Case = tuple[dict[str, Any], int, list[tuple[int, int]]]
"""Settings, entities, and layouts: micro-batch and chunk (0: all entities)."""

ALL = 0
REGULAR: dict[str, Any] = {"emb_reg": 0.01, "time_reg": 0.01}
CASES: list[Case] = [
    (
        {"model": "TNTPairRE", "rank": 100, "batch_size": 256, "n3_parts": True, "unit_norm": True, **REGULAR},
        3000,
        [(256, ALL), (64, ALL), (7, ALL), (256, 512), (64, 1024), (32, 128)],
    ),
    (
        {"model": "TPairRE", "rank": 24, "batch_size": 800, "optimizer": "adam", "precision": "bf16"},
        6000,
        [(800, ALL), (100, ALL), (800, 256), (25, 2048)],
    ),
    ({"model": "TNTPairRE", "rank": 256, "batch_size": 64, "intervals": True}, 2000, [(64, ALL), (16, 512), (2, ALL)]),
    (
        {"model": "TNTComplEx", "rank": 150, "batch_size": 250, **REGULAR},
        8000,
        [(250, ALL), (63, ALL), (8, 512), (250, 256)],
    ),
    (
        {"model": "ComplEx", "rank": 16, "batch_size": 1000, "optimizer": "adam"},
        12_000,
        [(1000, ALL), (125, ALL), (1000, 512), (32, 4096)],
    ),
    (
        {"model": "TComplEx", "rank": 64, "batch_size": 100, "scoring": "chunked", "precision": "fp16"},
        4000,
        [(100, ALL), (25, 1024), (3, ALL)],
    ),
    (
        {"model": "TPairRE", "score": "l2", "rank": 64, "batch_size": 256, "optimizer": "sgd"},
        4000,
        [(256, ALL), (32, ALL), (256, 256), (8, 1024)],
    ),
    (
        {"model": "PairRE", "scoring": "chunked", "rank": 32, "batch_size": 64},
        1500,
        [(64, ALL), (16, ALL), (4, ALL), (64, 128), (1, 512)],
    ),
    ({"model": "PairRE", "score": "l2", "scoring": "chunked", "rank": 64, "batch_size": 50}, 3000,
     [(50, ALL), (6, 512)]),
    *(
        ({"model": "PairRE", "score": score, "scoring": "chunked", "rank": 40, "batch_size": 40, "precision": half},
         1000, [(40, ALL), (5, 512)])
        for score in ("l1", "l2")
        for half in ("fp16", "bf16")
    ),
    ({"model": "PairRE", "scoring": "materialized", "rank": 40, "batch_size": 100}, 1000,
     [(100, ALL), (25, ALL), (3, ALL)]),
]  # fmt: skip


def cases(threads: int) -> list[list[Workload]]:
    """Return the layouts to time, a list for each workload that they share; without numba, none of its kernel."""
    found = []
    for settings, n_entities, layouts in CASES:
        given = {"threads": threads, "scoring": "fused", **settings}
        intervals = given.pop("intervals", False)
        shape = Shape(
            n_entities=n_entities, n_relations=50, n_timestamps=200, n_facts=given["batch_size"], intervals=intervals
        )
        workloads = [
            build_workload(shape, **given, micro_batch_size=batch, chunk_size=chunk or n_entities)
            for batch, chunk in layouts
        ]
        if obstacle(workloads[0].score, workloads[0].scoring, "cpu") is None:
            found.append(workloads)
    return found
