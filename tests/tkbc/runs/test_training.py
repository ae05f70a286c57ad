"""Whole runs: the command, the run folder, the guide's own commands, determinism, and stopping."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memplan.app.views.repeat import how_to_repeat
from memplan.catalog.datasets import find_dataset
from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.errors import MemplanError
from memplan.plan import MemoryCheck, Plan
from memplan.search.planner import plan
from memplan.workload import Shape
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke
from tests.support.models_cases import MODEL_NAMES
from tests.support.training import ROOT, SHAPE, guide_commands, make_plan, newest_checkpoint
from tkbc import learner
from tkbc.data import Dataset, load_dataset
from tkbc.models import MODELS
from tkbc.runs import watch
from tkbc.runs.checkpoint import load_model
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import Reporter, TrainSettings, train
from tkbc.step.trainer import Trainer


def run(folder: Path, graph: Dataset | None = None, epochs: int = 3, **settings: Any) -> Any:
    graph = graph or random_graph(SHAPE)
    return train(make_plan(graph, **settings), graph, TrainSettings(learning_rate=0.1, max_epochs=epochs), folder)


def test_a_run_folder_holds_what_the_contract_says(tmp_path: Path) -> None:
    result = run(tmp_path / "run", emb_reg=0.01, time_reg=0.01, unit_norm=True)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "plan.json", "config.json", "metrics.jsonl", "memory_check.json", "memory_curve.json", "progress.json",
        "checkpoint", "lock",
    }  # fmt: skip
    assert Plan.read(folder / "plan.json").fits
    assert json.loads((folder / "config.json").read_text())["max_epochs"] == 3
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, None]
    assert lines[2]["valid"]["both"]["mrr"] > 0
    assert lines[3]["test"]["both"]["mrr"] == result.test.both.mrr
    assert lines[2]["loss"] < lines[0]["loss"]
    for line in lines[:3]:  # 300 facts, asked for both ways
        assert line["examples_per_second"] == pytest.approx(600 / line["seconds"], rel=1e-12)
    check = MemoryCheck.model_validate_json((folder / "memory_check.json").read_text())
    assert {"setup", "encode", "score", "score backward", "optimizer", "evaluation"} <= {p.name for p in check.phases}
    assert all(phase.relative_error == 0 for phase in [*check.phases, check.peak])


def test_a_run_with_negatives_is_as_planned_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    result = run(tmp_path / "run", negatives=20, unit_norm=True, emb_reg=0.01)
    plan = Plan.read(tmp_path / "run" / "plan.json")
    check = MemoryCheck.model_validate_json((tmp_path / "run" / "memory_check.json").read_text())
    assert {"draw", "score", "optimizer", "evaluation"} <= {phase.name for phase in check.phases}
    assert all(phase.relative_error == 0 for phase in [*check.phases, check.peak])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[2]["loss"] < lines[0]["loss"]
    assert result.test is not None
    assert "--negatives 20 " in how_to_repeat(plan, {})


@pytest.mark.parametrize("model", MODEL_NAMES)
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_the_checkpoint_gives_the_model_back(tmp_path: Path, model: str, optimizer: str) -> None:
    run(tmp_path / "run", model=model, optimizer=optimizer)
    workload = Plan.read(tmp_path / "run" / "plan.json").workload
    restored = MODELS[workload.model](workload)
    checkpoint = newest_checkpoint(tmp_path / "run")
    load_model(checkpoint, restored)
    saved = load_file(checkpoint / "model.safetensors")
    for name, table in restored.named_parameters():
        assert torch.equal(table.detach(), saved[name])
    moments = load_file(checkpoint / "optimizer.safetensors")
    assert moments["entity.step"] > 0
    (checkpoint / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(MemplanError, match="cannot be read"):
        load_model(checkpoint, restored)


def test_a_seed_gives_the_same_run(tmp_path: Path) -> None:
    one, other = (run(tmp_path / name, micro_batch_size=37).test for name in ("one", "other"))
    assert one == other
    tables = [load_file(newest_checkpoint(tmp_path / name) / "model.safetensors") for name in ("one", "other")]
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0])


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
def test_the_rate_falls_to_0_over_the_share_of_the_epochs_that_is_said(tmp_path: Path, optimizer: str) -> None:
    """Against a loop over the trainer's steps with the rates written out: 4 epochs of 3 steps, the last 5 falling."""
    graph = random_graph(SHAPE)
    made = make_plan(graph, batch_size=200, optimizer=optimizer)
    settings = TrainSettings(learning_rate=0.5, max_epochs=4, cooldown=5 / 12)
    rates = [*[0.5] * 8, 0.4, 0.3, 0.2, 0.1]
    assert [settings.rate_at(step, 3) for step in range(12)] == pytest.approx(rates)
    train(made, graph, settings, tmp_path / "run")
    trainer = Trainer(made.workload, graph.train, learning_rate=0.5)
    orders = [part for epoch in range(1, 5) for part in trainer.shuffled(epoch).split(200)]
    for step, order in enumerate(orders):
        trainer.set_learning_rate(settings.rate_at(step, 3))
        trainer.step(order)
    tables = load_file(newest_checkpoint(tmp_path / "run") / "model.safetensors")
    for name, table in trainer.model.named_parameters():
        assert torch.equal(tables[name], table), name


