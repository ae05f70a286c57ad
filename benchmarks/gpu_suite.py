"""Everything that a GPU must be asked, in one go of under ten minutes: right, as large as predicted, how fast.

    python benchmarks/gpu_suite.py --out benchmarks/results/gpu-NAME.json

rates     memplan calibrate: rates, and what context and cuBLAS take; first, in a process that has not used CUDA
kernels   every fused L1 kernel against a float64 reference on the CPU, at odd shapes, in each precision
bytes     predicted against measured over random workloads and ICEWS14's shape: requested, allocated, reserved
traces    the allocator's own record of a step, as (action, bytes), to replay in tests
times     training steps of TNTPairRE and TNTComplEx at ICEWS14's shape, and the kernels beside their arithmetic floor

Each part is reported by itself: one that fails says so and the others go on. Needs a CUDA device; --only PART runs one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memplan.catalog.datasets import find_dataset
from memplan.catalog.gpus import recognize
from memplan.device.present import present_gpus
from memplan.device.target import resolve
from memplan.workload import PRECISIONS, ModelName, Precision, Workload, build_workload
from tkbc.measure.meter import start_clean
from tkbc.measure.rates import calibrate
from tkbc.scoring import make_score
from tkbc.scoring.reference import weighted_l1
from tkbc.scoring.rounded import HALF_TYPES
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts, random_workloads, verify

SHAPES = [(1, 1, 1), (3, 100, 40), (33, 719, 17), (64, 1501, 101), (257, 2049, 64), (5, 7128, 500)]
STEP_SECONDS = 2.0


def check_kernels() -> dict[str, Any]:
    """Relative errors of scores and gradients, the latter against the size of their terms."""
    precisions = [p for p in PRECISIONS if p != "bf16" or torch.cuda.get_device_capability() >= (8, 0)]
    cases = [(precision, *shape) for precision in precisions for shape in SHAPES]
    rows = [{"precision": case[0], "shape": case[1:], **_or_error(_kernel_errors, *case)} for case in cases]
    worst = max(max(row.get("errors", [math.inf])) for row in rows)
    return {"passed": worst < 2e-6, "worst": worst, "rows": rows}


def _kernel_errors(precision: Precision, b: int, n: int, d: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(b * n + d)
    a, w, e, g = (torch.randn(shape, generator=generator) for shape in ((b, d), (b, d), (n, d), (b, n)))
    score = make_score("l1", "fused", "cuda", precision=precision)
    on_device = [tensor.cuda() for tensor in (a, w, e, g)]
    out = torch.full((b, n), torch.nan, device="cuda")
    grads = [torch.zeros_like(tensor) for tensor in on_device[:3]]
    score.forward((on_device[0], on_device[1]), on_device[2], out, grad=True)
    score.backward((on_device[0], on_device[1]), on_device[2], on_device[3], (grads[0], grads[1]), grads[2])
    dtype = HALF_TYPES.get(precision, torch.float32)
    a, w, e = (tensor.to(dtype).double() for tensor in (a, w, e))
    difference = a[:, None] - w[:, None] * e
    # Rounded inputs tie now and then; the kernels count a tie as +1.
    signed = torch.where(difference >= 0, 1.0, -1.0) * g.double()[:, :, None]
    truths = (weighted_l1((a, w), e), -signed.sum(1), (signed * e).sum(1), (signed * w[:, None]).sum(0))
    size = g.double().abs()
    sizes = (truths[0], size.sum(1, keepdim=True).expand(b, d), size @ e.abs(), size.T @ w.abs())
    errors = [
        float((found.cpu().double() - truth).norm() / scale.norm())
        for found, truth, scale in zip((out, *grads), truths, sizes, strict=True)
    ]
    # What is not a number is not smaller than anything: make it larger than everything.
    return {"errors": [error if math.isfinite(error) else math.inf for error in errors]}


def _or_error(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return what ``work`` finds, or its error: one case's failure must not cost the others' results."""
    try:
        return work(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        return {"error": traceback.format_exc()}


def measure_rates() -> dict[str, Any]:
    """What memplan calibrate finds; the workspace is right where plans for this device would take it to be the same."""
    target = resolve("cuda", None)
    found = calibrate(target)
    return {
        "passed": found.workspace_bytes == target.workspace_bytes,
        "planned_workspace_bytes": target.workspace_bytes,
        "planned_context_bytes": target.outside_bytes,
        **found.model_dump(),
    }


def check_bytes(count: int = 60) -> dict[str, Any]:
    """Predicted against measured, as plans for this device predict; each workload starts from an empty cache."""
    workspace = resolve("cuda", None).workspace_bytes
    shape = find_dataset("ICEWS14").shape
    workloads = list(random_workloads(count, 0, "cuda", workspace))
    for model in ("TNTPairRE", "TNTComplEx"):
        for scoring in ("fused", "chunked", "materialized"):
            for batch, micro in ((1000, 1000), (1000, 300), (256, 256)):
                workloads.append(
                    build_workload(
                        shape, model=model, rank=100, scoring=scoring, batch_size=batch, micro_batch_size=micro,
                        emb_reg=1e-3, n3_parts=model == "TNTPairRE", time_reg=1e-2, device="cuda",
                        workspace_bytes=workspace,
                    )
                )  # fmt: skip
    rows = [{"workload": workload.model_dump(), **_or_error(_measured_bytes, workload)} for workload in workloads]
    checked = [row for row in rows if "error" not in row]
    exact = sum(row["predicted"]["requested_bytes"] == row["measured"]["requested_bytes"] for row in checked)
    within = [
        abs(row["measured"]["reserved_bytes"] / row["predicted"]["reserved_bytes"] - 1) <= 0.02 for row in checked
    ]
    return {
        "passed": exact == len(rows) and all(within),
        "workloads": len(rows),
        "failed": len(rows) - len(checked),
        "exact": exact,
        "reserved_within_2%": sum(within),
        "rows": rows,
    }


def _measured_bytes(workload: Workload) -> dict[str, Any]:
    check = verify(workload).check
    return {
        "phases": {p.name: [p.predicted.requested_bytes, p.measured.requested_bytes] for p in check.phases},
        "predicted": check.peak.predicted.model_dump(),
        "measured": check.peak.measured.model_dump(),
    }


def record_traces() -> dict[str, Any]:
    """The caching allocator's record of setup and two steps for each scoring."""
    rows = []
    for scoring in ("fused", "chunked", "materialized"):
        start_clean("cuda")
        workload = _icews14("TNTPairRE", scoring=scoring, batch_size=256)
        torch.cuda.memory._record_memory_history(max_entries=200_000)
        trainer = _trainer(workload)
        order = trainer.shuffled(0)
        for step in range(2):
            trainer.step(order[step * 256 : (step + 1) * 256])
        torch.cuda.synchronize()
        entries = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(enabled=None)
        del trainer, order
        largest = max(entry["size"] for entry in entries if entry["action"] == "alloc")
        rows.append(
            {
                "workload": workload.model_dump(),
                "events": [[entry["action"], entry["addr"], entry["size"]] for entry in entries],
                "largest_allocation_bytes": largest,
                "one_tensor_bytes": 4 * 256 * workload.n_entities * workload.rank,
            }
        )
    fused = rows[0]
    return {"passed": fused["largest_allocation_bytes"] < fused["one_tensor_bytes"] / 10, "rows": rows}


def time_steps() -> dict[str, Any]:
    """Median seconds of a step, fp32 without TF32, and the kernels' share of their arithmetic floor."""
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = []
    for rank in (64, 100):
        for batch in (256, 1000):
            seconds = {}
            for model in ("TNTPairRE", "TNTComplEx"):
                trainer = _trainer(_icews14(model, rank=rank, batch_size=batch))
                order = trainer.shuffled(0)[:batch]
                seconds[model] = _median_seconds(lambda trainer=trainer, order=order: trainer.step(order))
            ratio = seconds["TNTPairRE"] / seconds["TNTComplEx"]
            rows.append({"rank": rank, "batch": batch, **seconds, "ratio": ratio, **_kernel_times(batch, rank)})
    return {"passed": all(row["ratio"] <= 2 for row in rows), "rows": rows}


def _kernel_times(b: int, d: int) -> dict[str, float]:
    n = find_dataset("ICEWS14").shape.n_entities
    score = make_score("l1", "fused", "cuda")
    a, w, e, g = (torch.randn(shape, device="cuda") for shape in ((b, d), (b, d), (n, d), (b, n)))
    out, grads = torch.empty_like(g), [torch.zeros_like(tensor) for tensor in (a, w, e)]
    forward = _median_seconds(lambda: score.forward((a, w), e, out, grad=True))
    backward = _median_seconds(lambda: score.backward((a, w), e, g, (grads[0], grads[1]), grads[2]))
    gpu = present_gpus()[0]
    known = recognize(gpu.name, gpu.total_bytes)
    # Two instructions a term forward, five backward; a multiply-add is one instruction and two flops.
    floor = b * n * d * 2 / known.flops_per_second if known is not None else float("nan")
    return {
        "forward_seconds": forward,
        "backward_seconds": backward,
        "forward_share_of_floor": 2 * floor / forward,
        "backward_share_of_floor": 5 * floor / backward,
    }


def _icews14(model: ModelName, **settings: Any) -> Workload:
    base = {"rank": 100, "scoring": "fused", "emb_reg": 1e-3, "time_reg": 1e-2, "device": "cuda"}
    return build_workload(find_dataset("ICEWS14").shape, model=model, **{**base, **settings})


def _trainer(workload: Workload) -> Trainer:
    return Trainer(workload, random_facts(workload, workload.n_facts), learning_rate=0.1)


def _median_seconds(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    times: list[float] = []
    while len(times) < 10 or sum(times) < STEP_SECONDS:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "rates": measure_rates,
    "kernels": check_kernels,
    "bytes": check_bytes,
    "traces": record_traces,
    "times": time_steps,
}


def main() -> None:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    import triton

    gpu = present_gpus()[0]
    found: dict[str, Any] = {
        "device": gpu.name,
        "total_bytes": gpu.total_bytes,
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda},
    }
    for name, part in PARTS.items():
        if options.only not in (None, name):
            continue
        begin = time.perf_counter()
        found[name] = {"passed": False, **_or_error(part)}
        found[name]["seconds"] = time.perf_counter() - begin
        print(
            f"{name}: {'passed' if found[name]['passed'] else 'FAILED'} in {found[name]['seconds']:.0f} s", flush=True
        )
        options.out.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
