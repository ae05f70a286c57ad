"""``--devices`` and ``--shards`` as a user gives them: what is printed, as JSON and at 80 columns; what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from memplan import estimate, plan
from memplan.app.request import PlanRequest
from memplan.app.views.next_steps import after_plan
from memplan.app.views.repeat import how_to_repeat
from memplan.app.views.terminal import estimate_report, plan_report
from memplan.device import present as machine
from memplan.device.present import PresentGpu
from memplan.device.target import resolve
from memplan.errors import UsageError
from memplan.plan import Plan
from tests.memplan.app.test_terminal import shown, terminal
from tests.support.cli import fails, invoke, read_json
from tkbc import train

GIB = 2**30
LARGE = ["--n-entities", "50000000", "--n-relations", "1000", "--n-timestamps", "365", "--n-facts", "100000000"]


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", list)
    monkeypatch.setattr("memplan.app.jobs.train.present_gpus", list)


def test_a_plan_for_several_as_json() -> None:
    found = read_json("plan", "--devices", "4xT4", "--shards", "2")
    assert (found["workload"]["shards"], found["workload"]["replicas"], found["workload"]["process"]) == (2, 2, 0)
    mesh = found["mesh"]
    assert (mesh["devices"], mesh["shards"], mesh["replicas"], mesh["counts"]) == (4, 2, 2, None)
    assert mesh["sent_bytes_per_step"] > 0
    assert found["peak"]["device_bytes"] <= found["budget_bytes"]
    one = read_json("plan", "--device", "T4")
    assert found.keys() == one.keys()
    assert one["mesh"] is None


def test_an_estimate_divides_the_table_unless_it_is_told_otherwise() -> None:
    whole, divided = (read_json("estimate", "--devices", "4xT4", *more) for more in (["--shards", "1"], []))
    tensors = [{t["name"]: t["shape"] for t in found["tensors_at_peak"]} for found in (whole, divided)]
    assert [shapes["entity table"][0] for shapes in tensors] == [500, 125]
    assert (divided["mesh"]["shards"], whole["mesh"]["replicas"]) == (4, 4)
    assert estimate("demo", devices="4xT4").model_dump(mode="json") == divided
    explained = invoke("estimate", "--devices", "4xT4", "--explain")
    assert explained.exit_code == 0
    assert "what a knob would save" in explained.stdout


def test_auto_is_the_fewest_that_will_do_and_shows_more() -> None:
    found = read_json("plan", *LARGE, "--device", "H100", "--devices", "auto")
    counts = found["mesh"]["counts"]
    fitting = [count["devices"] for count in counts if count["fits"]]
    assert [count["devices"] for count in counts] == [1, 2, 4, 8, 16]
    assert found["mesh"]["devices"] == fitting[0] == 2
    assert [count["devices"] for count in counts if not count["fits"]] == [1]
    seconds = [count["seconds_per_epoch"] for count in counts if count["fits"]]
    assert seconds == sorted(seconds, reverse=True)
    chosen = read_json("plan", *LARGE, "--devices", "2xH100")
    assert {**found, "mesh": {**found["mesh"], "counts": None}} == chosen
    assert plan("demo", device="cpu", devices="auto").workload.n_processes == 1
    shards = read_json("plan", *LARGE, "--device", "H100", "--devices", "auto", "--shards", "4")
    assert [count["devices"] for count in shards["mesh"]["counts"]] == [4, 8, 16, 32]
    fails(3, r"64 devices.*it is whole on each", "plan", *LARGE, "--device", "GTX 1650", "--devices", "auto")


@pytest.mark.parametrize("devices", ["8xT4", "2"])
def test_eighty_columns_hold_it(devices: str) -> None:
    """No line is longer than its terminal, and every figure of the mesh is there."""
    target, console = resolve("cpu" if devices == "2" else None, None, devices), terminal(80)
    found = plan("demo", devices=devices, device="cpu" if devices == "2" else None)
    console.print(plan_report(found, target))
    console.print(estimate_report(estimate("demo", devices=devices, device=target.device if devices == "2" else None),
                                  target, explain=False))  # fmt: skip
    text = shown(console)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("mesh  ", "sent  ", "host  ", "facts ", "in each process"):
        assert word in text
    assert ("NCCL  1.00 GiB" in text) == ("x" in devices)


def test_what_to_do_next_is_what_was_planned() -> None:
    def flags(**given: Any) -> str:
        return after_plan(PlanRequest(**given), 4).split("memplan train --auto-fit-gpu")[1].strip()

    assert flags(devices="4xT4", dataset="demo") == "--dataset demo --devices 4"
    assert flags(devices="auto", device="T4") == "--devices 4"
    assert flags(devices="4", device="cpu", shards=2) == "--device cpu --devices 4 --shards 2"
    assert after_plan(PlanRequest(devices="4xT4"), 4).startswith("next  on the T4, ")


def test_the_command_that_repeats_a_run_says_how_many() -> None:
    several, one = plan("demo", device="cpu", devices=4, shards=2), plan("demo", device="cpu")
    words = shlex.split(how_to_repeat(several, {}))
    assert (words[words.index("--devices") + 1], words[words.index("--shards") + 1]) == ("4", "2")
    assert not {"--devices", "--shards"} & set(shlex.split(how_to_repeat(one, {})))


@pytest.mark.parametrize(
    ("status", "message", "arguments"),
    [
        (2, "'3x': write a number such as 2", ["plan", "--devices", "3x"]),
        (2, "between 1 and 65536", ["plan", "--devices", "0"]),
        (2, "unknown device 'Foo'", ["plan", "--devices", "2xFoo"]),
        (2, "name two kinds, A100 80GB and T4", ["plan", "--device", "A100-80GB", "--devices", "2xT4"]),
        (2, "devices, which are 4; use one of 1, 2, 4", ["plan", "--devices", "4xT4", "--shards", "3"]),
        (2, "does not divide", ["estimate", "--devices", "4xT4", "--shards", "-2"]),
        (2, "there is one device to hold the table", ["estimate", "--shards", "2"]),
        (2, "divides none of the numbers", ["plan", "--device", "T4", "--devices", "auto", "--shards", "3"]),
        (2, "one of the two has to be said", ["plan", "--devices", "auto", "--rank", "auto"]),
        (2, "an estimate chooses nothing", ["estimate", "--devices", "auto"]),
        (2, "compare tabulates what one device takes", ["compare", "--devices", "2"]),
        (2, "trials train on one device each", ["sweep", "--devices", "2", "--trials", "1"]),
        (1, "no NVIDIA GPU or driver", ["plan", "--device", "cuda", "--devices", "2"]),
        (1, "the plan is for 2 GPUs, and there are 0 here", ["train", "--auto-fit-gpu", "--devices", "2xT4"]),
        (3, r"on each of 2 devices", ["plan", "--device", "cpu", "--devices", "2", "--budget", "1KiB"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(status: int, message: str, arguments: list[str]) -> None:
    fails(status, message, *arguments)


def test_more_than_there_are_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", lambda: [PresentGpu("Tesla T4", 15 * GIB, 14 * GIB)] * 2)
    for command in ("plan", "train"):
        fails(1, "there are 2 GPUs here, Tesla T4, Tesla T4", command, "--devices", "4", "--dataset", "demo")
    found = read_json("plan", "--devices", "auto")
    assert [count["devices"] for count in found["mesh"]["counts"]] == [1, 2]


def test_a_plan_for_several_is_kept_and_not_trained_by_one(tmp_path: Path) -> None:
    made = plan("demo", device="cpu", devices=2)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made.model_dump(mode="json")), encoding="utf-8")
    assert Plan.read(path) == made
    fails(2, "leave out --devices", "train", "--plan", str(path), "--devices", "2")
    edited = made.model_dump(mode="json")
    edited["mesh"]["shards"] += 1
    path.write_text(json.dumps(edited), encoding="utf-8")
    fails(1, "mesh: not that of workload", "train", "--plan", str(path))
    with pytest.raises(UsageError, match="2 processes are not started from within one"):
        train(made, run_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
