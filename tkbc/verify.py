"""Predicted against measured memory on this machine, over random workloads: what ``memplan verify`` runs."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch

from memplan.plan import Bytes, MemoryCheck
from memplan.prediction.estimate import estimate
from memplan.workload import (
    DEFAULT_WORKSPACE_BYTES,
    PRECISIONS,
    TRAITS,
    DeviceType,
    OptimizerName,
    Shape,
    Workload,
    build_workload,
)
from memplan.workload.rules import available
from tkbc.data.dataset import at_one_time, index_of
from tkbc.data.demo import random_facts
from tkbc.measure.meter import make_meter, start_clean
from tkbc.ranking.evaluation import evaluate
from tkbc.ranking.rules import N_FEATURES, Rules
from tkbc.ranking.weights import FittedRules, RuleWeights
from tkbc.rehearsal import recorded_steps
from tkbc.runs.checkpoint import write_tensors
from tkbc.sharded import Processes
from tkbc.step.finite import check_step
from tkbc.step.threads import score_threads
from tkbc.step.trainer import Trainer

MOST_CHUNKS = 60
"""A walk over thousands of chunks measures nothing new and takes seconds."""


ANY_WEIGHTS = RuleWeights(scale=1.0, weights=(0.1,) * N_FEATURES, n_queries=1, loss=1.0, loss_alone=1.0)


class Verified(NamedTuple):
    """A workload with what was predicted and what was measured."""

    workload: Workload
    check: MemoryCheck


def measure(workload: Workload, processes: Processes | None = None) -> dict[str, Bytes]:
    """Set up, take the steps that a ledger records and rank one batch of queries, on random facts.

    Returns each phase's measured peak. ``processes``: the one that measures, of several which all do so.
    """
    facts = random_facts(workload, workload.n_facts)
    start_clean(workload.device)
    meter = make_meter(workload.device)
    with meter.recording():
        trainer = Trainer(workload, facts, learning_rate=0.1, processes=processes, phase=meter.phase)
        order = trainer.shuffled(0)
        steps = recorded_steps(workload)
        for batch in torch.split(order[: sum(steps)], steps):
            trainer.step(batch, checking=lambda: check_step(trainer, "verification", "seen here"))
        del batch
    del order
    index = index_of(facts, workload.n_relations)
    queries = workload.eval_batch_size * workload.replicas  # a whole batch for each replica
    queried = np.resize(at_one_time(facts), (queries // 2 + 1, 4))
    fitted = FittedRules(Rules.mine(facts, workload.shape), ANY_WEIGHTS) if workload.rules else None
    with meter.recording(trainer.persistent_tensors()):
        around = meter.phase("evaluation")
        evaluate(trainer.model, trainer.score, queried, index, workload, around_first_batch=around, fitted=fitted)
    with (
        tempfile.TemporaryDirectory() as folder,
        meter.recording(trainer.persistent_tensors()),
        meter.phase("checkpoint"),
    ):
        write_tensors(Path(folder), trainer)
    return meter.peaks


def verify(workload: Workload) -> Verified:
    """Return the check of one workload."""
    predicted = estimate(workload)
    with score_threads(workload):
        measured = measure(workload)
    check = MemoryCheck.compare(workload.device, predicted.phases, predicted.peak, measured)
    return Verified(workload, check)


def _random_shape(draw: random.Random) -> Shape:
    return Shape(
        n_entities=draw.choice([2, 5, 97, 719, 720, 721, 1441, 3000]),
        n_relations=draw.choice([1, 4]),
        n_timestamps=draw.choice([1, 2, 3, 30, 130]),
        n_facts=draw.choice([1, 9, 300]),
    )


def random_workloads(
    count: int, seed: int, device: DeviceType = "cpu", workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
) -> Iterator[Workload]:
    """Yield ``count`` small workloads: odd sizes, ragged chunks and micro-batches, regularizers on and off.

    The same seed gives the same workloads. ``workspace_bytes``: of cuBLAS on the device.
    """
    draw = random.Random(seed)
    for _ in range(count):
        shape = _random_shape(draw)
        model, traits = draw.choice(list(TRAITS.items()))
        score = draw.choice(traits.scores)
        if draw.random() < 0.4 and (traits.is_complex or not traits.is_temporal or score != "dot"):
            shape = shape.model_copy(update={"intervals": True})
        scoring = draw.choice(available(score, device))
        batch = draw.randint(1, 2 * shape.n_facts)
        optimizer = draw.choice(get_args(OptimizerName))
        negatives = draw.randint(2, shape.n_entities) if optimizer != "adam" and draw.random() < 0.4 else None
        chunk, eval_chunk = (
            n if scoring == "materialized" else draw.randint(max(2, n // MOST_CHUNKS), n)
            for n in (negatives or shape.n_entities, shape.n_entities)
        )
        yield build_workload(
            shape,
            model=model,
            rank=draw.choice([1, 2, 7, 40]),
            score=score,
            scoring=scoring,
            optimizer=optimizer,
            negatives=negatives,
            precision=draw.choice(PRECISIONS),
            batch_size=batch,
            micro_batch_size=draw.randint(1, batch),
            chunk_size=chunk,
            eval_batch_size=draw.randint(1, 2 * shape.n_facts),
            eval_chunk_size=eval_chunk,
            emb_reg=draw.choice([0, 0.1]),
            time_reg=draw.choice([0, 0.1]) if traits.is_temporal else 0,
            no_time_emb=draw.random() < 0.3,
            n3_parts=not traits.is_complex and draw.random() < 0.5,
            unit_norm=not traits.is_complex and draw.random() < 0.7,
            rules=draw.random() < 0.5,
            device=device,
            workspace_bytes=workspace_bytes,
            threads=draw.choice([1, 2, 3]),
        )
