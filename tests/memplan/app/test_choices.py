"""What the planner answers where rank and batch are left to it."""

from __future__ import annotations

from typing import Any

import pytest

from memplan import plan
from memplan.errors import DoesNotFitError
from tests.support.cli import read_json

T4: dict[str, Any] = {"device": "T4"}


def test_rank_auto_is_the_recipe_s_where_it_fits_and_says_what_else_would() -> None:
    found = plan("ICEWS14", rank="auto", **T4)
    asked = plan("ICEWS14", rank=280, **T4)
    assert found.workload == asked.workload
    assert found.rank_lowered_from is None
    largest = plan("ICEWS14", rank="max", **T4)
    assert f"rank 280, recipe icews14's; up to {largest.rank:,} would fit (--rank max)" in found.reason


@pytest.mark.parametrize("model", ["TNTPairRE", "TNTComplEx"])
def test_a_recipe_s_rank_that_does_not_fit_is_lowered_to_the_largest_that_does(model: str) -> None:
    asked = plan("ICEWS14", model=model, device="cpu", budget="1GiB")
    budget = asked.smallest_budget_bytes - 1
    found = plan("ICEWS14", model=model, rank="auto", device="cpu", budget=budget)
    assert found.rank_lowered_from == asked.rank > found.rank
    with pytest.raises(DoesNotFitError):
        plan("ICEWS14", model=model, rank=found.rank + 1, device="cpu", budget=budget)


def test_rank_auto_within_a_time_is_lowered_to_what_keeps_it() -> None:
    whole = plan("ICEWS14", rank="auto", device="cpu", budget="1GiB")
    assert plan("ICEWS14", rank="auto", epoch_seconds=whole.seconds_per_epoch, device="cpu", budget="1GiB").rank == 280
    half = plan("ICEWS14", rank="auto", epoch_seconds=whole.seconds_per_epoch / 2, device="cpu", budget="1GiB")
    assert half.rank_lowered_from == 280
    assert half.seconds_per_epoch <= whole.seconds_per_epoch / 2


def test_batch_auto_is_the_recipe_s_however_little_memory_there_is() -> None:
    """No smaller batch takes less: micro-batches can be one example of any."""
    whole = plan("ICEWS14", rank=100, device="cpu", budget="1GiB")
    for budget in ("1GiB", whole.smallest_budget_bytes):
        found = plan("ICEWS14", rank=100, batch_size="auto", device="cpu", budget=budget)
        assert found.batch_size == 1000
        assert found.reason.startswith("batch 1000, recipe icews14's: it is part of the result")
    smaller = plan("ICEWS14", rank=100, batch_size=1, device="cpu", budget="1GiB")
    assert smaller.smallest_budget_bytes == whole.smallest_budget_bytes


def test_batch_auto_is_cut_to_the_data() -> None:
    counts = ["--n-entities", "50", "--n-relations", "3", "--n-timestamps", "9", "--n-facts", "20"]
    found = read_json("plan", *counts, "--batch-size", "auto", "--device", "cpu")
    assert found["batch_size"] == 40
    assert "cut to the data" in found["reason"]
