from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.catalog.datasets import find_dataset
from memplan.catalog.gpus import GPUS
from memplan.device.rates import cpu_rates, gpu_rates
from memplan.device.target import Target, resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.plan import Plan, to_json
from memplan.prediction.estimate import estimate
from memplan.search.cost import seconds_per_epoch
from memplan.search.knobs import knobs
from memplan.search.planner import plan, plan_largest_rank
from memplan.units import parse_bytes
from memplan.workload import TRAITS, Precision, Shape, build_workload
from tests.support.slow import mostly_slow

MIB = 2**20
ICEWS14 = find_dataset("ICEWS14").shape


def cpu(budget_bytes: int) -> Target:
    return Target("cpu", "CPU", budget_bytes, "--budget", cpu_rates(), 0)


def cuda(budget_bytes: int, capability: tuple[int, int] = (7, 5)) -> Target:
    return Target("cuda", "T4", budget_bytes, "--budget", gpu_rates(GPUS["T4"]), 64 * MIB, capability=capability)


def smallest_named(error: DoesNotFitError) -> int:
    return parse_bytes(str(error).split("would do is ")[1].split(" ")[0])


shapes = st.builds(
    Shape,
    n_entities=st.integers(1, 20_000),
    n_relations=st.integers(1, 300),
    n_timestamps=st.integers(1, 500),
    n_facts=st.integers(1, 5_000),
)


