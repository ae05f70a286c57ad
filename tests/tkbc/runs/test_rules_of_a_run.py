"""A run that ranks with rules, from its training to its use: ``--rules``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke, read_json
from tests.support.training import SHAPE
from tkbc import evaluate, load


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    data = write_folder(folder / "graph", random_graph(SHAPE, n_valid=40, n_test=40))
    given = (
        f"--dataset {data} --rank 8 --batch-size 100 --max-epochs 2 --valid-freq 1 --rules --run-dir {folder / 'run'}"
    )
    result = invoke("train", *given.split())
    assert result.exit_code == 0, result.output
    assert "without the graph's rules" in result.output
    return folder / "run"


def final_of(run: Path) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return found


def test_the_run_keeps_both_rankings_and_its_memory_is_as_planned(run: Path) -> None:
    final = final_of(run)
    assert final["test"]["both"] != final["alone"]["both"]
    check = json.loads((run / "memory_check.json").read_text())
    assert check["peak"]["relative_error"] == 0
    (evaluation,) = (phase for phase in check["phases"] if phase["name"] == "evaluation")
    assert evaluation["relative_error"] == 0


def test_evaluate_ranks_as_the_run_did_or_without_rules(run: Path) -> None:
    final = final_of(run)
    as_run, without = read_json("evaluate", str(run)), read_json("evaluate", str(run), "--no-rules")
    assert as_run["both"] == final["test"]["both"]
    assert as_run["rules"] == json.loads((run / "rules.json").read_text())
    assert without["both"] == final["alone"]["both"]
    assert without["rules"] is None
    assert evaluate(run, rules=False).both.mrr == final["alone"]["both"]["mrr"]
    assert (
        "with the graph's rules beside the scores, weighed on 80 queries of valid"
        in invoke("evaluate", str(run)).output
    )


def test_weights_are_fitted_anew_for_a_run_without(run: Path, tmp_path: Path) -> None:
    """The same weights as the run's: the same queries, tables and rules."""
    other = shutil.copytree(run, tmp_path / "other")
    (other / "rules.json").unlink()
    assert read_json("evaluate", str(other))["rules"] is None
    fitted = read_json("evaluate", str(other), "--rules")
    assert fitted["rules"]["weights"] == pytest.approx(
        json.loads((run / "rules.json").read_text())["weights"], abs=1e-6
    )
    assert fitted["both"] == final_of(run)["test"]["both"]


def test_predictions_have_the_rules_beside_the_scores(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    (other / "rules.json").unlink()
    model, alone = load(run), load(other)
    assert model.rules is not None
    question = {"head": "e3", "relation": "r1", "time": "t4"}
    with_rules = {answer.entity: answer.score for answer in model.predict(**question, top=60)}
    without = {answer.entity: answer.score for answer in alone.predict(**question, top=60)}
    head, relation, time = (names.index(name) for names, name in (
        (model.data.entities, "e3"), (model.data.relations, "r1"), (model.data.timestamps, "t4")))  # fmt: skip
    import numpy as np

    _, tails, values = model.rules.said(np.array([[head, relation, 0, time]], dtype=np.int32))
    raised = dict(zip((model.data.entities[tail] for tail in tails), values.tolist(), strict=True))
    assert raised
    for entity, score in with_rules.items():
        assert score == pytest.approx(without[entity] + raised.get(entity, 0.0), abs=1e-5)


def test_an_answer_says_which_training_fact_speaks_for_it(run: Path) -> None:
    """In the data's own direction, whether a tail is asked for or a head."""
    data = load(run).data
    facts = {
        (data.entities[h], data.relations[r], data.entities[t], data.timestamps[time])
        for h, r, t, time in data.train.tolist()
    }
    for asked in (["--head", "e3"], ["--tail", "e3"]):
        question = [str(run), *asked, "--relation", "r1", "--time", "t4", "--top", "60"]
        answers = read_json("predict", *question)["answers"]
        reasons = [(answer["entity"], answer["because"]) for answer in answers if answer["because"]]
        assert reasons
        for entity, fact in reasons:
            assert (fact["head"], fact["relation"], fact["tail"], fact["time"]) in facts
            assert {fact["head"], fact["tail"]} == {"e3", entity}
            assert fact["confidence"] > 0
        shown = invoke("predict", *question).stdout
        _, fact = reasons[0]
        assert f"{fact['relation']}, {fact['time']}" in shown


def test_a_run_cut_before_its_last_ranking_ends_as_it_would_have(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    lines = (other / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    (other / "rules.json").unlink()
    result = invoke("train", "--resume", str(other))
    assert result.exit_code == 0, result.output
    assert final_of(other) == final_of(run)
    assert (other / "rules.json").read_text() == (run / "rules.json").read_text()


def test_damaged_weights_are_one_line_with_the_way_out(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    (other / "rules.json").write_text("{")
    fails(1, r"rules\.json: cannot be read: .*remove it, then memplan evaluate .* --rules", "evaluate", str(other))