def test_a_cooldown_of_nothing_or_everything() -> None:
    constant, falling = (TrainSettings(learning_rate=0.5, max_epochs=2, cooldown=share) for share in (0, 1))
    assert [constant.rate_at(step, 5) for step in range(10)] == [0.5] * 10
    assert [falling.rate_at(step, 5) for step in range(10)] == pytest.approx([0.05 * (10 - step) for step in range(10)])


def test_a_run_folder_is_never_written_over(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=1)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(MemplanError, match="there is a run already"):
        run(tmp_path / "run", epochs=1)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_plan_for_another_graph_is_refused(tmp_path: Path) -> None:
    made = make_plan(random_graph(SHAPE))
    other = random_graph(SHAPE.model_copy(update={"n_entities": 61}))
    with pytest.raises(MemplanError, match="n_entities=60"):
        train(made, other, TrainSettings(learning_rate=0.1, max_epochs=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stopping_keeps_every_finished_step(tmp_path: Path) -> None:
    graph = random_graph(SHAPE)
    steps = 0

    class Counting(Reporter):
        def step_done(self, *_: object) -> None:
            nonlocal steps
            steps += 1

    result = train(
        make_plan(graph, batch_size=100),
        graph,
        TrainSettings(learning_rate=0.1, max_epochs=9),
        tmp_path / "run",
        Counting(),
        should_stop=lambda: steps >= 8,
    )
    assert result.interrupted
    _, state = Checkpoints(tmp_path / "run" / "checkpoint").newest()
    assert (state.epoch, state.examples_done, state.steps) == (2, 200, 8)


@pytest.mark.slow
def test_the_demo_command_trains_checks_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("train", "--auto-fit-gpu", "--device", "cpu", "--rank", "40", "--max-epochs", "1")
    assert result.exit_code == 0, result.output
    assert "fitting to this machine's memory instead" in result.stdout
    assert re.search(r"peak +[\d,]+ +[\d,]+ +exact", result.stdout)
    assert re.search(r"test +MRR 0\.\d{4}", result.stdout)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("demo-TNTPairRE-")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "(recipe demo: tried here; test MRR 0.373)"),
        (["--n3-parts"], "(what is not given: from the recipe)"),
        (["--init-scale", "0.1"], "(what is not given: from the recipe)"),
        (["--cooldown", "0.25"], "30 epochs, falling to 0 over the last 25% (what is not given: from the recipe)"),
    ],
)
def test_a_recipe_s_result_is_told_for_the_whole_recipe_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tkbc.runs.train.train", lambda *_, **__: sys.exit(0))
    assert said in invoke("train", "--device", "cpu", *options).stdout


def test_without_auto_fit_the_sizes_stay_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "data", random_graph(SHAPE))
    asked = ["--dataset", "./data", "--device", "cpu", "--budget", "600KiB", "--max-epochs", "1"]
    result = invoke("train", *asked)
    assert result.exit_code == 3
    assert "--auto-fit-gpu" in result.stderr
    fitted = invoke("train", "--auto-fit-gpu", *asked)
    assert fitted.exit_code == 0, fitted.output