@settings(max_examples=150)
@given(
    shape=shapes,
    target_of=st.sampled_from([cpu, cuda]),
    budget_mib=st.integers(1, 400),
    more_mib=st.integers(0, 400),
    scored=st.sampled_from([(model, score) for model, traits in TRAITS.items() for score in traits.scores]),
    rank=st.integers(1, 128),
    data=st.data(),
)
@pytest.mark.slow
def test_a_plan_fits_keeps_what_was_fixed_and_gains_from_more_budget(
    shape: Shape,
    target_of: Callable[[int], Target],
    budget_mib: int,
    more_mib: int,
    scored: tuple[str, str],
    rank: int,
    data: st.DataObject,
) -> None:
    model, score = scored
    wishes = {
        "score": score,
        "batch_size": data.draw(st.integers(1, 2 * shape.n_facts)),
        "scoring": data.draw(st.sampled_from(["chunked", "fused", None])),
        "chunk_size": data.draw(st.one_of(st.none(), st.integers(max(1, shape.n_entities // 20), shape.n_entities))),
        "optimizer": data.draw(st.sampled_from(["adagrad", "adam", "sgd"])),
        "precision": data.draw(st.sampled_from(get_args(Precision))),
        "emb_reg": 0.1,
    }
    fixed = {name: value for name, value in wishes.items() if value is not None}

    def search(mib: int) -> Plan:
        return plan(shape, target_of(mib * MIB), model=model, rank=rank, threads=2, **fixed)

    try:
        found = search(budget_mib)
    except DoesNotFitError as error:
        smallest = smallest_named(error)
        assert smallest > budget_mib * MIB
        enough = search(smallest // MIB)
        assert enough.smallest_budget_bytes <= enough.peak.device_bytes <= smallest
        with pytest.raises(DoesNotFitError):
            search(smallest // MIB - 1)
        return
    assert found.fits
    assert found.peak.device_bytes <= budget_mib * MIB
    outside_bytes = target_of(0).outside_bytes
    assert found.peak == estimate(found.workload, outside_bytes=outside_bytes).peak
    assert found.smallest_budget_bytes <= found.peak.device_bytes
    for name, value in fixed.items():
        assert getattr(found.workload, name) == value, name
    assert found.rank == rank
    assert search(budget_mib) == found
    more = search(budget_mib + more_mib)
    assert more.seconds_per_epoch <= found.seconds_per_epoch


def test_the_guide_s_out_of_memory_row_fits_in_a_fraction() -> None:
    found = plan(ICEWS14, cpu(200 * MIB), model="TNTPairRE", rank=100, batch_size=1000, emb_reg=1e-3, threads=2)
    assert (found.batch_size, found.rank, found.accumulation_steps) == (1000, 100, 1)
    state = sum(p.bytes for p in estimate(found.workload).tensors_at_peak if "table" in p.name or "adagrad" in p.name)
    assert found.peak.requested_bytes - state < 100e6


def test_the_materialized_step_holds_three_of_the_guide_s_tensor() -> None:
    workload = build_workload(ICEWS14, model="TNTPairRE", rank=100, batch_size=1000, scoring="materialized")
    large = [tensor for tensor in estimate(workload).tensors_at_peak if tensor.shape == (1000, 7128, 100)]
    assert [tensor.bytes for tensor in large] == [2_851_200_000] * 3


def test_evaluation_counts() -> None:
    """Training fits 5 MiB less than evaluation with all its queries at once would take; the plan ranks fewer."""
    found = plan(ICEWS14, cpu(30 * MIB), model="TNTPairRE", rank=100, batch_size=100, threads=2)
    evaluation = next(phase for phase in found.phases if phase.name == "evaluation")
    assert evaluation.peak_bytes <= 30 * MIB
    assert found.eval_batch_size < 1024


def test_no_more_queries_are_planned_than_the_split_holds() -> None:
    """Given or searched; what is given below that stays as it is given, and without a split nothing is known."""
    asked: dict[str, Any] = {"model": "TNTPairRE", "rank": 100, "batch_size": 100, "threads": 2}

    def queries(n_queries: int | None, **given: int) -> tuple[int, int]:
        found = plan(ICEWS14, cpu(400 * MIB), n_queries=n_queries, **asked, **given)
        (evaluation,) = [phase.peak_bytes for phase in found.phases if phase.name == "evaluation"]
        return found.eval_batch_size, evaluation

    few, bytes_of_few = queries(14)
    assert (few, bytes_of_few) == (14, queries(14, eval_batch_size=14)[1])
    assert queries(14, eval_batch_size=3000) == (14, bytes_of_few)
    assert queries(14, eval_batch_size=3)[0] == 3
    assert queries(5000, eval_batch_size=3000)[0] == 3000
    assert 14 < queries(5000)[0] == queries(None)[0] <= 1024
    assert queries(None, eval_batch_size=3000)[0] == 3000


@pytest.mark.parametrize("rank", mostly_slow([77, 1, 2, 256]))
def test_a_time_limit_that_a_rank_meets_to_the_last_bit_is_met(rank: int) -> None:
    """And one that is a bit less is not."""
    target = cpu(1024 * MIB)
    asked: dict[str, Any] = {"model": "TNTPairRE", "batch_size": 1000, "threads": 2}
    seconds = plan(ICEWS14, target, rank=rank, **asked).seconds_per_epoch
    assert plan_largest_rank(ICEWS14, target, seconds, **asked).rank == rank
    below = math.nextafter(seconds, 0)
    if rank > 1:
        assert plan_largest_rank(ICEWS14, target, below, **asked).rank == rank - 1
    else:
        with pytest.raises(UsageError, match="even at rank 1"):
            plan_largest_rank(ICEWS14, target, below, **asked)


@pytest.mark.parametrize("rank", [1, 37, 99])
def test_a_budget_that_a_rank_takes_to_the_last_byte_gives_that_rank(rank: int) -> None:
    """Where the rank is lowered, from the next one and from far above, and where the largest is searched for."""
    asked: dict[str, Any] = {"model": "TNTPairRE", "batch_size": 1000, "threads": 2}
    exact = plan(ICEWS14, cpu(1024 * MIB), rank=rank, **asked).smallest_budget_bytes
    for higher in (rank + 1, 100):
        found = plan(ICEWS14, cpu(exact), rank=higher, allow_rank_reduction=True, **asked)
        assert (found.rank, found.rank_lowered_from) == (rank, higher)
    assert plan_largest_rank(ICEWS14, cpu(exact), **asked).rank == rank
    assert plan_largest_rank(ICEWS14, cpu(exact), most=rank, **asked).rank == rank
    if rank > 1:
        assert plan_largest_rank(ICEWS14, cpu(exact), most=rank - 1, **asked).rank == rank - 1
        assert plan_largest_rank(ICEWS14, cpu(exact - 1), 1e9, **asked).rank == rank - 1


def test_too_small_a_budget_names_the_smallest_and_the_obstacle() -> None:
    with pytest.raises(DoesNotFitError, match=r"smallest budget that would do is \d+MiB.*entity table, 7128 × 100"):
        plan(ICEWS14, cpu(5 * MIB), model="TNTPairRE")


def test_a_plan_survives_json_and_a_tampered_one_does_not(tmp_path: Any) -> None:
    found = plan(ICEWS14, cpu(200 * MIB), model="TNTComplEx", rank=20)
    path = tmp_path / "plan.json"
    path.write_text(to_json(found))
    assert Plan.read(path) == found
    size = f'"micro_batch_size": {found.micro_batch_size}'
    path.write_text(to_json(found).replace(size, '"micro_batch_size": 999', 1))
    with pytest.raises(MemplanError, match="micro_batch_size"):
        Plan.read(path)
    for broken in ("", "{}", "[1]", to_json(found)[:-40], to_json(found).replace("20", '"x"')):
        path.write_text(broken)
        with pytest.raises(MemplanError, match=r"plan\.json: no plan"):
            Plan.read(path)
    with pytest.raises(MemplanError, match="no such file"):
        Plan.read(tmp_path / "absent.json")


def test_the_cost_model_orders_what_is_plain() -> None:
    """Recomputing costs, small micro-batches cost, and the large tensor costs far more than the fused kernel."""
    rates = cpu_rates()

    def cost(**layout: Any) -> float:
        return seconds_per_epoch(build_workload(ICEWS14, model="TNTPairRE", **layout), rates)

    assert cost(chunk_size=1024) > cost()
    assert cost(micro_batch_size=10) > cost()
    assert cost(scoring="materialized") > 4 * cost()


def test_seconds_have_an_error_where_they_were_measured() -> None:
    asked: dict[str, Any] = {"model": "TNTPairRE", "rank": 100, "batch_size": 100}
    assert plan(ICEWS14, cpu(400 * MIB), **asked).seconds_error == cpu_rates().error
    assert plan(ICEWS14, cuda(4096 * MIB), **asked).seconds_error is None


def test_a_named_gpu_gives_a_cuda_target_and_memory_less_than_nominal() -> None:
    target = resolve("nvidia tesla t4", None)
    assert (target.device, target.name) == ("cuda", "T4")
    assert 14 * 2**30 < target.budget_bytes < 15.2 * 2**30
    found = plan(ICEWS14, target, model="TNTPairRE")
    assert found.fits
    assert found.scoring == "fused"
    assert found.peak.requested_bytes <= found.peak.allocated_bytes <= found.peak.reserved_bytes
    assert found.peak.reserved_bytes < found.peak.device_bytes <= target.budget_bytes


def test_budgets_and_devices_that_are_none() -> None:
    with pytest.raises(UsageError, match="did you mean RTX 4090"):
        resolve("RTX 4900", None)
    with pytest.raises(UsageError, match="--budget: 'lots' is no size"):
        resolve("cpu", "lots")
    assert resolve("cpu", "1GiB").budget_bytes == 2**30
    assert resolve("cpu", None).budget_bytes > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: 0"),
        ({"batch_size": 10**9}, "larger than the data"),
        ({"micro_batch_size": 2000}, "larger than batch_size"),
        ({"chunk_size": 8000}, "larger than the 7128 entities"),
        ({"scoring": "materialized", "chunk_size": 100}, "leave the chunk size out"),
        ({"scoring": "quick"}, "'materialized', 'chunked' or 'fused'"),
        ({"score": "l3"}, "'dot', 'l1' or 'l2'"),
        ({"model": "TNTComplEx", "score": "l1"}, "TNTComplEx is scored with dot, not l1"),
        ({"model": "PairRE", "time_reg": 0.1}, "PairRE has no timestamps to regularize"),
        ({"alloc_conf": "backend:cudaMallocAsync"}, "'backend' is not modelled"),
        ({"alloc_conf": "max_split_size_mb:19"}, "no less than a large segment's 20 MiB"),
        ({"emb_reg": float("nan")}, "emb_reg"),
        ({"rank": 10**18}, "rank"),
    ],
)
def test_a_setting_out_of_range_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(ICEWS14, cpu(200 * MIB), **{"model": "TNTPairRE", **settings})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_one_does_not_have_yet_is_planned_or_its_obstacle_named() -> None:
    """Fifty million entities: 56 GiB of tables, gradients and Adagrad; no buffer beyond what a kernel can address."""
    shape = Shape(n_entities=50_000_000, n_relations=1000, n_timestamps=365, n_facts=100_000_000)
    found = plan(shape, cuda(130 * 1024 * MIB), model="TNTPairRE", rank=100, batch_size=1000)
    assert found.micro_batch_size * found.chunk_size < 2**31
    assert found.peak.requested_bytes > 3 * 50_000_000 * 100 * 4
    with pytest.raises(DoesNotFitError, match=r"entity table, 50000000 × 100, 18\.6 GiB"):
        plan(shape, cuda(16 * 1024 * MIB), model="TNTPairRE", rank=100, batch_size=1000)
    with pytest.raises(UsageError, match=r"micro_batch_size × chunk_size: 1,000 × 50,000,000 scores are more than"):
        build_workload(shape, model="TNTPairRE", batch_size=1000, chunk_size=50_000_000)


def test_the_rank_is_lowered_only_where_allowed_and_no_further_than_needed() -> None:
    tight = cpu(8 * MIB)
    with pytest.raises(DoesNotFitError, match="--allow-rank-reduction"):
        plan(ICEWS14, tight, model="TNTPairRE", rank=100)
    found = plan(ICEWS14, tight, model="TNTPairRE", rank=100, allow_rank_reduction=True)
    assert found.rank_lowered_from == 100
    assert found.rank < 100
    with pytest.raises(DoesNotFitError):
        plan(ICEWS14, tight, model="TNTPairRE", rank=found.rank + 1)
    ample = plan(ICEWS14, cpu(200 * MIB), model="TNTPairRE", rank=100, allow_rank_reduction=True)
    assert (ample.rank, ample.rank_lowered_from) == (100, None)
    with pytest.raises(DoesNotFitError):
        plan(ICEWS14, cpu(MIB), model="TNTPairRE", rank=100, allow_rank_reduction=True)


@pytest.mark.slow
def test_the_largest_rank_is_the_largest_within_time_and_memory() -> None:
    for budget, seconds in ((200, 12.0), (40, 1000.0), (25, 14.0)):
        found = plan_largest_rank(ICEWS14, cpu(budget * MIB), seconds, model="TNTPairRE")
        assert found.seconds_per_epoch <= seconds
        try:
            next_rank = plan(ICEWS14, cpu(budget * MIB), model="TNTPairRE", rank=found.rank + 1)
        except DoesNotFitError:
            continue
        assert next_rank.seconds_per_epoch > seconds
    with pytest.raises(UsageError, match="even at rank 1"):
        plan_largest_rank(ICEWS14, cpu(200 * MIB), 1e-6, model="TNTPairRE")
    with pytest.raises(DoesNotFitError):
        plan_largest_rank(ICEWS14, cpu(MIB), 60.0, model="TNTPairRE")


def test_a_gpu_too_old_for_triton_falls_back_and_says_so() -> None:
    found = plan(ICEWS14, cuda(4096 * MIB, capability=(6, 1)), model="TNTPairRE", rank=50)
    assert found.scoring == "chunked"
    assert "needs compute capability 7.0" in found.reason
    with pytest.raises(UsageError, match=r"has 6\.1"):
        plan(ICEWS14, cuda(4096 * MIB, capability=(6, 1)), model="TNTPairRE", scoring="fused")


def test_knobs_save_what_a_new_estimate_says_they_save() -> None:
    target = cpu(2**34)
    workload = build_workload(ICEWS14, model="TNTPairRE", rank=100, batch_size=1000, scoring="materialized")
    found = {knob.change: knob for knob in knobs(workload, target)}
    now = estimate(workload).peak.device_bytes
    fused = estimate(build_workload(ICEWS14, model="TNTPairRE", rank=100, batch_size=1000, scoring="fused"))
    assert found["--scoring fused"].saved_bytes == now - fused.peak.device_bytes
    assert found["--scoring fused"] == next(iter(found.values())), "the largest saving comes first"
    assert not found["--scoring fused"].changes_result
    assert found["--rank 50"].changes_result
    assert "--chunk-size 1024" not in found, "materialized scoring has no chunks to make smaller"


def test_negatives_are_planned_for_and_are_a_knob() -> None:
    shape = Shape(n_entities=200_000, n_relations=5, n_timestamps=9, n_facts=5000)
    target = cpu(2**31)
    dense = build_workload(shape, model="TNTPairRE", rank=20, batch_size=256)
    found = {knob.change: knob for knob in knobs(dense, target)}["--negatives 4096"]
    fewer = build_workload(shape, model="TNTPairRE", rank=20, batch_size=256, negatives=4096, eval_chunk_size=200_000)
    saved = estimate(dense).peak.device_bytes - estimate(fewer).peak.device_bytes
    assert (found.saved_bytes, found.changes_result) == (saved, True)
    assert "--negatives 2048" in {
        knob.change for knob in knobs(fewer.model_copy(update={"eval_chunk_size": 1}), target)
    }
    made = plan(shape, target, model="TNTPairRE", rank=20, batch_size=256, negatives=4096)
    assert (made.chunk_size, made.workload.negatives) == (4096, 4096)
    assert "all negatives scored at once" in made.reason
    assert made.eval_chunk_size > 4096
    small = plan(shape, cpu(made.smallest_budget_bytes), model="TNTPairRE", rank=20, batch_size=256, negatives=4096)
    assert small.chunk_size < 4096
    assert "negatives scored" in small.reason
    whole = plan(shape, target, model="TNTPairRE", rank=20, batch_size=256, negatives=512, scoring="materialized",
                 eval_batch_size=1)  # fmt: skip
    assert (whole.chunk_size, whole.eval_chunk_size) == (512, 200_000)
