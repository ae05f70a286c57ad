"""The commands as a user runs them: output contract, exit status, and one clear line for every mistake."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memplan import plan
from memplan.catalog.datasets import DATASETS
from memplan.memory.ghost import Ghost
from memplan.plan import Plan, to_json
from memplan.workload import TRAITS
from tests.conftest import random_graph, write_folder
from tests.support.cli import fails, invoke, read_json
from tests.support.data import SHAPE

TINY = ["plan", "--dataset", "demo", "--device", "cpu", "--budget", "1KiB"]
COUNTS = ["plan", "--n-relations", "9", "--n-timestamps", "9", "--n-facts", "9"]


@pytest.mark.parametrize("command", ["estimate", "plan"])
def test_more_queries_than_the_split_holds_are_not_ranked_at_once(command: str) -> None:
    asked = [command, "--device", "cpu", "--eval-batch-size"]
    assert read_json(*asked, "9000")["workload"] == read_json(*asked, "5000")["workload"]
    assert read_json(*asked, "4999")["workload"]["eval_batch_size"] == 4999
    fails(2, "eval_batch_size: 0", *asked, "0")


@pytest.mark.parametrize("command", ["estimate", "plan"])
def test_planning_imports_none_of_the_trainer_s_libraries(command: str) -> None:
    code = (
        "import sys; from memplan.app.cli import app; "
        f"app(['{command}', '--dataset', 'ICEWS14', '--device', 'cpu'], standalone_mode=False); "
        "loaded = {name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'numba', 'triton'}; "
        "sys.exit(f'imported {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_estimate_as_json_keeps_its_contract() -> None:
    found = read_json(
        "estimate", "--dataset", "ICEWS14", "--model", "TNTPairRE", "--rank", "100", "--batch-size", "1000",
        "--scoring", "materialized", "--device", "cpu", "--budget", "16GiB",
    )  # fmt: skip
    assert found["workload"]["dataset"] == "ICEWS14"
    assert set(found["peak"]) == {"requested_bytes", "allocated_bytes", "reserved_bytes", "device_bytes"}
    assert found["phases"][0].keys() == {"name", "peak_bytes"}
    assert found["tensors_at_peak"][0].keys() == {"name", "shape", "dtype", "bytes", "kind", "phase"}
    assert found["tensors_at_peak"][0]["shape"] == [1000, 7128, 100]
    assert found["tensors_at_peak"][0]["bytes"] == 2_851_200_000
    assert found["peak"]["requested_bytes"] == sum(tensor["bytes"] for tensor in found["tensors_at_peak"])
    assert found["budget_bytes"] == 16 * 2**30
    assert found["fits"] is True


def test_estimate_for_a_reader_names_the_tensor_and_how_many_live() -> None:
    result = invoke("estimate", "--dataset", "ICEWS14", "--rank", "100", "--scoring", "materialized", "--device", "cpu")
    assert "3 tensors of shape (1000, 7128, 100), 2,851,200,000 bytes each, live at the peak" in result.stdout
    assert "▁" in result.stdout, "memory over one step, in one line"
    few = invoke("estimate", "--device", "cpu").stdout
    every = invoke("estimate", "--device", "cpu", "--explain").stdout
    assert "more (--explain)" in few
    assert len(every.splitlines()) > len(few.splitlines())


def test_an_estimate_that_does_not_fit_is_printed_and_ends_with_3() -> None:
    result = invoke("estimate", "--dataset", "ICEWS14", "--rank", "100", "--device", "cpu", "--budget", "20MiB")
    assert result.exit_code == 3
    assert "does not fit" in result.stdout


def test_a_plan_for_which_nothing_fits_is_json_too() -> None:
    result = invoke("plan", "--dataset", "ICEWS14", "--rank", "1000", "--device", "cpu", "--budget", "20MiB", "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert (found["fits"], found["budget_bytes"]) == (False, 20 * 2**20)
    assert "the smallest budget that would do is" in found["reason"]
    assert found["reason"] in result.stderr


def test_plan_as_json_keeps_its_contract() -> None:
    found = read_json("plan", "--dataset", "ICEWS14", "--model", "TNTPairRE", "--device", "T4")
    assert {
        "batch_size", "micro_batch_size", "accumulation_steps", "rank", "chunk_size", "scoring", "precision",
        "eval_batch_size", "eval_chunk_size", "peak", "budget_bytes", "fits", "reason", "alternatives",
    } <= set(found)  # fmt: skip
    assert Plan.model_validate(found).fits


def test_plan_for_a_graph_given_by_its_counts() -> None:
    counts = ["--n-entities", "50000", "--n-relations", "10", "--n-timestamps", "20", "--n-facts", "100000"]
    found = read_json("plan", *counts, "--device", "cpu", "--budget", "1GiB")
    assert found["workload"]["n_entities"] == 50_000
    assert found["workload"]["dataset"] is None
    fails(2, r"needs all four; add --n-relations, --n-timestamps, --n-facts", "plan", "--n-entities", "5")


def test_a_folder_is_counted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "graph", random_graph(SHAPE))
    found = read_json("estimate", "--dataset", str(folder), "--device", "cpu")
    assert found["workload"]["n_facts"] == SHAPE.n_facts
    assert found["workload"]["batch_size"] == 2 * SHAPE.n_facts, "the recipe's batch is cut to the data"


def test_a_catalog_s_dataset_that_is_at_hand_is_counted_wherever_train_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "YAGO15K", random_graph(SHAPE))
    asked = ["--dataset", "yago15k", "--device", "cpu", "--rank", "4"]
    assert read_json("plan", *asked)["workload"]["n_entities"] == DATASETS["YAGO15K"].shape.n_entities
    named = read_json("plan", *asked, "--data-dir", str(tmp_path))
    monkeypatch.setenv("TKBC_DATA", str(tmp_path))
    assert read_json("plan", *asked)["workload"] == named["workload"]
    assert named["workload"]["n_entities"] == SHAPE.n_entities
    (tmp_path / "plan.json").write_text(json.dumps(named))
    run = ["--plan", str(tmp_path / "plan.json"), "--max-epochs", "1", "--run-dir", str(tmp_path / "run")]
    assert invoke("train", *run).exit_code == 0


def test_names_stand_for_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    from memplan.app.views.terminal import make_console

    make_console().print("r:x:y [bold]runs/:b:[/bold]")
    assert capsys.readouterr().out == "r:x:y [bold]runs/:b:[/bold]\n"


def test_listings(tmp_path: Path) -> None:
    datasets = read_json("datasets", "--data-dir", str(tmp_path))["datasets"]
    assert [row["name"] for row in datasets] == list(DATASETS)
    assert all(row["folder"] is None for row in datasets)
    assert read_json("devices")["cpu"]["free_bytes"] > 0
    assert [row["name"] for row in read_json("models")["models"]] == list(TRAITS)
    for command in ("datasets", "devices", "models"):
        result = invoke(command)
        assert result.exit_code == 0
        assert result.stdout


@pytest.mark.parametrize(
    ("status", "message", "arguments"),
    [
        (2, r"unknown dataset 'ICEWS41'; did you mean ICEWS14", ["estimate", "--dataset", "ICEWS41"]),
        (2, r"unknown model 'TNTPairE'; did you mean TNTPairRE", ["plan", "--model", "TNTPairE"]),
        (2, r"unknown device 'T5'; did you mean T4", ["plan", "--device", "T5"]),
        (2, r"unknown dataset 'nowhere'; known: .*ICEWS14", ["train", "--dataset", "nowhere"]),
        (1, r"nowhere/at/all: no such folder", ["train", "--dataset", "nowhere/at/all"]),
        (1, r"ICEWS14 is not on this machine: looked in .*/ICEWS14 .*mmkb", ["train", "--dataset", "ICEWS14"]),
        (2, r"rank: 0: ", ["estimate", "--rank", "0"]),
        (2, r"micro_batch_size: 5000 is larger than batch_size 500", ["plan", "--micro-batch-size", "5000"]),
        (2, r"unknown dataset ''", ["plan", "--dataset", ""]),
        (2, r"unknown dataset 'x{300}'", ["plan", "--dataset", "x" * 300]),
        (1, r"/etc/passwd: a file, not a folder", ["plan", "--dataset", "/etc/passwd"]),
        (2, r"exclude each other", ["plan", "--dataset", "ICEWS14", "--n-entities", "5"]),
        (2, r"emb_reg", ["plan", "--emb-reg", "1e300"]),
        (1, r"is not on this machine", ["plan", "--dataset", "ICEWS14", "--data-dir", "nowhere"]),
        (2, r"--run-dir \.: no name for a new folder", ["train", "--run-dir", ""]),
        (2, r"batch_size: 1,000,000 is larger than the data.*use at most 40000", ["plan", "--batch-size", "1000000"]),
        (2, r"--budget: 'some' is no size", ["plan", "--budget", "some", "--device", "cpu"]),
        (2, r"--budget: .* is out of range", ["plan", "--budget", "0MiB", "--device", "cpu"]),
        (3, r"nothing fits 1\.00 MiB .*the smallest budget that would do is \d+MiB", ["plan", "--budget", "1MiB"]),
        (2, r"--rank: 'much' is neither a whole number nor auto or max", ["plan", "--rank", "much"]),
        (2, r"--batch-size: 'all' is neither a whole number nor auto", ["plan", "--batch-size", "all"]),
        (2, r"--rank max: an estimate chooses nothing", ["estimate", "--rank", "max"]),
        (2, r"--batch-size auto: an estimate chooses nothing", ["estimate", "--batch-size", "auto"]),
        (2, r"--batch-size auto: the search chooses it; add --auto-fit-gpu", ["train", "--batch-size", "auto"]),
        (2, r"--rank auto: an estimate chooses nothing", ["estimate", "--rank", "auto"]),
        (2, r"--rank auto: the search chooses it; add --auto-fit-gpu", ["train", "--rank", "auto"]),
        (2, r"--epoch-seconds: nan", ["plan", "--rank", "auto", "--epoch-seconds", "nan", "--device", "cpu"]),
        (2, r"rank: -3: ", ["plan", "--rank", "-3"]),
        (2, r"--budget: 'nan' is no size", ["plan", "--budget", "nan", "--device", "cpu"]),
        (2, r"--budget: '-1GiB' is no size", ["plan", "--budget", "-1GiB", "--device", "cpu"]),
        (2, r"--budget: '3 furlongs': 'furlongs' is no unit", ["plan", "--budget", "3 furlongs", "--device", "cpu"]),
        (2, r"n_entities: 10{18}: .* less than or equal", [*COUNTS, "--n-entities", "1" + "0" * 18]),
        (2, r"n_entities: 0: ", [*COUNTS, "--n-entities", "0"]),
        (2, r"--batch-sizes: '-5' is no whole number", ["compare", "--ranks", "5", "--batch-size", "-5"]),
        (2, r"exclude each other", ["compare", "--ranks", "5,6", "--rank", "7"]),
        (2, r"exclude each other", ["compare", "--scorings", "fused", "--scoring", "chunked"]),
        (2, r"leave out --eval-batch-size", ["compare", "--eval-batch-size", "5", "--device", "cpu"]),
        (1, r"nowhere: no such folder", ["runs", "nowhere"]),
        (
            2,
            r"alloc_conf: 'backend' is not modelled",
            ["plan", "--device", "T4", "--alloc-conf", "backend:other"],
        ),
        (2, r"TNTComplEx is scored with dot", ["plan", "--model", "TNTComplEx", "--score", "l2"]),
        (2, r"a picture ends in \.png, \.svg, \.pdf", ["estimate", "--plot", "memory.txt", "--device", "cpu"]),
        (1, r"no/where\.png: cannot be written", ["estimate", "--plot", "no/where.png", "--device", "cpu"]),
        (2, r"--device T4: only what is here can be measured", ["calibrate", "--device", "T4"]),
        (2, r"--device T4: only what is here can be measured", ["verify", "--device", "T4"]),
        (2, r"--csv and --json exclude each other", ["compare", "--csv", "--json", "--device", "cpu"]),
        (2, r"scoring: 'foo'", ["compare", "--scorings", "foo", "--device", "cpu"]),
        (2, r"--epoch-seconds bounds --rank auto or max", ["plan", "--epoch-seconds", "5", "--device", "cpu"]),
        (3, r"would do is 1MiB \(rank 1, .*Raise the budget$", [*TINY, "--allow-rank-reduction"]),
        (2, r"learning_rate: -1", ["train", "--learning-rate", "-1"]),
        (2, r"max_epochs: 0", ["train", "--max-epochs", "0"]),
        (1, r"absent\.json: no such file", ["train", "--plan", "absent.json"]),
        (2, r"leave out --rank", ["train", "--plan", "absent.json", "--rank", "5"]),
        (1, r"sees no CUDA device here", ["train", "--device", "T4"]),
    ],
)
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    import torch

    if "T4" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    fails(status, message, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_line_with_three_columns_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "graph", random_graph(SHAPE))
    with (folder / "valid").open("a", encoding="utf-8") as file:
        file.write("a\tb\tc\n")
    fails(1, r"valid:8: 3 columns where 4 are expected", "train", "--dataset", str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


def test_compare_tabulates_the_grid() -> None:
    grid = ["--ranks", "50,100", "--batch-sizes", "256,1000", "--dataset", "ICEWS14", "--device", "cpu"]
    rows = read_json("compare", *grid, "--budget", "3GiB")["rows"]
    assert [(row["rank"], row["batch_size"], row["scoring"]) for row in rows] == [
        (rank, batch, scoring) for rank in (50, 100) for batch in (256, 1000) for scoring in ("materialized", "fused")
    ]
    assert [row["fits"] for row in rows] == [True, True, False, True, True, True, False, True]
    shown = invoke("compare", *grid, "--budget", "3GiB").stdout
    assert shown.count("does not fit") == 2
    fails(2, r"--ranks: 'x' is no whole number", "compare", "--ranks", "50,x")


def test_compare_by_default_sets_the_guide_s_figures_beside_ours() -> None:
    rows = read_json("compare", "--device", "T4")["rows"]
    assert [row["guide_says"] for row in rows[::2]] == [
        "2.7 GB", "0.54 GB", "0.6 GB", "0.8 GB", "0.9 GB", "OOM", "0.7 GB", "0.8 GB", "0.4 GB",
    ]  # fmt: skip
    plain, fused = rows[0], rows[1]
    assert plain["tensor_bytes"] == 2_851_200_000
    assert plain["requested_bytes"] > 3 * plain["tensor_bytes"]
    assert fused["requested_bytes"] < 70e6, "8.5 MB of it cuBLAS's workspace"
    assert "T4" in fused["gpus"]
    assert "GTX 1080" not in plain["gpus"], "8 GiB"
    assert "GTX 1080 Ti" not in fused["gpus"], "too old for the kernel"
    shown = invoke("compare", "--device", "T4").stdout
    assert shown.count("trade-off") == 4
    lines = invoke("compare", "--device", "T4", "--csv").stdout.splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[0].startswith("dataset,rank,batch_size,scoring,tensor_bytes")


def test_compare_with_any_wish_is_a_grid_of_that_and_says_each_row_once() -> None:
    rows = read_json("compare", "--model", "ComplEx", "--dataset", "ICEWS14", "--device", "cpu")["rows"]
    assert all(row["guide_says"] is None for row in rows)
    assert len(read_json("compare", "--ranks", "10,10", "--scoring", "fused", "--device", "cpu")["rows"]) == 4


def test_explain_names_knobs_and_when_each_tensor_was_born() -> None:
    command = [
        "estimate",
        "--dataset",
        "ICEWS14",
        "--rank",
        "100",
        "--scoring",
        "materialized",
        "--device",
        "T4",
        "--explain",
    ]
    found = read_json(*command)
    assert found["knobs"][0]["change"] == "--scoring fused"
    assert found["tensors_at_peak"][0]["phase"] == "score"
    shown = invoke(
        "estimate", "--dataset", "ICEWS14", "--rank", "100", "--scoring", "materialized", "--device", "T4", "--explain"
    ).stdout
    assert re.search(r"--scoring fused +−7\.9\d GiB +same result", shown)


def test_the_picture_of_a_step_is_drawn(tmp_path: Path) -> None:
    for name in ("memory.png", "memory.svg"):
        path = tmp_path / name
        assert invoke("estimate", "--device", "cpu", "--budget", "40MiB", "--plot", str(path)).exit_code == 0
        assert path.stat().st_size > 10_000
    assert "score backward" in path.read_text(encoding="utf-8") or "<path" in path.read_text(encoding="utf-8")


def test_a_run_s_folder_gives_its_estimate_and_what_was_measured(tmp_path: Path) -> None:
    from tkbc.measure.meter import CpuMeter
    from tkbc.step.trainer import Trainer
    from tkbc.verify import random_facts

    found = plan(SHAPE, model="TNTPairRE", rank=8, micro_batch_size=7, chunk_size=9, device="cpu", budget="1GiB")
    meter = CpuMeter()
    with meter.recording():
        trainer = Trainer(found.workload, random_facts(SHAPE, SHAPE.n_facts), learning_rate=0.1, phase=meter.phase)
        trainer.step(trainer.shuffled(1)[: found.batch_size])
    assert max(n_bytes for _, n_bytes in meter.curve) == max(
        phase.peak_bytes for phase in found.phases if phase.name not in ("evaluation", "checkpoint")
    )
    (tmp_path / "plan.json").write_text(to_json(found), encoding="utf-8")
    file = tmp_path / "memory_curve.json"
    file.write_text(json.dumps({"points": meter.curve}), encoding="utf-8")
    picture = tmp_path / "memory.svg"
    assert invoke("estimate", "--run", str(tmp_path), "--plot", str(picture)).exit_code == 0
    assert picture.stat().st_size > 10_000
    assert read_json("estimate", "--run", str(tmp_path))["workload"] == found.workload.model_dump()
    for flag, value in (("--rank", "5"), ("--recipe", "guide"), ("--data-dir", "x"), ("--n-facts", "9")):
        fails(2, f"--run settles what is estimated; leave out {flag}", "estimate", "--run", str(tmp_path), flag, value)
    fails(2, "the run's plan is for cpu", "estimate", "--run", str(tmp_path), "--device", "T4")
    file.write_text('{"points": [["score", -1]]}', encoding="utf-8")
    fails(1, r"memory_curve\.json: no measured curve", "estimate", "--run", str(tmp_path), "--plot", str(picture))
    fails(1, r"plan\.json: no such file", "estimate", "--run", str(tmp_path / "absent"))


@pytest.mark.slow
def test_plans_use_what_calibrate_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = read_json("plan", "--device", "cpu")["seconds_per_epoch"]
    measured = read_json("calibrate", "--device", "cpu")
    assert measured["error"] > 0
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in measured["step_seconds"].values())
    assert any(seconds > 0 for seconds in measured["step_seconds"].values())
    after = read_json("plan", "--device", "cpu")["seconds_per_epoch"]
    assert after != before
    assert "9 steps of 10 measured here" in " ".join(invoke("plan", "--device", "cpu").stdout.split())
    file = tmp_path / "memplan" / "calibration.json"
    entries = json.loads(file.read_text(encoding="utf-8"))["devices"]
    assert [entry["device"] for entry in entries] == ["CPU"]
    file.write_text('{"devices": [{}]}', encoding="utf-8")
    fails(1, r"calibration\.json: devices\.0\.device: missing; delete it", "plan", "--device", "cpu")


@pytest.mark.slow
def test_verify_finds_every_byte_and_fails_above_its_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_json("verify", "--count", "6")
    assert len(found["rows"]) == 6
    assert all(row["check"]["peak"]["relative_error"] == 0 for row in found["rows"])
    assert "6 of 6 workloads exact" in invoke("verify", "--count", "6").stdout

    def forgetful(like: Ghost, shape: tuple[int, ...] | int, dtype: Any = None) -> Ghost:
        """Take no memory: a planner that forgets buffers and scratch."""
        return Ghost(
            like.library, like.allocation, (shape,) if isinstance(shape, int) else shape, dtype or like.dtype, like
        )

    monkeypatch.setattr(Ghost, "new_empty", forgetful)
    result = invoke("verify", "--count", "12")
    assert result.exit_code == 1, result.output
    assert re.search(r"\+\d", result.stdout)
