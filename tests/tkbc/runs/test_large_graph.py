"""A million entities on a CPU: the whole process, libraries included, stays within 3 GiB."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
from memplan import Shape, plan
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

shape = Shape(n_entities=1_000_000, n_relations=50, n_timestamps=100, n_facts=100_000)
found = plan(shape, model="TNTPairRE", rank=64, batch_size=256, device="cpu", budget="2GiB", optimizer="adagrad")
trainer = Trainer(found.workload, random_facts(shape, shape.n_facts), learning_rate=0.1)
before = trainer.model.entity.detach()[::997].clone()
trainer.step(trainer.shuffled(0)[:256])
assert (trainer.model.entity.detach()[::997] != before).any()
# Of this program alone: what getrusage says begins with the peak of the process that started it.
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, found.peak.requested_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says how much memory a program has had")
@pytest.mark.slow
def test_a_step_with_a_million_entities_takes_less_than_3_gib_in_all() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resident, planned = (int(number) for number in done.stdout.split())
    assert planned > 3 * 64 * 1_000_000 * 4, "parameters, gradients and Adagrad's sums of the entities alone"
    assert resident < 3 * 2**30
