from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.catalog import find_dataset
from memplan.cost import seconds_per_epoch
from memplan.devices import Target, resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.estimator import estimate
from memplan.plan import Plan, to_json
from memplan.planner import plan
from memplan.rates import cpu_rates
from memplan.units import parse_bytes
from memplan.workload import Shape, build_workload

MIB = 2**20
ICEWS14 = find_dataset("ICEWS14").shape


def cpu(budget_bytes: int) -> Target:
    return Target("cpu", "CPU", budget_bytes, "--budget", cpu_rates(2), 0)


def smallest_named(error: DoesNotFitError) -> int:
    return parse_bytes(str(error).split("would do is ")[1].split(" ")[0])


shapes = st.builds(
    Shape,
    n_entities=st.integers(1, 20_000),
    n_relations=st.integers(1, 300),
    n_timestamps=st.integers(1, 500),
    n_facts=st.integers(1, 5_000),
)


@settings(max_examples=60)
@given(
    shape=shapes,
    budget_mib=st.integers(1, 400),
    more_mib=st.integers(0, 400),
    model=st.sampled_from(["TNTPairRE", "TNTComplEx"]),
    rank=st.integers(1, 128),
    data=st.data(),
)
def test_a_plan_fits_keeps_what_was_fixed_and_gains_from_more_budget(
    shape: Shape, budget_mib: int, more_mib: int, model: str, rank: int, data: st.DataObject
) -> None:
    wishes = {
        "batch_size": data.draw(st.integers(1, 2 * shape.n_facts)),
        "scoring": data.draw(st.sampled_from(["chunked", "fused", None])),
        "chunk_size": data.draw(st.one_of(st.none(), st.integers(max(1, shape.n_entities // 20), shape.n_entities))),
        "optimizer": data.draw(st.sampled_from(["adagrad", "adam"])),
        "emb_reg": 0.1,
    }
    fixed = {name: value for name, value in wishes.items() if value is not None}

    def search(mib: int) -> Plan:
        return plan(shape, cpu(mib * MIB), model=model, rank=rank, threads=2, **fixed)

    try:
        found = search(budget_mib)
    except DoesNotFitError as error:
        smallest = smallest_named(error)
        assert smallest > budget_mib * MIB
        enough = search(smallest // MIB)
        assert enough.peak.device_bytes <= smallest
        with pytest.raises(DoesNotFitError):
            search(smallest // MIB - 1)
        return
    assert found.fits
    assert found.peak.device_bytes <= budget_mib * MIB
    assert found.peak == estimate(found.workload).peak
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


def test_too_small_a_budget_names_the_smallest_and_the_obstacle() -> None:
    with pytest.raises(DoesNotFitError, match=r"smallest budget that would do is \d+MiB.*entity table, 7128 × 100"):
        plan(ICEWS14, cpu(5 * MIB), model="TNTPairRE")


def test_a_plan_survives_json_and_a_tampered_one_does_not(tmp_path: Any) -> None:
    found = plan(ICEWS14, cpu(200 * MIB), model="TNTComplEx", rank=20)
    path = tmp_path / "plan.json"
    path.write_text(to_json(found))
    assert Plan.read(path) == found
    path.write_text(to_json(found).replace('"micro_batch_size": 1000', '"micro_batch_size": 999', 1))
    with pytest.raises(MemplanError, match="micro_batch_size"):
        Plan.read(path)
    for broken in ("", "{}", "[1]", to_json(found)[:-40], to_json(found).replace("20", '"x"')):
        path.write_text(broken)
        with pytest.raises(MemplanError, match=r"plan\.json: no plan"):
            Plan.read(path)
    with pytest.raises(MemplanError, match="cannot be read"):
        Plan.read(tmp_path / "absent.json")


def test_the_cost_model_orders_what_is_plain() -> None:
    """Recomputing costs, small micro-batches cost, and the large tensor costs far more than the fused kernel."""
    rates = cpu_rates(2)

    def cost(**layout: Any) -> float:
        return seconds_per_epoch(build_workload(ICEWS14, model="TNTPairRE", **layout), rates)

    assert cost(chunk_size=1024) > cost()
    assert cost(micro_batch_size=10) > cost()
    assert cost(scoring="materialized") > 4 * cost()


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
        ({"alloc_conf": "backend:native"}, "'backend' is not modelled"),
        ({"alloc_conf": "max_split_size_mb:20"}, "whole number of MiB above 20"),
        ({"emb_reg": float("nan")}, "emb_reg"),
        ({"rank": 10**18}, "rank"),
    ],
)
def test_a_setting_out_of_range_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(ICEWS14, cpu(200 * MIB), **{"model": "TNTPairRE", **settings})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
