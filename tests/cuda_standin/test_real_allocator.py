"""memplan's replay of the caching allocator against PyTorch's own, over random ledgers: equal in every number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_standin import device

pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not device.is_here(), reason="sets the stand-in device's memory: tests/cuda_standin/README.md"),
]

SCRIPT = Path(__file__).with_name("replay_ledgers.py")
COUNT, SEED = 12, 0


@pytest.mark.parametrize(
    "conf", ["", "max_split_size_mb:32", "expandable_segments:True,max_split_size_mb:32", "roundup_power2_divisions:4"]
)
def test_the_replay_is_the_real_allocator(conf: str) -> None:
    """Without bound and at four capacities near the edge. In a process of its own: PyTorch reads its options once."""
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--conf",
            conf,
            "--count",
            str(COUNT),
            "--seed",
            str(SEED),
            "--capacity",
            "none",
            "tight",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"unlimited      {COUNT} runs, {COUNT} equal" in done.stdout
