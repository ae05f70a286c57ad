"""A step of several processes: one process's result up to rounding, the same in each to the bit, bytes as recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from memplan.plan import Bytes
from memplan.prediction.estimate import estimate
from memplan.workload import SCORINGS, TRAITS, Shape, Workload, build_workload
from tests.support.processes import checked, here, here_as, in_processes
from tkbc.models.base import gradient
from tkbc.ranking.evaluation import count_rivals
from tkbc.sharded import Processes
from tkbc.step.trainer import Trainer
from tkbc.verify import at_one_time, index_of, measure, random_facts, random_workloads

Taken = dict[str, npt.NDArray[np.float32]]

SHAPE = Shape(n_entities=37, n_relations=3, n_timestamps=5, n_facts=60)
FEWER = SHAPE.model_copy(update={"n_entities": 3})
INTERVALS = SHAPE.model_copy(update={"intervals": True})
STEPS = 20


def workload(shape: Shape = SHAPE, **settings: Any) -> Workload:
    sizes = {"rank": 6, "batch_size": 50, "micro_batch_size": 25, "emb_reg": 0.1, "eval_batch_size": 32}
    is_temporal = TRAITS[settings["model"]].is_temporal
    return build_workload(shape, **{**sizes, "time_reg": 0.1 if is_temporal else 0.0, **settings})


def cases(**mesh: int) -> list[Workload]:
    """Fewer entities than processes, times predicted, chunks; in two shards every model, scoring and score too."""
    few = [workload(FEWER, model=model, **mesh) for model in ("TNTPairRE", "TNTComplEx")]
    dated = workload(INTERVALS, model="TNTPairRE", **mesh)
    in_chunks = workload(model="TNTComplEx", scoring="chunked", chunk_size=8, **mesh)
    if mesh != {"shards": 2, "replicas": 1}:
        return [*few, dated, in_chunks]
    every = [workload(model=model, scoring=scoring, **mesh) for model in TRAITS for scoring in SCORINGS]
    chunks = [workload(model="TNTPairRE", scoring=scoring, chunk_size=8, **mesh) for scoring in ("fused", "chunked")]
    scores = [workload(model="TNTPairRE", score=score, unit_norm=True, **mesh) for score in ("l2", "dot")]
    return [*every, *chunks, *scores, *few, dated, in_chunks]


def train(workload: Workload, processes: Processes) -> Taken:
    """Losses, gradients after the first step, tables after 20, and ranks of all facts; of the entities the own rows."""
    facts = random_facts(workload, workload.n_facts)
    trainer = Trainer(workload, facts, learning_rate=0.05, processes=processes)
    found: Taken = {}
    losses: list[list[float]] = []
    while trainer.steps < STEPS:
        order = trainer.shuffled(trainer.steps)
        trainer.totals.zero_()
        for start in range(0, len(order), workload.batch_size):
            trainer.step(order[start : start + workload.batch_size])
            if trainer.steps == 1:
                tables = trainer.model.named_parameters()
                found |= {f"gradient of {name}": gradient(table).numpy().copy() for name, table in tables}
        losses.append(trainer.totals[0].tolist())
    found |= {name: table.numpy().copy() for name, table in trainer.model.named_parameters()}
    found["losses"] = np.array(losses)
    at_once, index = at_one_time(facts), index_of(facts, workload.n_relations)
    higher, ties = count_rivals(trainer.model, trainer.score, at_once, index, workload)
    found["rivals"] = np.stack([higher, ties])
    return found


def whole(parts: list[Taken], shards: int, name: str) -> npt.NDArray[np.float32]:
    """A table of which each process has rows, or one that all have, equal to the bit."""
    if name in ("entity", "gradient of entity"):
        for process, part in enumerate(parts):
            assert np.array_equal(part[name], parts[process % shards][name]), name  # replicas
        return np.concatenate([part[name] for part in parts[:shards]])
    for part in parts[1:]:
        assert np.array_equal(part[name], parts[0][name]), name
    return parts[0][name]


def measured_cases(**mesh: int) -> list[Workload]:
    return [
        build_workload(one.shape, **{**one.model_dump(exclude=set(Shape.model_fields)), **mesh})
        for one in random_workloads(28, seed=5)
        if one.negatives is None and one.micro_batch_size * mesh["replicas"] <= one.batch_size
    ]


def work(trained: list[Workload], measured: list[Workload]) -> tuple[list[Taken], list[dict[str, Bytes]]]:
    """Train each of the first, the last of them twice, and measure each of the second."""
    return [train(here_as(one), here(one)) for one in (*trained, trained[-1])], [
        measure(here_as(one), here(one)) for one in measured
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "replicas"), [(2, 1), (3, 1), (4, 1), (2, 2), (1, 2)])
def test_several_processes_do_what_one_does_with_the_bytes_that_are_recorded(shards: int, replicas: int) -> None:
    mesh = {"shards": shards, "replicas": replicas}
    trained, measured = cases(**mesh), measured_cases(**mesh)
    found = checked(in_processes(shards * replicas, work, trained, measured))
    for at, one in enumerate(trained):
        assert_same(one, [taken[at] for taken, _ in found])
    for taken, _ in found:
        assert all(np.array_equal(taken[-1][name], taken[-2][name]) for name in taken[-1]), "twice the same bits"
    for process, (_, peaks) in enumerate(found):
        for one, of_one in zip(measured, peaks, strict=True):
            of_process = one.model_copy(update={"process": process})
            recorded = {phase.name: phase.peak_bytes for phase in estimate(of_process).phases}
            assert {name: (recorded[name], of_one[name].requested_bytes) for name in of_one} == {
                name: (recorded[name], recorded[name]) for name in of_one
            }, of_process


def assert_same(one: Workload, parts: list[Taken]) -> None:
    """What each of the processes came to is what one comes to, up to rounding."""
    for name, expected in train(one.alone, Processes(one.alone)).items():
        mine = whole(parts, one.shards, name)
        if name == "rivals":  # entities as good as tied may change places
            assert np.abs(mine - expected).sum() <= 0.01 * expected.size, (one, name)
        elif name.startswith("gradient"):  # of the first step: nothing has added up yet
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-7, err_msg=f"{name} of {one}")
        else:
            np.testing.assert_allclose(mine, expected, rtol=2e-3, atol=2e-3, err_msg=f"{name} of {one}")
