"""What is measured on the stand-in: random workloads, small ones and real datasets', for the device at hand."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any, get_args

from memplan.catalog.datasets import find_dataset
from memplan.device.target import resolve
from memplan.errors import UsageError
from memplan.workload import PRECISIONS, TRAITS, OptimizerName, Shape, Workload, build_workload
from memplan.workload.rules import available
from tkbc.verify import random_workloads

REAL_SHAPES = ("ICEWS14", "ICEWS05-15", "YAGO15K", "YAGO11k", "Wikidata12k", "GDELT")


def of_this_device() -> dict[str, Any]:
    """Return the settings of a workload that the device decides, as a plan for it would have them."""
    target = resolve("cuda", None)
    return {"device": "cuda", "workspace_bytes": target.workspace_bytes}


def step_workloads(count: int, seed: int, large_share: float = 0.25) -> Iterator[Workload]:
    """Yield workloads for measured steps: small odd ones, and a share of ICEWS14's shape at the sizes of real runs."""
    draw = random.Random(seed)
    n_large = round(count * large_share)
    is_large = [True] * n_large + [False] * (count - n_large)
    draw.shuffle(is_large)
    small = random_workloads(count, seed, "cuda", of_this_device()["workspace_bytes"])
    for large in is_large:
        if large:
            yield _draw(draw, find_dataset("ICEWS14").shape, batches=(256, 500, 1000), ranks=(50, 64, 100, 200))
        else:
            yield next(small)


def ledger_workloads(count: int, seed: int) -> Iterator[Workload]:
    """Yield workloads for replayed ledgers, half of them of real datasets' shapes; nothing of them is computed."""
    draw = random.Random(seed)
    made = 0
    while made < count:
        shape = find_dataset(draw.choice(REAL_SHAPES)).shape if draw.random() < 0.5 else _random_shape(draw)
        batches = (1, 7, 128, 256, 1000, 1024, 4096, draw.randint(1, 3000))
        ranks = (3, 16, 50, 64, 100, 200, 333, 600, draw.randint(3, 600))
        try:
            workload = _draw(draw, shape, batches=batches, ranks=ranks)
        except UsageError as error:  # a size that memplan refuses
            print(f"drawn anew: {error}", file=sys.stderr)
            continue
        made += 1
        yield workload


def _random_shape(draw: random.Random) -> Shape:
    return Shape(
        n_entities=draw.choice([2, 97, 720, 3000, 20_000, 100_000]),
        n_relations=draw.choice([1, 4, 300]),
        n_timestamps=draw.choice([1, 3, 30, 365, 4000]),
        n_facts=draw.choice([9, 300, 5000, 70_000]),
        intervals=draw.random() < 0.3,
    )


def _draw(draw: random.Random, shape: Shape, *, batches: tuple[int, ...], ranks: tuple[int, ...]) -> Workload:
    """Return a workload of that shape, everything else drawn."""
    model, traits = draw.choice(list(TRAITS.items()))
    predicts_time = shape.intervals and traits.is_temporal
    score = draw.choice([score for score in traits.scores if traits.is_complex or score != "dot" or not predicts_time])
    scoring = draw.choice(available(score, "cuda"))
    batch = min(2 * shape.n_facts, draw.choice(batches))
    optimizer = draw.choice(get_args(OptimizerName))
    negatives = None
    if optimizer != "adam" and draw.random() < 0.3:
        negatives = min(shape.n_entities, draw.choice([2, 500, 4096]))
    chunk, eval_chunk = (
        n if scoring == "materialized" else min(n, draw.choice([64, 512, 1440, 5000, n]))
        for n in (negatives or shape.n_entities, shape.n_entities)
    )
    return build_workload(
        shape,
        model=model,
        rank=draw.choice(ranks),
        score=score,
        scoring=scoring,
        optimizer=optimizer,
        negatives=negatives,
        precision=draw.choice(PRECISIONS),
        batch_size=batch,
        micro_batch_size=draw.randint(1, batch) if draw.random() < 0.5 else batch,
        chunk_size=chunk,
        eval_batch_size=draw.choice([1, 64, 500, 1000, 1024]),
        eval_chunk_size=eval_chunk,
        emb_reg=draw.choice([0, 0.1]),
        time_reg=draw.choice([0, 0.1]) if traits.is_temporal else 0,
        n3_parts=not traits.is_complex and draw.random() < 0.5,
        unit_norm=not traits.is_complex and draw.random() < 0.5,
        rules=draw.random() < 0.5,
        **of_this_device(),
    )
