"""A training that is bounded in time: how it ends, what it says, how it goes on. No test waits: the clock is ours."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import random_graph
from tests.support.cli import fails, invoke, read_json
from tests.support.resume import ADAGRAD, ADAM, SETTINGS, begin, reported, tensors
from tests.support.slow import mostly_slow
from tests.support.training import SHAPE, make_plan, newest_checkpoint
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.reporter import Reporter
from tkbc.runs.state import RunState
from tkbc.runs.train import Result, TrainSettings, resume, train

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 6
"""Of an epoch: 600 examples in batches of 100."""


class Minutely(Reporter):
    """A clock by which each step takes a minute and everything else nothing; keeps what it is told."""

    def __init__(self, *, stop_in_ranking: bool = False) -> None:
        self.now, self.told, self.stop_in_ranking, self.stop = 0.0, [], stop_in_ranking, False

    def step_done(self, *_: object) -> None:
        self.now += 60

    def evaluating(self, *_: object) -> None:
        self.stop = self.stop_in_ranking

    def notice(self, text: str) -> None:
        self.told.append(text)


def bounded(folder: Path, reporter: Minutely, minutes: float, settings: dict[str, Any], **changed: Any) -> Result:
    graph = random_graph(SHAPE)
    made = make_plan(graph, batch_size=100, micro_batch_size=30, emb_reg=0.01, time_reg=0.01, **settings)
    chosen = TrainSettings(**{**SETTINGS, "minutes": minutes, **changed})
    return train(made, graph, chosen, folder, reporter, lambda: reporter.stop, clock=lambda: reporter.now)


def go_on(folder: Path, minutes: float | None, reporter: Minutely | None = None) -> Result:
    reporter = reporter or Minutely()
    name, state = Checkpoints(folder / "checkpoint").newest()
    state.settings = state.settings.model_copy(update={"minutes": minutes})
    return resume(folder, name, state, random_graph(SHAPE), reporter, lambda: reporter.stop, clock=lambda: reporter.now)


def newest_state(folder: Path) -> RunState:
    return Checkpoints(folder / "checkpoint").newest()[1]


@pytest.mark.parametrize(
    ("minutes", "steps"),
    mostly_slow([(0.5, 1), (9.5, 10), (6, 6), (12, 12), (1, 1), (23, 23), (23.5, 24), (1000, 24)], quick=4),
)
def test_it_ends_after_the_step_that_spends_its_time(tmp_path: Path, minutes: float, steps: int) -> None:
    """24 steps in all; validated, checkpointed and ranked as any run is at its end."""
    reporter = Minutely()
    result = bounded(tmp_path / "run", reporter, minutes, ADAM)
    state = newest_state(tmp_path / "run")
    assert (state.steps, state.is_over, result.interrupted) == (steps, True, False)
    assert ((state.epoch - 1) * STEPS + state.examples_done // 100, state.spent_seconds) == (steps, 60 * steps)
    assert result.test is not None
    *epochs, final = reported(tmp_path / "run")
    assert [line["epoch"] for line in epochs] == list(range(1, -(-steps // STEPS) + 1))
    assert epochs[-1]["valid"] is not None, "the last tables are ranked as they are"
    best = max((line for line in epochs if line["valid"]), key=lambda line: line["valid"]["both"]["mrr"])
    assert final["best_epoch"] == best["epoch"]
    events = [line for line in _lines(tmp_path / "run") if "event" in line]
    assert [event["event"] for event in events] == ["time is spent"] * (steps < 24)
    assert [event["what"] for event in events] == reporter.told


@pytest.mark.parametrize("settings", mostly_slow([ADAM, ADAGRAD]), ids=["adam", "adagrad"])
@pytest.mark.parametrize(
    "minutes", [(6,), (2.5, 9, 17), *(pytest.param(m, marks=pytest.mark.slow) for m in [(1,), (10,)])]
)
def test_with_more_minutes_it_ends_with_the_bits_of_one_that_was_never_bounded(
    tmp_path: Path, settings: dict[str, Any], minutes: tuple[float, ...]
) -> None:
    begin(tmp_path / "whole", **settings)
    bounded(tmp_path / "run", Minutely(), minutes[0], settings)
    for more in minutes[1:]:
        assert go_on(tmp_path / "run", more).test is not None
        assert newest_state(tmp_path / "run").spent_seconds == 60 * math.ceil(more), "all sittings together"
    assert not go_on(tmp_path / "run", None).interrupted
    first, second = tensors(tmp_path / "whole"), tensors(tmp_path / "run")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["loss"] for line in reported(tmp_path / "whole")[:-1]] == [
        line["loss"] for line in reported(tmp_path / "run")[:-1]
    ]


def test_stopped_in_the_validation_at_its_end_nothing_is_lost_and_it_is_ranked_again(tmp_path: Path) -> None:
    assert bounded(tmp_path / "run", Minutely(stop_in_ranking=True), 9.5, ADAM, checkpoint_minutes=99).interrupted
    state = newest_state(tmp_path / "run")
    assert (state.steps, state.is_over) == (10, False)
    assert go_on(tmp_path / "run", 9.5).test is not None
    assert newest_state(tmp_path / "run").is_over
    assert reported(tmp_path / "run")[-2]["valid"] is not None


def test_patience_counts_whole_epochs(tmp_path: Path) -> None:
    """At a rate of nearly nothing no validation is better than the first."""
    slow = {"learning_rate": 1e-12, "cooldown": 0.0, "valid_freq": 1}
    bounded(tmp_path / "run", Minutely(), 14, ADAM, **slow)
    assert newest_state(tmp_path / "run").validations_since_best == 1


@pytest.mark.parametrize(
    ("minutes", "cooldown", "said"),
    [
        (9, 0.6, "before the learning rate began to fall"),
        (11, 0.6, "while the learning rate was falling"),
        (11, 0.0, "after 1.83 of 4 epochs: "),
    ],
)
def test_it_says_what_became_of_the_cooldown_and_what_would_be_whole(
    tmp_path: Path, minutes: float, cooldown: float, said: str
) -> None:
    reporter = Minutely()
    bounded(tmp_path / "run", reporter, minutes, ADAM, cooldown=cooldown)
    (told,) = reporter.told
    assert said in told
    assert f"--resume {tmp_path / 'run'} --minutes {2 * minutes:g}" in told
    (whole,) = re.findall(r"--max-epochs (\d+)", told)
    again = Minutely()
    bounded(tmp_path / "whole", again, minutes, ADAM, cooldown=cooldown, max_epochs=int(whole))
    assert again.told == []
    more = Minutely()
    bounded(tmp_path / "more", more, minutes, ADAM, cooldown=cooldown, max_epochs=int(whole) + 1)
    assert more.told != []


def test_the_command_ends_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--device", "cpu", "--rank", "4", "--batch-size", "40000", "--valid-freq", "9"]
    result = invoke("train", *small, "--minutes", "1e-6", "--run-dir", "runs/one")
    assert result.exit_code == 0, result.output
    assert "30 epochs, falling to 0 over the last 25%, no longer than 1e-06 minutes" in result.stdout
    assert "1e-06 minutes are spent, after 1 of 30 epochs, before the learning rate began to fall" in result.stdout
    assert "test    MRR" in result.stdout
    (row,) = read_json("runs")["runs"]
    assert (row["state"], row["epochs"], row["max_epochs"]) == ("finished", 1, 30)
    assert row["test_mrr"] is not None
    assert json.loads((newest_checkpoint(Path("runs/one")) / "state.json").read_text())["steps"] == 1
    fails(2, "finished after 1 epochs, in 1e-06 minutes; give more --minutes", "train", "--resume", "runs/one")
    fails(2, "--minutes 1e-09: the run has taken", "train", "--resume", "runs/one", "--minutes", "1e-9")
    fails(2, "minutes: 0.0: .*greater than 0", "train", *small, "--minutes", "0")
    more = invoke("train", "--resume", "runs/one", "--minutes", "60", "--max-epochs", "2")
    assert more.exit_code == 0, more.output
    assert "minutes are spent" not in more.stdout
    (row,) = read_json("runs")["runs"]
    assert (row["state"], row["epochs"], row["max_epochs"]) == ("finished", 2, 2)
    report = invoke("report", "runs/one")
    assert report.exit_code == 0, report.output


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
