"""Traced against real training steps, of models that others wrote; MemTracker's figures beside.

    python benchmarks/trace.py                        # on the CPU, against the profiler: results/trace-cpu.json
    python tests/cuda_standin/run.py --gpu T4 python benchmarks/trace.py --device T4  # PyTorch's CUDA allocator

Needs what benchmarks/trace_workloads.py needs. ``--match TEXT`` runs those whose name begins with the text;
``--add FILE`` adds the rows of an earlier result, as far as they are not measured now.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.trace_workloads import Step, workloads
from memplan.device.target import Target, resolve
from memplan.trace.real import record_real
from memplan.trace.tracing import STEPS, peak_of, record

RESULTS = Path(__file__).parent / "results"


def on_cpu(name: str, make_step: Callable[[], Step], target: Target) -> dict[str, Any]:
    """Return traced, measured and MemTracker's peak of one workload, in bytes."""
    gc.collect()
    start = time.process_time()
    traced = record(make_step, {}, target)
    seconds = time.process_time() - start
    gc.collect()
    measured = record_real(make_step, {}, target).ledger.peak_bytes
    row: dict[str, Any] = {
        "workload": name,
        "traced_bytes": traced.ledger.peak_bytes,
        "measured_bytes": measured,
        "relative_error": traced.ledger.peak_bytes / measured - 1,
        "trace_cpu_seconds": round(seconds, 2),
    }
    tracked = mem_tracker(make_step)
    if isinstance(tracked, int):
        row |= {"mem_tracker_bytes": tracked, "mem_tracker_relative_error": tracked / measured - 1}
    else:
        row["mem_tracker_failed"] = tracked
    return row


def mem_tracker(make_step: Callable[[], Step]) -> int | str:
    """Return the peak that PyTorch's MemTracker finds on fake tensors, as documented; else what it raised."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    gc.collect()
    tracker = MemTracker()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), tracker:
            step = make_step()
            for _ in range(STEPS):
                step()
                tracker.reset_mod_stats()
        return int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])
    except Exception as error:  # noqa: BLE001 - whatever stops it is its result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"


def on_cuda(name: str, make_step: Callable[[], Step], target: Target) -> dict[str, Any]:
    """Return traced and measured requested, allocated and reserved bytes of one workload."""
    peak = peak_of(record(make_step, {}, target).ledger, target)
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with torch.device("cuda"):
        step = make_step()
    for _ in range(STEPS):
        step()
    statistics_ = torch.cuda.memory_stats()
    row: dict[str, Any] = {"workload": name}
    for kind in ("requested", "allocated", "reserved"):
        traced, measured = getattr(peak, f"{kind}_bytes"), statistics_[f"{kind}_bytes.all.peak"]
        row |= {f"traced_{kind}_bytes": traced, f"measured_{kind}_bytes": measured}
        row[f"{kind}_relative_error"] = traced / measured - 1
    return row


def summary(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Return how large an error is over all rows that have it."""
    errors = [row[key] for row in rows if key in row]
    if not errors:
        return {}
    return {
        "workloads": len(errors),
        "median_absolute": statistics.median(abs(error) for error in errors),
        "worst_over": max(0.0, *errors),
        "worst_under": min(0.0, *errors),
        "within_1_percent": sum(abs(error) <= 0.01 for error in errors),
    }


def rows_of(device: str, match: list[str]) -> Iterator[dict[str, Any]]:
    """Yield one row a workload; one that cannot be traced or run tells why."""
    target = resolve(device, None)
    measure = on_cuda if target.device == "cuda" else on_cpu
    for name, make_step in workloads(target.device).items():
        if not any(name.startswith(text) for text in match):
            continue
        try:
            row = measure(name, make_step, target)
        except Exception as error:  # noqa: BLE001 - a row of its own, named in the results
            row = {"workload": name, "failed": f"{type(error).__name__}: {str(error)[:200]}"}
        print({k: v for k, v in row.items() if not k.endswith("bytes")}, flush=True)
        yield row


def write(path: Path, device: str, rows: list[dict[str, Any]]) -> None:
    """Write the results so far."""
    rows = sorted(rows, key=lambda row: row["workload"])
    keys = sorted({key for row in rows for key in row if key.endswith("relative_error")})
    result = {
        "device": device,
        "torch": torch.__version__,
        "steps": STEPS,
        "models": len({row["workload"].split(",")[0] for row in rows if "failed" not in row}),
        "summary": {key: summary(rows, key) for key in keys},
        "rows": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run, and write the results."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cpu")
    options.add_argument("--match", nargs="*", default=[""])
    options.add_argument("--add", nargs="*", type=Path, default=[])
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    path = given.out or RESULTS / f"trace-{'cpu' if given.device == 'cpu' else 'cuda-standin'}.json"
    rows = {row["workload"]: row for old in given.add for row in json.loads(old.read_text(encoding="utf-8"))["rows"]}
    for row in rows_of(given.device, given.match):
        rows[row["workload"]] = row
        write(path, given.device, list(rows.values()))
    write(path, given.device, list(rows.values()))
    sys.stdout.flush()
    os._exit(0)  # CUDA's autograd thread may abort an interpreter that ends


if __name__ == "__main__":
    main()
