"""Writes down what real steps requested on the stand-in device, for tests without it.

    run.py --gpu T4 python tests/cuda_standin/record_steps.py tests/support/recorded_steps.json

Each row: a random workload, and the peaks of its phases as PyTorch's CUDA allocator counted them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from memplan.workload import Workload
from tests.cuda_standin.answered import answer
from tests.cuda_standin.device import set_capacity
from tests.cuda_standin.measure_steps import PLENTY_BYTES, settled_gradients
from tests.cuda_standin.workloads import step_workloads
from tkbc.verify import measure


def row(workload: Workload) -> dict[str, Any]:
    """Return a workload with the requested and allocated bytes of its phases."""
    peaks = measure(workload)
    return {
        "workload": workload.model_dump(mode="json", exclude_defaults=True),
        "phases": {name: [peak.requested_bytes, peak.allocated_bytes] for name, peak in peaks.items()},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    answer()
    set_capacity(PLENTY_BYTES)
    with settled_gradients():
        rows = [json.dumps(row(workload)) for workload in step_workloads(given.count, given.seed, 0.25)]
    about = f"requested and allocated bytes, PyTorch {torch.__version__}, {torch.cuda.get_device_name()} (stand-in)"
    given.out.write_text(f'{{"about": "{about}",\n"rows": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
