"""Several processes from the command line: started, joined, ended together; one clear line where they cannot be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.cli import invoke
from tkbc.runs.metrics import read_metrics

SMALL = ["--dataset", "demo", "--rank", "8", "--device", "cpu", "--learning-rate", "0.1"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2"}


def memplan(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "memplan", "train", *arguments]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**ENVIRONMENT, **environment}, check=False
    )


@pytest.mark.slow
def test_two_processes_train_and_torchrun_goes_on_with_three(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    done = run(memplan(*SMALL, "--devices", "2", "--max-epochs", "1", "--run-dir", folder))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("mesh  2 shards × 1 replica") == 1
    assert done.stdout.count("run folder") == 1, "one process speaks"
    for name in ("memory_check.json", "memory_check.1.json"):
        peak = json.loads((tmp_path / "run" / name).read_text(encoding="utf-8"))["peak"]
        assert peak["relative_error"] == 0, name
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "memplan"]
    done = run([*torchrun, "train", "--resume", folder, "--shards", "3", "--max-epochs", "2"])
    assert done.returncode == 0, done.stderr
    assert "3 shards × 1 replica instead of 2 shards × 1 replica: planned anew" in done.stdout
    assert done.stdout.count("run folder") == 1, "one process speaks"
    found = read_metrics(tmp_path / "run")
    assert [epoch.epoch for epoch in found.epochs] == [1, 2]
    assert found.final is not None
    newest = sorted((tmp_path / "run" / "checkpoint").iterdir())[-1]
    assert len(list(newest.glob("entity-*-of-00003.safetensors"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "how", "status", "says"),
    [
        ("launcher", signal.SIGTERM, 143, ""),
        ("launcher", signal.SIGKILL, -9, ""),
        ("process", signal.SIGKILL, 1, "was ended by SIGKILL"),
    ],
)
def test_one_signal_to_one_process_ends_all(
    tmp_path: Path, to: str, how: signal.Signals, status: int, says: str
) -> None:
    folder = tmp_path / "run"
    command = memplan(*SMALL, "--devices", "2", "--max-epochs", "1000", "--checkpoint-minutes", "0.001")
    started = subprocess.Popen(
        [*command, "--run-dir", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        while not list(folder.glob("checkpoint/*/state.json")):
            assert started.poll() is None, started.communicate()
            time.sleep(0.1)
        children = children_of(started.pid)
        os.kill(started.pid if to == "launcher" else children[-1], how)
        out, err = started.communicate(timeout=60)
        gone, alive = psutil.wait_procs([psutil.Process(child) for child in children if psutil.pid_exists(child)], 60)
        del gone
    finally:
        for child in [started.pid, *children_of(started.pid)]:
            if psutil.pid_exists(child):
                os.kill(child, signal.SIGKILL)
    assert not alive
    assert started.returncode == status, err
    assert says in err
    assert len(err.splitlines()) == (1 if says else 0), err
    assert ("a checkpoint holds every finished step" in out) == (to == "launcher")


def children_of(process: int) -> list[int]:
    """The processes that ``launch`` has started, in the order of their numbers."""
    try:
        children = psutil.Process(process).children()
    except psutil.NoSuchProcess:
        return []
    return sorted(child.pid for child in children if "memplan.app.jobs.together" in child.cmdline())


@pytest.mark.parametrize(
    ("n", "more", "status", "says"),
    [
        ("2", [], 1, "of 2 processes, counted from 0, 1 did not start within 0 s; start all of them"),
        ("1", ["--devices", "2"], 2, "--devices 2: torchrun started 1 processes; give that number"),
    ],
)
def test_processes_that_torchrun_did_not_start_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: str, more: list[str], status: int, says: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tkbc.sharded.connected.JOIN_SECONDS", 0.5)
    result = invoke("train", *SMALL, *more, "--run-dir", str(tmp_path / "new"))
    assert (result.exit_code, result.stderr.count("\n")) == (status, 1), result.output
    assert says in result.stderr
    assert not (tmp_path / "new").exists(), "nothing is written before all are there"