def test_a_plan_file_trains_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = invoke("plan", "--device", "cpu", "--rank", "9", "--micro-batch-size", "123", "--json")
    (tmp_path / "plan.json").write_text(made.stdout)
    result = invoke("train", "--plan", "plan.json", "--max-epochs", "1", "--run-dir", "run")
    assert result.exit_code == 0, result.output
    assert Plan.read(tmp_path / "run" / "plan.json") == Plan.read(tmp_path / "plan.json")
    again = invoke("train", "--plan", "plan.json", "--run-dir", "run")
    assert (again.exit_code, "there is such a folder already" in again.stderr) == (1, True)


def test_a_plan_file_brings_its_recipe_s_rate_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "ICEWS14", random_graph(SHAPE))
    asked = ["--dataset", "ICEWS14", "--data-dir", ".", "--device", "cpu"]
    made = invoke("plan", *asked, "--recipe", "guide", "--rank", "4", "--json")
    (tmp_path / "plan.json").write_text(made.stdout)
    result = invoke("train", "--plan", "plan.json", "--data-dir", ".", "--max-epochs", "1", "--run-dir", "run")
    assert "learning rate 0.001, 1 epoch (recipe guide, as the plan has it)" in result.stdout
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (kept["learning_rate"], kept["cooldown"]) == (0.001, 0.0)
    for flag, *value in (["--recipe", "icews14"], ["--allow-rank-reduction"], ["--epoch-seconds", "3"]):
        fails(2, f"leave out {flag}, or make a new plan", "train", "--plan", "plan.json", flag, *value)


def test_a_folder_s_plan_finds_its_data_again_and_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "graph", random_graph(SHAPE))
    (tmp_path / "plan.json").write_text(invoke("plan", "--dataset", "./graph", "--device", "cpu", "--json").stdout)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = invoke("train", "--plan", "../plan.json", "--max-epochs", "1", "--run-dir", "run")
    assert result.exit_code == 0, result.output
    check = MemoryCheck.model_validate_json(Path("run/memory_check.json").read_text())
    assert all(phase.relative_error == 0 for phase in [*check.phases, check.peak])


@pytest.mark.parametrize(
    ("edit", "arguments", "status", "message"),
    [
        (lambda plan: plan["peak"].update(requested_bytes=5), [], 1, "do not follow from its workload"),
        (lambda plan: plan.update(phases=[]), [], 1, "do not follow from its workload"),
        (lambda plan: (plan.update(rank=7), plan["workload"].update(rank=7)), [], 1, "do not follow"),
        (dict, ["--budget", "1MiB"], 3, "the plan takes"),
        (dict, ["--device", "T4"], 2, "the plan is for cpu"),
        (dict, ["--model", "TNTComplEx"], 2, "leave out --model"),
        (lambda plan: plan["workload"].update(dataset=None), [], 2, "name its data with --dataset"),
    ],
)
def test_a_plan_that_is_not_for_this_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Any, arguments: list[str], status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made = json.loads(invoke("plan", "--device", "cpu", "--json").stdout)
    edit(made)
    (tmp_path / "plan.json").write_text(json.dumps(made))
    result = invoke("train", "--plan", "plan.json", "--max-epochs", "1", *arguments)
    assert result.exit_code == status, result.output
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(("n_entities", "parts"), [(60, {"score", "evaluation"}), (61, {"score"})])
def test_the_check_stays_cheap_where_there_are_thousands_of_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_entities: int, parts: set[str]
) -> None:
    """Recording every batch of such an evaluation once took all of a machine's memory."""
    assert watch.MEASURED_PIECES <= 5000
    monkeypatch.setattr(watch, "MEASURED_PIECES", 60)
    graph = random_graph(SHAPE.model_copy(update={"n_entities": n_entities}))
    result = run(tmp_path / "run", graph, epochs=1, eval_chunk_size=1, eval_batch_size=3, batch_size=5, chunk_size=7)
    names = {phase.name for phase in result.memory_check.phases}
    assert names & {"score", "evaluation"} == parts


