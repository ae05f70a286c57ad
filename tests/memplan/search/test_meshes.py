"""Plans for several devices: the mesh that is chosen, the budget of each process, and what is whole on every device."""

from __future__ import annotations

import contextlib
import tracemalloc
from math import inf
from typing import Any

import numpy as np
import pytest

from memplan.catalog.datasets import find_dataset
from memplan.device.links import Link
from memplan.device.target import NCCL_BYTES, Target, resolve
from memplan.errors import DoesNotFitError, UsageError
from memplan.prediction.estimate import estimate
from memplan.search.meshes import count_of, host_building_bytes, host_bytes, mesh_shapes, replicated_bytes
from memplan.search.planner import plan, plan_largest_rank, search_of
from memplan.workload import Shape, build_workload
from tests.conftest import random_graph
from tkbc.data.dataset import FilterIndex, index_of

MIB = 2**20
ICEWS14 = find_dataset("ICEWS14").shape
ASKED: dict[str, Any] = {"model": "TNTPairRE", "rank": 100, "batch_size": 1000, "threads": 1}


def cpu(n: int, budget_mib: float) -> Target:
    return resolve("cpu", f"{round(budget_mib * MIB)}B", str(n))


def gpus(devices: str) -> Target:
    return resolve(None, None, devices)


def test_every_mesh_multiplies_to_the_devices() -> None:
    assert mesh_shapes(12, None) == [(1, 12), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)]
    assert mesh_shapes(12, 3) == [(3, 4)]
    assert mesh_shapes(1, 1) == [(1, 1)]
    with pytest.raises(UsageError, match=r"--shards 5: does not divide the devices, which are 12; use one of 1, 2, 3"):
        mesh_shapes(12, 5)
    with pytest.raises(UsageError, match="--shards 2: there is one device"):
        mesh_shapes(1, 2)


@pytest.mark.parametrize(("n", "budget_mib"), [(4, 400), (4, 20), (6, 18.5)])
def test_the_mesh_is_the_best_of_all_that_fit(n: int, budget_mib: float) -> None:
    """Each mesh planned alone, by its shards: none that fits is faster than what is chosen among all."""
    target = cpu(n, budget_mib)
    alone = {}
    for shards, replicas in mesh_shapes(n, None):
        with contextlib.suppress(DoesNotFitError):
            alone[shards, replicas] = plan(ICEWS14, target, **ASKED, shards=shards)
    found = plan(ICEWS14, target, **ASKED)
    chosen = found.workload.shards, found.workload.replicas
    assert found.workload.n_processes == n
    assert found.workload == alone[chosen].workload
    assert found.seconds_per_epoch == min(one.seconds_per_epoch for one in alone.values())
    assert found.peak == estimate(found.workload).peak
    assert found.peak.device_bytes <= target.budget_bytes
    others = {(other.shards, other.replicas) for other in found.alternatives} - {chosen}
    assert others == set(mesh_shapes(n, None)) - {chosen}
    for other in found.alternatives:
        fits = (other.shards, other.replicas) in alone
        assert fits or other.device_bytes > target.budget_bytes


def test_a_table_too_large_for_one_is_divided() -> None:
    """300 MiB of table, gradient and Adagrad: whole it fits no replica of 200 MiB, in two parts it does."""
    shape = ICEWS14.model_copy(update={"n_entities": 262_144})
    found = plan(shape, cpu(4, 200), **ASKED)
    assert found.workload.shards >= 2
    with pytest.raises(DoesNotFitError, match="entity table, 262144 × 100"):
        plan(shape, cpu(4, 200), **ASKED, shards=1)
    with pytest.raises(DoesNotFitError, match=r"on each of 4 devices.*take more devices"):
        plan(shape, cpu(4, 20), **ASKED)


def test_the_first_process_takes_the_most() -> None:
    found = plan(ICEWS14, cpu(6, 100), **{**ASKED, "batch_size": 997}, shards=3).workload
    taken = [estimate(found.model_copy(update={"process": process})).peak.device_bytes for process in range(6)]
    assert found.process == 0
    assert taken[0] == max(taken)


def test_facts_are_whole_on_each_device_and_the_error_says_so() -> None:
    many = Shape(n_entities=1000, n_relations=10, n_timestamps=10, n_facts=500_000_000)
    with pytest.raises(DoesNotFitError, match=r"training examples, 4 × 1000000000.*it is whole on each"):
        plan(many, gpus("64xT4"), **ASKED)
    made = build_workload(ICEWS14, **ASKED, shards=8)
    data = [t.bytes for t in estimate(made).tensors_at_peak if t.name in ("training examples", "order of the examples")]
    assert replicated_bytes(made) == sum(data)


