"""What tests of training share with others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from memplan.device.rates import cpu_rates
from memplan.device.target import Target
from memplan.plan import Plan
from memplan.search.planner import plan
from memplan.workload import Shape
from tests.conftest import REAL_DATA
from tkbc.data import Dataset
from tkbc.runs.checkpoint_folders import Checkpoints

SHAPE = Shape(n_entities=60, n_relations=4, n_timestamps=8, n_facts=300)


ROOT = Path(__file__).resolve().parents[2]


GUIDE = REAL_DATA.parent / "guide" / "TNTPairRE_memory_optimization_guide.vi.md"


def make_plan(graph: Dataset, **settings: Any) -> Plan:
    target = Target("cpu", "CPU", 2**30, "test", cpu_rates(), 0)
    return plan(graph.shape, target, **{"model": "TNTPairRE", "rank": 8, "threads": 2, "n_queries": 14, **settings})


def newest_checkpoint(folder: Path) -> Path:
    return folder / "checkpoint" / Checkpoints(folder / "checkpoint").newest()[0]


def guide_commands() -> list[str]:
    """Every learner command in the guide, as its code blocks write them."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [block for block in blocks if "learner.py" in block]