def test_stopping_while_ranking_keeps_the_epoch(tmp_path: Path) -> None:
    graph = random_graph(SHAPE)
    ranking = False

    class Watching(Reporter):
        def evaluating(self, split: str, done: int, n_queries: int) -> None:  # noqa: ARG002
            nonlocal ranking
            ranking = True

    settings = TrainSettings(learning_rate=0.1, max_epochs=2)
    made = make_plan(graph, eval_batch_size=2)
    result = train(made, graph, settings, tmp_path / "run", Watching(), should_stop=lambda: ranking)
    assert (result.interrupted, result.epochs, result.test) == (True, 2, None)
    assert (newest_checkpoint(tmp_path / "run") / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_guide_s_row_trains_inside_200_mib_on_icews14(real_data: Path, tmp_path: Path) -> None:
    """Rank 100, batch 1000: a step and an evaluation, measured. Cut to the valid split to keep it short."""
    graph = load_dataset("ICEWS14", real_data)
    target = Target("cpu", "CPU", 200 * 2**20, "--budget", cpu_rates(), 0)
    made = plan(
        graph.shape, target, model="TNTPairRE", rank=100, batch_size=1000, emb_reg=1e-3, time_reg=1e-2, unit_norm=True
    )
    short = find_dataset("ICEWS14").shape.model_copy(update={"n_facts": 1500})
    few = Dataset(
        graph.name, graph.entities, graph.relations, graph.timestamps, graph.train[:1500], graph.valid, graph.test[:50]
    )
    made = plan(
        short, target, **made.workload.model_dump(include={"model", "rank", "batch_size", "emb_reg", "time_reg"})
    )
    result = train(made, few, TrainSettings(learning_rate=0.1, max_epochs=1), tmp_path / "run")
    assert result.memory_check.peak.relative_error == 0
    assert result.memory_check.peak.measured.requested_bytes <= 200 * 2**20


def words_the_shell_hands_over(command: str) -> tuple[list[str], str]:
    """What the shell, not this test, makes of a command that begins with python; and what else it says."""
    shown = ["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}\n{command}"]
    done = subprocess.run(shown, capture_output=True, text=True, check=False)
    return done.stdout.split("\0")[:-1], done.stderr


@pytest.fixture
def guide_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small graphs under the datasets' names, in the folder that TKBC_DATA names."""
    shape = Shape(n_entities=40, n_relations=3, n_timestamps=7, n_facts=600)
    for name in ("ICEWS14", "ICEWS05-15", "YAGO15K"):
        write_folder(tmp_path / "data" / name, random_graph(shape))
    monkeypatch.setenv("TKBC_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("guide_data")
def test_every_command_of_the_guide_runs_verbatim(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One epoch each: the last word on --max_epochs is one, 100 would only take time."""
    commands = guide_commands()
    assert len(commands) == 5
    for command in commands:
        (file, *words), _ = words_the_shell_hands_over(command)
        assert file == "tkbc/learner.py"
        assert learner.main([*words, "--max_epochs", "1"]) == 0
        told = capsys.readouterr()
        assert re.search(r"test +MRR 0\.\d{4}", told.out), (command, told)
        # The shell ends such a command at the comment and takes the next line for a command of its own.
        assert ("a comment after a backslash ended the command" in told.err) == ("\\  #" in command)


@pytest.mark.slow
def test_a_command_of_the_guide_runs_as_a_process(real_data: Path, guide_data: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (guide_data / "tkbc").symlink_to(ROOT / "tkbc")
    command = next(command for command in guide_commands() if "\\  #" in command)
    shown = ["bash", "-c", f'python() {{ command python "$@" --max_epochs 1; }}\n{command}']
    done = subprocess.run(shown, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert re.search(r"test +MRR 0\.\d{4}", done.stdout), (command, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "a comment after a backslash ended the command" in done.stderr


def test_the_learner_s_mistakes_are_one_line(tmp_path: Path) -> None:
    learner = [sys.executable, str(ROOT / "tkbc" / "learner.py")]
    done = subprocess.run([*learner, "--dataset", "ICEWS99"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("learner.py: unknown dataset 'ICEWS99'; did you mean ICEWS14")
