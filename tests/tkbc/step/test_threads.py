"""Who computes on the CPU: the kernel's threads or PyTorch's, whatever the process had before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.search.planner import plan
from memplan.workload import Shape, build_workload
from tests.conftest import random_graph
from tkbc.runs.train import TrainSettings, train
from tkbc.step.threads import score_threads

SHAPE = Shape(n_entities=900, n_relations=3, n_timestamps=7, n_facts=400)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_one_pool_computes_and_the_process_gets_its_threads_back(threads: int) -> None:
    for model, inside in (("TNTPairRE", 1), ("TNTComplEx", 2)):
        with score_threads(build_workload(SHAPE, model=model, threads=2)):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError), score_threads(build_workload(SHAPE, model="TNTPairRE")):
        raise ZeroDivisionError
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("model", ["TNTPairRE", "TNTComplEx"])
def test_a_run_is_its_plan_s_whatever_threads_the_process_had(model: str, tmp_path: Path) -> None:
    graph = random_graph(SHAPE)
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    made = plan(graph.shape, target, model=model, rank=32, batch_size=200, threads=2, unit_norm=model == "TNTPairRE")
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            folder = tmp_path / f"{threads}"
            train(made, graph, TrainSettings(learning_rate=0.1, max_epochs=2, valid_freq=2), folder)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        (checkpoint,) = sorted((folder / "checkpoint").iterdir())[-1:]
        found.append({path.name: path.read_bytes() for path in checkpoint.iterdir() if path.suffix == ".safetensors"})
    assert found[0] == found[1]
    assert found[0]
