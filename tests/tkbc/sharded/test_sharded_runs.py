"""Runs of several processes: stopped, resumed, failing in one of them; always one checkpoint that all agree on."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from memplan.errors import DoesNotFitError, FailedElsewhereError, MemplanError, NotFiniteError
from memplan.plan import Plan
from memplan.workload import build_workload
from tests.conftest import random_graph
from tests.support.processes import checked, here, in_processes
from tests.support.resume import SETTINGS, StopAt, reported
from tests.support.training import SHAPE, make_plan
from tkbc.runs.checkpoint_folders import Checkpoints
from tkbc.runs.train import Result, TrainSettings, resume, train
from tkbc.step.trainer import Trainer
from tkbc.use.trained import load_trained

MODEL: dict[str, Any] = {"model": "TNTPairRE", "optimizer": "adam", "unit_norm": True, "emb_reg": 0.01}


def planned(n: int, **settings: Any) -> Plan:
    sizes = {"batch_size": 100, "micro_batch_size": 30, "chunk_size": 24}
    return make_plan(random_graph(SHAPE), **{**MODEL, **sizes, "shards": n, "replicas": 1, **settings})


def begin(folder: Path, n: int, stop_at: int | None = None, **settings: Any) -> Result:
    made, reporter = planned(n), StopAt(stop_at)
    chosen = TrainSettings(**{**SETTINGS, **settings})
    stop = lambda: reporter.stop  # noqa: E731
    return train(made, random_graph(SHAPE), chosen, folder, reporter, stop, processes=here(made.workload))


def go_on(folder: Path, n: int) -> Result:
    name, state = Checkpoints(folder / "checkpoint").newest() or pytest.fail("no checkpoint")
    state.plan = planned(n)
    return resume(folder, name, state, random_graph(SHAPE), processes=here(state.plan.workload))


def whole_and_cut(folder: Path) -> None:
    """A run in one go, one that stops in its ninth step and goes on, one that a single process will go on with."""
    begin(folder / "whole", 2)
    for name in ("cut", "alone"):
        # One process alone was asked to stop: the signal came to it and not to the other.
        stopped = begin(folder / name, 2, 9 if os.environ["RANK"] == "1" else None)
        assert stopped.interrupted
    assert not go_on(folder / "cut", 2).interrupted


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_bit_for_bit_and_in_another_number_of_processes(tmp_path: Path) -> None:
    checked(in_processes(2, whole_and_cut, tmp_path))
    names = sorted(path.name for path in newest(tmp_path / "whole").glob("*.safetensors"))
    assert names == [
        "entity-00001-of-00002.safetensors", "entity-00002-of-00002.safetensors",
        "model.safetensors", "optimizer.safetensors",
    ]  # fmt: skip
    for name in names:
        one, other = (load_file(newest(tmp_path / run) / name) for run in ("whole", "cut"))
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one)
    assert reported(tmp_path / "whole") == reported(tmp_path / "cut")
    for process in ("memory_check.json", "memory_check.1.json"):
        peak = json.loads((tmp_path / "whole" / process).read_text(encoding="utf-8"))["peak"]
        assert peak["measured"]["requested_bytes"] == peak["predicted"]["requested_bytes"]
    # One process reads what two wrote, and goes on to where they went.
    name, state = Checkpoints(tmp_path / "alone" / "checkpoint").newest() or pytest.fail("no checkpoint")
    assert (state.steps, state.plan.workload.process) == (9, 0)
    state.plan = planned(1)
    resume(tmp_path / "alone", name, state, random_graph(SHAPE))
    ours = load_trained(newest(tmp_path / "alone"), planned(1).workload)
    theirs = load_trained(newest(tmp_path / "whole"), planned(2).workload)
    for (table, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3, err_msg=table)
    assert_refused_where_it_is_another_graphs_or_not_whole(tmp_path / "whole")


def assert_refused_where_it_is_another_graphs_or_not_whole(run: Path) -> None:
    """Rows of 60 entities, in two files, where the model has 61; then one of the files is gone."""
    larger = SHAPE.model_copy(update={"n_entities": 61})
    with pytest.raises(MemplanError, match=r"'entity' is \(60, 8\) F32, the run's \(61, 8\) F32"):
        load_trained(newest(run), build_workload(larger, model="TNTPairRE", rank=8))
    name = newest(run).name
    (newest(run) / "entity-00002-of-00002.safetensors").unlink()
    with pytest.raises(MemplanError, match=f"{name}: cannot be read: No such file"):
        Checkpoints(run / "checkpoint").read(name)


def newest(folder: Path) -> Path:
    return folder / "checkpoint" / Checkpoints(folder / "checkpoint").names()[-1]


def failing(folder: Path, what: str) -> None:
    """A run in which something goes wrong in the second process alone, in the fourth step or the third checkpoint."""
    if os.environ["RANK"] == "1":
        patch = pytest.MonkeyPatch()
        if what == "memory":
            step = Trainer.step

            def out_of_memory(self: Trainer, *arguments: Any) -> None:
                if self.steps == 3:
                    raise MemoryError("no room")
                step(self, *arguments)

            patch.setattr(Trainer, "step", out_of_memory)
        elif what == "disk":

            def full(path: Path, *arguments: Any) -> None:
                if "00000003" in str(path):
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                write(path, *arguments)

            import tkbc.runs.checkpoint

            write = tkbc.runs.checkpoint.write_tensors
            patch.setattr("tkbc.runs.checkpoint.write_tensors", full)
        else:
            update = Trainer._finish_gradients

            def not_finite(self: Trainer, n_examples: int) -> None:
                update(self, n_examples)
                if self.steps == 3:
                    self.model.entity.grad[0, 0] = float("nan")

            patch.setattr(Trainer, "_finish_gradients", not_finite)
    begin(folder / what, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "expected", "says"),
    [
        ("memory", DoesNotFitError, "process 1 ran out of memory: no room"),
        ("disk", MemplanError, "No space left on device"),
        ("numbers", NotFiniteError, "epoch 1, step 4: not finite any more: the gradient of entity"),
    ],
)
def test_what_goes_wrong_in_one_process_ends_all_and_is_said_once(
    tmp_path: Path, what: str, expected: type[Exception], says: str
) -> None:
    first, second = in_processes(2, failing, tmp_path, what)
    assert isinstance(first, FailedElsewhereError), first
    assert isinstance(second, expected), second
    assert says in str(second)
    _, state = Checkpoints(tmp_path / what / "checkpoint").newest() or pytest.fail("no checkpoint")
    assert state.steps == (2 if what == "disk" else 3)
    assert not list((tmp_path / what / "checkpoint").glob("*.unfinished"))
