"""The search for a recipe: its space, that a stopped sweep goes on as if nothing had been, what it never does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from memplan.app.api import plan_given
from memplan.app.request import Graph, SearchRequest, of_loaded
from memplan.app.sweep.models import equal_ranks
from memplan.app.sweep.space import Choice, Range, combinations, default_space, flags, parse_space
from memplan.app.sweep.study import Trial, Watcher, best_first, keep_sweep, new_sweep, read_trials, search
from memplan.catalog.datasets import find_dataset
from memplan.catalog.recipes import find_recipe
from memplan.device.target import resolve
from memplan.errors import UsageError
from memplan.workload import TRAITS, Workload
from memplan.workload.models import recipes_of
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke, read_json
from tests.support.slow import mostly_slow
from tests.support.training import SHAPE

SPACE = ["learning_rate=0.01..1", "rank=4..20", "unit_norm=true,false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("graph"), random_graph(SHAPE))


def arguments(folder: Path, sweep_dir: Path, *more: str) -> list[str]:
    over = [word for text in SPACE for word in ("--over", text)]
    fixed = [
        "--dataset",
        str(folder),
        "--batch-size",
        "100",
        "--max-epochs",
        "3",
        "--valid-freq",
        "1",
        "--device",
        "cpu",
    ]
    return ["sweep", "--dataset", str(folder), *fixed, "--sweep-dir", str(sweep_dir), *over, *more]


def test_a_space_is_read_as_written() -> None:
    space = parse_space(["emb-reg=1e-3..1e-1", "--rank=100..300", "unit_norm=true,False", "score=l1, dot"])
    assert space == [
        Range(name="emb_reg", low=1e-3, high=1e-1, is_whole=False),
        Range(name="rank", low=100, high=300, is_whole=True),
        Choice(name="unit_norm", values=(True, False)),
        Choice(name="score", values=("l1", "dot")),
    ]
    assert [dimension.is_log for dimension in space if isinstance(dimension, Range)] == [True, False]
    assert parse_space(str(dimension) for dimension in space) == space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emb_reg", "name=low..high"),
        ("emb_rg=1..2", "emb_reg"),
        ("emb_reg=2..1", "2 is not below 1"),
        ("emb_reg=nan..1", "'nan'"),
        ("rank=1.5..4", "'1.5'"),
        ("unit_norm=0..1", "no order"),
        ("unit_norm=yes", "true or false"),
        ("rank=4,4", "twice"),
        ("score=", "name=low..high"),
    ],
)
def test_a_space_that_is_none_is_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_space([text])


def test_every_model_has_a_space_of_settings_that_it_takes() -> None:
    for model, traits in TRAITS.items():
        names = {dimension.name for dimension in default_space(model)}
        assert ("time_reg" in names) == traits.is_temporal
        assert ("unit_norm" in names) != traits.is_complex
        rest = {dimension.name for dimension in default_space(model, but=["emb_reg", "rank"])}
        assert rest == names - {"emb_reg"}
    with pytest.raises(UsageError, match="say what to search"):
        default_space("ComplEx", but=["emb_reg", "learning_rate"])


def _sweep(folder: Path, n_trials: int, stop_after: int | None = None) -> list[Trial]:
    """Search with a made-up trainer whose MRR is highest at a rate of 0.1, rank 20; stop in the midst where asked."""
    from memplan.app.sweep.study import read_sweep

    begun = 0

    def train(given: SearchRequest, settings: dict[str, Any], _folder: Path, watcher: Watcher) -> Trial | None:
        nonlocal begun
        begun += 1
        if stop_after is not None and begun > stop_after:
            return None
        rate, rank = settings["learning_rate"], int(given.rank or 0)
        if rank > 18:
            return Trial(trial=0, params={}, state="does not fit", why="too large")
        for epoch in (1, 2, 3):
            watcher.validated(epoch, epoch * rank / (100 * (1 + abs(rate - 0.1))))
            if watcher.should_stop():
                break
        state = "pruned" if watcher.is_pruned else "finished"
        return Trial(trial=0, params={}, state=state, valid_mrr=watcher.curve[-1][1], curve=tuple(watcher.curve))

    if not folder.exists():
        keep_sweep(folder, new_sweep(SearchRequest(model="TNTPairRE"), {}, parse_space(SPACE), seed=3))
    search(folder, read_sweep(folder), train, max_trials=n_trials, must_stop=lambda: False, on_end=lambda _: None)
    return read_trials(folder)


def test_a_stopped_sweep_goes_on_with_the_trials_that_it_would_have_had(tmp_path: Path) -> None:
    whole = _sweep(tmp_path / "whole", 14)
    assert len(_sweep(tmp_path / "parts", 14, stop_after=3)) == 3
    with (tmp_path / "parts" / "trials.jsonl").open("a") as file:
        file.write('{"trial": 3, "par')  # killed while it wrote
    assert len(_sweep(tmp_path / "parts", 14, stop_after=6)) == 9
    assert _sweep(tmp_path / "parts", 14) == whole
    assert len({json.dumps(trial.params) for trial in whole}) == 14, "every trial is another"
    states = {trial.state for trial in whole}
    assert states == {"finished", "pruned", "does not fit"}
    assert all(trial.state == "finished" for trial in whole[:5] if trial.params["rank"] <= 18), "none is given up early"  # type: ignore[operator]


def test_what_fell_behind_the_median_was_given_up(tmp_path: Path) -> None:
    for n, trial in enumerate(trials := _sweep(tmp_path / "sweep", 20)):
        if trial.state == "pruned":
            epoch, mrr = trial.curve[-1]
            others = sorted(dict(other.curve)[epoch] for other in trials[:n] if epoch in dict(other.curve))
            assert mrr < others[len(others) // 2]


@pytest.mark.parametrize(
    "over",
    mostly_slow(
        [["score=l1"], ["rank=1..30"], ["learning_rate=0.1,0.2,0.3,0.4,0.5,0.6", "emb_reg=0,0.001,0.01,0.1"]], 2
    ),
)
def test_every_combination_of_a_space_with_an_end_is_tried_once(tmp_path: Path, over: list[str]) -> None:
    def train(given: SearchRequest, settings: dict[str, Any], _folder: Path, watcher: Watcher) -> Trial:
        rate, reg = settings.get("learning_rate", 0.1), given.emb_reg or 0.0
        watcher.validated(1, 1 / (1 + abs(int(given.rank or 0) - 17)) - abs(rate - 0.3) - reg)
        return Trial(trial=0, params={}, state="finished", valid_mrr=watcher.curve[-1][1], curve=tuple(watcher.curve))

    space = parse_space(over)
    sweep = new_sweep(SearchRequest(), {}, space)
    keep_sweep(tmp_path / "sweep", sweep)
    more = search(tmp_path / "sweep", sweep, train, max_trials=None, must_stop=lambda: False, on_end=lambda _: None)
    assert not more
    tried = [trial.params for trial in read_trials(tmp_path / "sweep")]
    every = list(combinations(space, 1000))
    assert len(tried) == len(every) == {"rank": 30, "learning_rate": 24, "score": 1}[space[0].name]
    assert all(params in tried for params in every)


def test_a_space_without_an_end_has_no_list() -> None:
    assert list(combinations(parse_space(["rank=4,5", "emb_reg=0..1"]), 10)) == []
    assert len(list(combinations(parse_space(["rank=1..1000", "batch_size=1..1000"]), 50))) == 50


@pytest.mark.slow
def test_a_sweep_trains_plans_and_says_how_to_train_the_best(folder: Path, tmp_path: Path) -> None:
    sweep_dir = tmp_path / "sweep"
    found = read_json(*arguments(folder, sweep_dir, "--trials", "3", "--seed", "1"))
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 3
    assert found["best"]["valid_mrr"] == max(trial["valid_mrr"] for trial in found["trials"])
    assert all(trial["measured_bytes"] == trial["planned_bytes"] for trial in found["trials"])
    assert (sweep_dir / "trials.png").stat().st_size > 10_000
    for n, trial in enumerate(found["trials"]):
        run = sweep_dir / "trials" / f"{n:04}"
        assert "test" not in (run / "metrics.jsonl").read_text(), "the test split is not looked at"
        assert not (run / "checkpoint").exists()
        plan = json.loads((run / "plan.json").read_text())
        assert {name: plan["workload"][name] for name in ("rank", "unit_norm")} == {
            name: trial["params"][name] for name in ("rank", "unit_norm")
        }
    assert found["command"].startswith("memplan train --auto-fit-gpu "), "its sizes are chosen as the trial's were"
    # The command that it gives is the trial's: the same validations.
    run = tmp_path / "run"
    trained = invoke(*found["command"].split()[1:], "--run-dir", str(run))
    assert trained.exit_code == 0, trained.output
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [[line["epoch"], line["valid"]["both"]["mrr"]] for line in lines if line.get("valid")]
    assert curve == found["best"]["curve"]


def test_a_space_that_is_tried_out_ends_a_sweep(folder: Path, tmp_path: Path) -> None:
    over = ["--over", "rank=4,6", "--over", "unit_norm=true,false"]
    fixed = ["sweep", "--dataset", str(folder), *["--batch-size", "100", "--max-epochs", "1", "--device", "cpu"]]
    found = read_json(*fixed, *over, "--trials", "9", "--sweep-dir", str(tmp_path / "sweep"))
    assert sorted((trial["params"]["rank"], trial["params"]["unit_norm"]) for trial in found["trials"]) == [
        (4, False), (4, True), (6, False), (6, True)
    ]  # fmt: skip


def test_where_nothing_fits_there_is_no_best(folder: Path, tmp_path: Path) -> None:
    for limit, why, n_trials in (
        (["--trials", "2"], "no trial fits: nothing fits 1.00 KiB", 2),
        (["--minutes", "1e6"], "none of 20 trials fits", 20),
    ):
        result = invoke(*arguments(folder, tmp_path / limit[0], *limit, "--budget", "1KiB"), "--json")
        assert result.exit_code == 3
        assert why in result.stderr
        found = json.loads(result.stdout)
        assert found["best"] is None
        assert [trial["state"] for trial in found["trials"]] == ["does not fit"] * n_trials


def test_what_is_given_holds_for_every_trial_even_0_and_off(folder: Path, tmp_path: Path) -> None:
    given = SearchRequest(emb_reg=0.0, n3_parts=False, unit_norm=False, time_reg=0.5)
    held = new_sweep(given, {"cooldown": 0.0}, parse_space(["rank=4,5"]))
    assert held.given == {"emb_reg": 0.0, "n3_parts": False, "unit_norm": False, "time_reg": 0.5}
    assert held.settings == {"cooldown": 0.0}
    options = ["--cooldown", "0.5", "--n3-parts", "--trials", "1", "--sweep-dir", str(tmp_path / "sweep")]
    fixed = ["sweep", "--dataset", str(folder), "--max-epochs", "1", "--device", "cpu", "--over", "rank=4"]
    found = read_json(*fixed, *options)
    assert "--n3-parts" in found["command"]
    assert "--cooldown 0.5" in found["command"]
    trial = tmp_path / "sweep" / "trials" / "0000"
    assert json.loads((trial / "config.json").read_text())["cooldown"] == 0.5
    assert json.loads((trial / "plan.json").read_text())["workload"]["n3_parts"]


def test_a_value_that_no_trial_can_have_is_told_before_anything_is_made(folder: Path, tmp_path: Path) -> None:
    command = ["sweep", "--dataset", str(folder), "--trials", "9", "--sweep-dir", str(tmp_path / "sweep")]
    fails(2, "score: 'foo'", *command, "--over", "score=l1,foo")
    fails(2, "learning_rate: 0", *command, "--over", "learning_rate=0..1")
    fails(2, "unit_norm: only the PairRE family", *command, "--model", "ComplEx", "--over", "unit_norm=true,false")
    fails(2, "--minutes: 0: a number above 0", *command, "--minutes", "0")
    assert not (tmp_path / "sweep").exists()


def test_what_fits_no_memory_is_never_begun(folder: Path, tmp_path: Path) -> None:
    fixed = [
        "sweep",
        "--dataset",
        str(folder),
        *["--batch-size", "100", "--max-epochs", "1", "--device", "cpu", "--budget", "1MiB"],
    ]
    found = read_json(*fixed, "--over", "rank=4,5,3000", "--trials", "3", "--sweep-dir", str(tmp_path / "sweep"))
    assert [trial["params"]["rank"] for trial in found["trials"] if trial["state"] == "does not fit"] == [3000]
    assert found["best"]["params"]["rank"] in (4, 5)
    kept_out = [trial for trial in found["trials"] if trial["state"] == "does not fit"]
    assert kept_out
    for trial in kept_out:
        assert "smallest budget" in trial["why"]
        assert not (tmp_path / "sweep" / "trials" / f"{trial['trial']:04}").exists()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_trial_under_way(folder: Path, tmp_path: Path) -> None:
    whole = read_json(*arguments(folder, tmp_path / "whole", "--trials", "2"))
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "memplan.app.cli", *arguments(folder, killed, "--trials", "2")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = killed / "trials" / "0000" / "checkpoint" / "00000001"
    for _ in range(2000):
        if checkpoint.exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = read_json("sweep", "--resume", str(killed))  # its limits hold
    keys = ("params", "state", "valid_mrr", "curve", "planned_bytes")
    assert [[trial[key] for key in keys] for trial in found["trials"]] == [
        [trial[key] for key in keys] for trial in whole["trials"]
    ]


def test_a_diverging_trial_fails_and_the_sweep_goes_on(folder: Path, tmp_path: Path) -> None:
    over = ["--over", "init_scale=0.01,1e30", "--trials", "2", "--sweep-dir", str(tmp_path / "sweep")]
    fixed = ["sweep", "--dataset", str(folder), "--rank", "4", "--max-epochs", "1", "--device", "cpu"]
    states = {trial["params"]["init_scale"]: trial for trial in read_json(*fixed, *over)["trials"]}
    assert states[0.01]["state"] == "finished"
    assert states[1e30]["state"] == "failed"
    assert "not finite" in states[1e30]["why"]


def test_two_processes_do_not_share_a_sweep(folder: Path, tmp_path: Path) -> None:
    read_json(*arguments(folder, tmp_path / "sweep", "--trials", "1"))
    with FileLock(tmp_path / "sweep" / "lock"):
        fails(1, "another process is at work in this sweep", "sweep", "--resume", str(tmp_path / "sweep"), "--json")


def test_time_that_is_up_ends_a_sweep(folder: Path, tmp_path: Path) -> None:
    found = read_json(*arguments(folder, tmp_path / "sweep", "--minutes", "1e-9"))
    assert found["trials"] == []
    assert found["best"] is found["command"] is None


@pytest.mark.parametrize(
    ("status", "message", "given"),
    [
        (2, "--trials, --minutes or both", ["sweep"]),
        (
            2,
            "emb_reg is both given and searched",
            ["sweep", "--trials", "1", "--emb-reg", "1", "--over", "emb_reg=1..2"],
        ),
        (2, "setting to search over", ["sweep", "--trials", "1", "--over", "embreg=1..2"]),
        (1, "no sweep", ["sweep", "--trials", "1", "--resume", "nowhere"]),
        (2, "settled --rank", ["sweep", "--trials", "1", "--resume", "nowhere", "--rank", "4"]),
        (2, "settled --recipe, --budget", ["sweep", "--resume", "nowhere", "--budget", "1GiB", "--recipe", "guide"]),
        (1, "nowhere: no sweep", ["sweep", "--resume", "nowhere"]),
    ],
)
def test_mistakes_are_one_line(
    status: int, message: str, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(status, message, *given)
    assert not (tmp_path / "sweeps").exists()


def test_the_best_comes_first_and_what_has_no_mrr_last() -> None:
    values = (None, 0.1, 0.3, None)
    trials = [Trial(trial=n, params={}, state="finished", valid_mrr=value) for n, value in enumerate(values)]
    assert [trial.trial for trial in best_first(trials)] == [2, 1, 0, 3]


def test_flags_are_as_memplan_train_takes_them() -> None:
    values = {"rank": 20, "emb_reg": 1e-05, "unit_norm": False, "no_time_emb": False, "n3_parts": False}
    assert flags(values) == "--rank 20 --emb-reg 1e-05 --no-unit-norm --time-emb --n3-sum"
    assert flags({"n3_parts": True, "cooldown": 0.2}) == "--n3-parts --cooldown 0.2"
    assert flags({"learning_rate": 0.12345678, "emb_reg": 1.0}) == "--learning-rate 0.12345678 --emb-reg 1"


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        pytest.param(model, recipe, id=f"{recipe.name}-{model}-{recipe.dataset}")
        for model in TRAITS
        for recipe in recipes_of(model)
    ],
)
def test_every_recipe_is_found_by_its_name_and_is_a_workload(model: str, recipe: Any) -> None:
    assert find_recipe(recipe.dataset, model, recipe.name) is recipe
    assert set(recipe.settings) <= set(Workload.model_fields)
    planned = read_json(
        "plan",
        "--dataset",
        recipe.dataset or "ICEWS14",
        "--model",
        model,
        "--recipe",
        recipe.name,
        "--device",
        "cpu",
    )
    for name, value in recipe.settings.items():
        assert planned["workload"][name] == value


def test_a_recipe_that_is_not_there_is_told_with_those_that_are() -> None:
    fails(
        2, "no 'guide' for TNTComplEx on demo, but demo or tkbc", "plan", "--model", "TNTComplEx", "--recipe", "guide"
    )
    fails(2, "there is one for --dataset ICEWS14 or ICEWS05-15", "plan", "--model", "TNTPairRE", "--recipe", "guide")


MODELS = ["--over", "model=tntpairre,TNTComplEx", "--device", "cpu", "--budget", "1GiB"]


def _models_sweep(folder: Path, sweep_dir: Path, *more: str) -> list[str]:
    short = ["--max-epochs", "2", "--valid-freq", "1", "--trials", "5", "--sweep-dir", str(sweep_dir)]
    return ["sweep", "--dataset", str(folder), *MODELS, *short, *more]


def test_models_are_compared_by_their_recipes_with_as_many_parameters(folder: Path, tmp_path: Path) -> None:
    """PairRE's rows hold d floats, ComplEx's 2d; TNTPairRE has 4 · 2R rows of relations, TNTComplEx 2 · 2R."""
    found = read_json(*_models_sweep(folder, tmp_path / "sweep"))
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"], "every combination was tried"
    assert {trial["params"]["model"] for trial in found["trials"]} == {"TNTPairRE", "TNTComplEx"}
    n, r, t = SHAPE.n_entities, SHAPE.n_relations, SHAPE.n_timestamps
    ranks = found["ranks"]
    assert ranks["TNTPairRE"] == find_recipe(None, "TNTPairRE").settings["rank"]
    wanted = ranks["TNTPairRE"] * (n + 8 * r + t)
    per_rank = 2 * (n + 4 * r + t)
    assert abs(ranks["TNTComplEx"] * per_rank - wanted) == min(abs(d * per_rank - wanted) for d in range(1, 300))
    best = max(found["trials"], key=lambda trial: trial["valid_mrr"])["params"]["model"]
    assert f"--model {best} --rank {ranks[best]}" in found["command"]
    for number, trial in enumerate(found["trials"]):
        plan = json.loads((tmp_path / "sweep" / "trials" / f"{number:04}" / "plan.json").read_text())
        model = trial["params"]["model"]
        assert (plan["workload"]["model"], plan["rank"]) == (model, ranks[model])
        assert plan["workload"]["emb_reg"] == find_recipe(None, model).settings["emb_reg"], "its own recipe's"
    again = invoke("sweep", "--resume", str(tmp_path / "sweep"), "--trials", "9")
    assert again.exit_code == 0, again.output
    assert "every combination was tried" in again.stdout
    assert re.search(r"model +rank +valid MRR", again.stdout)


@pytest.mark.parametrize(("rank", "ranks"), [(["--rank", "6"], (6, 6)), (["--rank", "auto"], (100, 156))])
def test_a_rank_that_is_given_is_every_model_s(
    folder: Path, tmp_path: Path, rank: list[str], ranks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: dict[str, int] = {}

    def train(given: SearchRequest, *_: Any) -> Trial:
        found = plan_given(given, resolve("cpu", "1GiB"), of_loaded("graph", random_graph(SHAPE)))
        planned[found.workload.model] = found.rank
        return Trial(trial=0, params={}, state="finished", valid_mrr=0.5)

    monkeypatch.setattr("memplan.app.sweep.job.train_trial", train)
    found = read_json(*_models_sweep(folder, tmp_path / "sweep", *rank))
    assert (found["ranks"], planned) == ({}, dict(zip(("TNTPairRE", "TNTComplEx"), ranks, strict=True)))


def test_recipes_that_have_as_many_parameters_keep_their_ranks(real_data: Path) -> None:
    graph = Graph("ICEWS14", find_dataset("ICEWS14").shape)
    sweep = new_sweep(SearchRequest(), {}, parse_space(["model=TNTPairRE,TNTComplEx"]))
    assert equal_ranks(sweep, graph) == {"TNTPairRE": 280, "TNTComplEx": 156}
    for space in (["rank=5..9", "model=TNTPairRE,TNTComplEx"], ["emb_reg=1..2"]):
        assert equal_ranks(new_sweep(SearchRequest(), {}, parse_space(space)), graph) == {}


def test_what_a_model_cannot_have_is_said_before_anything_is_begun(folder: Path, tmp_path: Path) -> None:
    told = "--over with TNTComplEx: unit_norm: only the PairRE family"
    fails(2, told, *_models_sweep(folder, tmp_path / "sweep", "--over", "unit_norm=true,false"))
    assert not (tmp_path / "sweep").exists()
    fails(2, "unknown model 'TNTPair'; did you mean", "sweep", "--over", "model=TNTPair", "--trials", "1")
    fails(2, "model is both given and searched", *_models_sweep(folder, tmp_path / "sweep", "--model", "ComplEx"))


def test_no_model_is_given_up_for_another_s_pace(tmp_path: Path) -> None:
    """With any other setting the ninth, far behind eight at the same epoch, would be."""
    for text, is_given_up in (("model=" + ",".join(TRAITS), False), ("rank=1,2,3,4,5,6,7", True)):
        states = []

        def train(given: SearchRequest, _settings: Any, _where: Path, watcher: Watcher) -> Trial:
            watcher.validated(1, 0.5 if len(states) < 5 else 0.1)  # noqa: B023 - called at once
            states.append(watcher.is_pruned)  # noqa: B023
            return Trial(trial=0, params={}, state="finished", valid_mrr=0.5, curve=tuple(watcher.curve))

        where = tmp_path / text[:4]
        sweep = new_sweep(SearchRequest(), {}, parse_space([text]))
        keep_sweep(where, sweep)
        search(where, sweep, train, max_trials=6, must_stop=lambda: False, on_end=lambda _: None)
        assert any(states) == is_given_up