@pytest.mark.parametrize("intervals", [False, True])
def test_host_bytes_are_what_the_arrays_hold(intervals: bool) -> None:
    """Facts that are all different, so that no two share a key of the filter."""
    shape = Shape(n_entities=10**8, n_relations=3, n_timestamps=5, n_facts=2000, intervals=intervals)
    small = shape.model_copy(update={"n_entities": 10_000})
    facts = random_graph(small).train.copy()
    facts[:, 0], facts[:, 2] = np.arange(2000), np.arange(2000) + 2000
    index = index_of(facts, shape.n_relations)
    held = sum(array.nbytes for array in vars(index).values() if isinstance(array, np.ndarray))
    if isinstance(index, FilterIndex):
        held -= index.offsets.itemsize  # one more offset than keys
    assert host_bytes(build_workload(shape, model="TNTPairRE", batch_size=10)) == facts.nbytes + held


@pytest.mark.parametrize("intervals", [False, True])
def test_building_the_filter_takes_what_is_said(intervals: bool) -> None:
    shape = Shape(n_entities=10**6, n_relations=300, n_timestamps=365, n_facts=50_000, intervals=intervals)
    facts = random_graph(shape).train
    tracemalloc.start()
    index_of(facts, shape.n_relations)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = host_building_bytes(build_workload(shape, model="TNTPairRE", batch_size=10))
    assert facts.nbytes + peak == pytest.approx(said, rel=0.01)


def test_a_plan_says_what_its_mesh_takes_besides() -> None:
    several, one = plan(ICEWS14, gpus("4xT4"), **ASKED), plan(ICEWS14, gpus("1xT4"), **ASKED)
    assert several.mesh is not None
    assert (several.mesh.devices, several.mesh.shards * several.mesh.replicas) == (4, 4)
    assert several.mesh.nccl_bytes == NCCL_BYTES
    assert several.peak.device_bytes - several.peak.reserved_bytes == resolve("T4", None).outside_bytes + NCCL_BYTES
    assert one.mesh is not None
    assert (one.mesh.devices, one.mesh.nccl_bytes, one.mesh.sent_bytes_per_step) == (1, 0, 0)
    assert several.mesh.host_bytes == 4 * one.mesh.host_bytes
    assert plan(ICEWS14, resolve("T4", None), **ASKED).mesh is None


def test_ranks_are_searched_over_every_mesh() -> None:
    """What fits one process at rank 100 or less fits two at a higher one."""
    asked = {**ASKED, "rank": 1000}
    lowered = [plan(ICEWS14, cpu(n, 16), **asked, allow_rank_reduction=True).rank for n in (1, 2)]
    assert lowered[0] < lowered[1] < 1000
    auto = {name: value for name, value in ASKED.items() if name != "rank"}
    assert plan_largest_rank(ICEWS14, cpu(2, 16), 1e9, **auto).rank == lowered[1]


def test_a_mesh_that_a_setting_rules_out_is_left_out() -> None:
    """Micro-batches of 300 leave room for three replicas of a batch of 1000, not for six."""
    found = plan(ICEWS14, cpu(6, 400), **ASKED, micro_batch_size=300)
    assert {(other.shards, other.replicas) for other in found.alternatives} <= {(6, 1), (3, 2), (2, 3)}
    with pytest.raises(UsageError, match="larger than the 167 examples that each of 6 replicas takes"):
        plan(ICEWS14, cpu(6, 400), **ASKED, micro_batch_size=300, shards=1)


def test_the_link_decides_between_shards_and_replicas() -> None:
    """Where calls cost, replicas of a small batch in one micro-batch make the fewest; where bytes do, a large table
    stays where it is."""
    target = cpu(4, 4000)
    calls, n_bytes = (plan(ICEWS14, target._replace(link=link), **ASKED) for link in (Link(inf, 10.0), Link(1.0, 0.0)))
    assert calls.mesh is not None
    assert n_bytes.mesh is not None
    each = [plan(ICEWS14, target, **ASKED, shards=shards).mesh for shards in (1, 2, 4)]
    assert calls.mesh.collectives_per_step == min(mesh.collectives_per_step for mesh in each if mesh is not None)
    assert n_bytes.mesh.sent_bytes_per_step == min(mesh.sent_bytes_per_step for mesh in each if mesh is not None)


@pytest.mark.parametrize("devices", ["1xT4", "4xT4"])
def test_a_count_is_its_plan_s(devices: str) -> None:
    target = gpus(devices)
    found, count = plan(ICEWS14, target, **ASKED), count_of(search_of(ICEWS14, target, None, ASKED))
    assert (count.devices, count.shards, count.replicas) == (
        target.n_devices, found.workload.shards, found.workload.replicas,
    )  # fmt: skip
    assert (count.device_bytes, count.fits) == (found.peak.device_bytes, True)
    assert count.seconds_per_epoch == found.seconds_per_epoch
