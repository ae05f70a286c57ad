"""Records what PyTorch's allocator does with random traffic, for tests that have no CUDA build to ask:

    python tests/cuda_standin/record_allocator.py tests/support/recorded_allocator.json

The device has 1 GiB, of which 400 or all 1,024 MiB are free; each setting runs in a process of its own. Traffic is a
list of numbers: n above 0 asks for n bytes, below 0 frees what the -n-th request got, and 0 empties the cache.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MIB = 2**20
TOTAL_BYTES = 1024 * MIB
CAPACITIES = (400 * MIB, TOTAL_BYTES)
SETTINGS = (
    "",
    "max_split_size_mb:32",
    "max_split_size_mb:128",
    "expandable_segments:True",
    "expandable_segments:True,max_split_size_mb:64",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:[4:2,16:8,>:1]",
    "per_process_memory_fraction:0.3",
    "per_process_memory_fraction:0.3,expandable_segments:True",
    "garbage_collection_threshold:0.4,per_process_memory_fraction:0.6",
    "large_segment_size_mb:40,max_split_size_mb:64",
    "max_split_size_mb:32,max_non_split_rounding_mb:40",
)
LENGTHS = (60, 90, 120)


def traffic(seed: int, length: int) -> list[int]:
    """Return random traffic."""
    draw = random.Random(seed)
    asked, living, found = 0, [], []
    while len(found) < length:
        if living and draw.random() < 0.42:
            found.append(-living.pop(draw.randrange(len(living))))
        elif draw.random() < 0.03:
            found.append(0)
        else:
            asked += 1
            living.append(asked)
            least, most = draw.choice([(1, 4000), (4000, MIB), (MIB, 10 * MIB), (10 * MIB, 150 * MIB)])
            found.append(
                draw.choice([MIB, 8 * MIB, 20 * MIB, 40 * MIB]) if draw.random() < 0.3 else draw.randint(least, most)
            )
    return found


def really(steps: list[int], capacity_bytes: int) -> list[list[int]]:
    """Return each step that changed reserved bytes or failed: its number, then allocated and reserved bytes, failed."""
    import torch

    from tests.cuda_standin.device import set_capacity

    cuda = torch.cuda
    set_capacity(TOTAL_BYTES, TOTAL_BYTES - capacity_bytes)
    tensors: dict[int, Any] = {}
    asked, reserved, seen = 0, 0, []
    for number, step in enumerate(steps):
        failed = False
        if step > 0:
            asked += 1
            try:
                tensors[asked] = torch.empty(step, dtype=torch.uint8, device="cuda")
            except torch.OutOfMemoryError:
                failed = True
        elif step < 0:
            tensors.pop(-step, None)
        else:
            cuda.empty_cache()
        if failed or cuda.memory_reserved() != reserved:
            reserved = cuda.memory_reserved()
            seen.append([number, cuda.memory_allocated(), reserved, int(failed)])
    return seen


def record(conf: str, seed: int, capacity_bytes: int) -> list[list[int]]:
    """Return ``really`` of a process with these options and a device of its own."""
    command = [sys.executable, str(HERE / "run.py"), "--gpu", "T4", "--bytes", str(TOTAL_BYTES), sys.executable]
    command += [__file__, "--one", str(seed), str(capacity_bytes)]
    variables = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": conf, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    found: list[list[int]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Record all settings, or with ``--one SEED CAPACITY`` print the record of the environment's."""
    if sys.argv[1] == "--one":
        seed, capacity = map(int, sys.argv[2:])
        print(json.dumps(really(traffic(seed, LENGTHS[seed]), capacity)))
        return
    rows = [
        {"conf": conf, "traffic": seed, "capacity_bytes": capacity, "seen": record(conf, seed, capacity)}
        for conf in SETTINGS
        for seed in range(len(LENGTHS))
        for capacity in CAPACITIES
    ]
    kept = {
        "command": "python tests/cuda_standin/record_allocator.py tests/support/recorded_allocator.json",
        "torch": version("torch"),
        "total_bytes": TOTAL_BYTES,
        "seen": "step, allocated bytes, reserved bytes, whether it was out of memory",
        "traffic": [traffic(seed, length) for seed, length in enumerate(LENGTHS)],
        "rows": rows,
    }
    text = json.dumps(kept, separators=(",", ":")).replace('},{"conf"', '},\n{"conf"')
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
