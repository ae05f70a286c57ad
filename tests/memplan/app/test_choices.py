"""What the planner answers where rank and batch are left to it."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from memplan import plan
from memplan.app.views.choices import choices_report, duration
from memplan.errors import DoesNotFitError
from memplan.units import format_mib_up
from tests.support.cli import invoke, read_json

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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def epochs() -> dict[tuple[str, str], int]:
    return {(row["model"], row["recipe"]): row["max_epochs"] for row in read_json("recipes")["recipes"]}


@pytest.mark.parametrize(
    "where", [("--device", "T4"), pytest.param(("--device", "cpu", "--budget", "100MiB"), marks=pytest.mark.slow)]
)
def test_each_choice_is_what_a_plan_with_its_options_says(
    where: tuple[str, ...], epochs: dict[tuple[str, str], int]
) -> None:
    found = read_json("plan", "--dataset", "ICEWS14", *where)["choices"]
    assert [row["test_mrr"] for row in found] == sorted(row["test_mrr"] for row in found)
    for row in found:
        options = dict(zip(row["options"][::2], row["options"][1::2], strict=True))
        n_epochs = int(options.pop("--max-epochs", epochs[row["model"], row["recipe"]]))
        assert row["max_epochs"] == n_epochs
        sizes = [
            word for flag in ("--model", "--recipe", "--rank") if flag in options for word in (flag, options[flag])
        ]
        again = invoke("plan", "--dataset", "ICEWS14", *where, *sizes)
        assert (again.exit_code == 0) == row["fits"]
        if not row["fits"]:
            assert f"would do is {format_mib_up(row['device_bytes'])} " in again.stderr
            continue
        asked = read_json("plan", "--dataset", "ICEWS14", *where, *sizes)
        assert (asked["workload"]["model"], asked["recipe"]) == (row["model"], row["recipe"])
        assert (asked["rank"], asked["peak"]["device_bytes"]) == (row["rank"], row["device_bytes"])
        assert row["training_seconds"] == pytest.approx(n_epochs * asked["seconds_per_epoch"])


def test_no_choice_is_beaten_by_a_quicker_one_but_the_recommended() -> None:
    found = read_json("plan", "--dataset", "ICEWS14", "--device", "T4")
    (recommended,) = [row for row in found["choices"] if row["recommended"]]
    assert (recommended["rank"], recommended["recipe"]) == (found["rank"], found["recipe"]) == (280, "icews14")
    assert recommended["options"] == []
    assert recommended["n_parameters"] == 2_613_240, "docs/results.md"
    others = [row for row in found["choices"] if not row["recommended"]]
    for one in others:
        assert not [
            o for o in others if o["training_seconds"] < one["training_seconds"] and o["test_mrr"] > one["test_mrr"]
        ]
    assert {(row["model"], row["rank"]): row["test_mrr"] for row in others}.items() >= {
        ("TNTPairRE", 100): 0.517
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    "settled",
    [
        "--rank 100",
        "--rank max",
        "--batch-size 500",
        "--recipe plain",
        "--score l2",
        "--emb-reg 0.1",
        "--precision bf16",
    ],
)
def test_choices_are_for_whom_leaves_the_choice(settled: str) -> None:
    assert read_json("plan", "--dataset", "ICEWS14", "--device", "T4", *settled.split())["choices"] is None
    more = read_json("plan", "--dataset", "ICEWS14", "--device", "T4", "--rank", "auto", "--chunk-size", "1024")
    assert len(more["choices"]) > 1


def test_a_model_that_is_named_is_compared_with_itself() -> None:
    found = read_json("plan", "--dataset", "ICEWS14", "--device", "T4", "--model", "TNTComplEx")["choices"]
    assert {row["model"] for row in found} == {"TNTComplEx"}
    assert [row["options"] for row in found] == [[], ["--recipe", "tkbc-1560", "--max-epochs", "10"]]
    (alone,) = read_json("plan", "--dataset", "ICEWS14", "--device", "T4", "--model", "ContinuousPairRE")["choices"]
    assert (alone["recommended"], alone["test_mrr"], alone["measured"]) == (True, None, "not measured")


def test_figures_of_two_graphs_are_not_mixed() -> None:
    counts = ["--n-entities", "500", "--n-relations", "30", "--n-timestamps", "90", "--n-facts", "20000"]
    for graph, place in (([], "demo"), (["--dataset", "ICEWS14"], "ICEWS14"), (counts, "ICEWS14")):
        found = read_json("plan", *graph, "--device", "T4")["choices"]
        assert {row["measured_on"] for row in found} == {place}
    shown = invoke("plan", *counts, "--device", "T4").stdout
    assert "measured on ICEWS14, not on this graph" in shown


@pytest.mark.parametrize("budget", ["10GiB", "100MiB", "20MiB"])
def test_the_table_stands_in_80_columns_and_marks_the_recommended(budget: str) -> None:
    found = plan("ICEWS14", rank="auto", device="cpu", budget=budget)
    console = Console(width=80, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(choices_report(found.choices or [], found))
    lines = captured.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["0.631"]
    text = " ".join(" ".join(line.split()) for line in lines)
    assert ("planned below at rank" in text) == (found.rank < 280) == (budget == "20MiB")
    assert ("does not fit" in text) == (budget == "20MiB")


def test_a_plan_s_choices_are_no_part_of_what_is_trained(tmp_path: Any) -> None:
    from memplan.app.jobs.prepare import read_plan
    from memplan.app.request import SearchRequest

    path = tmp_path / "plan.json"
    path.write_text(invoke("plan", "--device", "cpu", "--json").stdout, encoding="utf-8")
    assert read_plan(path, SearchRequest(), auto_fit=False).choices is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (69.3, "69 s"),
        (119.4, "119 s"),
        (150, "2.5 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (4e5, "4.6 d"),
    ],
)
def test_a_time_has_the_digits_that_an_estimate_deserves(seconds: float, text: str) -> None:
    assert duration(seconds) == text
