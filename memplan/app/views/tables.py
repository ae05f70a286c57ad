"""Tables over many things: a check's phases, a comparison's grid, measured rates, verified workloads, runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from memplan.app.views.terminal import new_table, seconds_text
from memplan.catalog.gpus import GPUS
from memplan.device.calibration import Calibration
from memplan.device.target import Target
from memplan.plan import MemoryCheck
from memplan.search.compare import Row
from memplan.units import format_bytes, format_count
from memplan.workload import Workload

if TYPE_CHECKING:
    from tkbc.runs.listing import RunInfo

SHOWN_WORKLOADS = 8


def check_report(check: MemoryCheck) -> RenderableType:
    """Return predicted against measured memory, phase by phase."""
    table = new_table("memory", ("predicted B", ">"), ("measured B", ">"), ("error", ">"))
    for row in [*check.phases, check.peak]:
        table.add_row(
            Text(row.name, style="bold" if row is check.peak else ""),
            format_count(row.predicted.requested_bytes),
            format_count(row.measured.requested_bytes),
            "exact" if row.relative_error == 0 else f"{row.relative_error:+.3%}",
        )
    return table


def comparison_report(rows: list[Row], target: Target) -> RenderableType:
    """Return the grid of a comparison."""
    is_guide = any(row.claim is not None for row in rows)
    columns = [("batch", ">"), ("scoring", "<"), ("tensors", ">"), ("on the device", ">"), ("s/epoch", ">")]
    columns += [("here", "<"), ("on GPUs", "<")]
    if is_guide:
        table = new_table(
            "where in the guide", ("dataset", "<"), ("it says", ">"), ("one tensor", ">"), ("rank", ">"), *columns
        )
    else:
        table = new_table("rank", *columns)
    for row in rows:
        cells: list[str | Text] = []
        if row.claim is not None:
            again = row.scoring != "materialized"  # the configuration's second row
            cells = ["", "", "", ""] if again else [
                row.claim.place, row.claim.dataset, row.claim.says, f"{row.tensor_bytes / 1e9:.2f} GB"
            ]  # fmt: skip
        table.add_row(
            *cells,
            str(row.rank),
            str(row.batch_size),
            row.scoring,
            # The guide counts in GB; so that its figures stand beside ours, so do we.
            *(
                f"{n_bytes / 1e9:.2f} GB" if is_guide else format_bytes(n_bytes)
                for n_bytes in (row.requested_bytes, row.device_bytes)
            ),
            seconds_text(row.seconds_per_epoch),
            Text("fits", style="green") if row.fits else Text("does not fit", style="bold red"),
            _on_gpus(row.gpus),
        )
    budget = f"here: {target.name}, budget {format_bytes(target.budget_bytes)} ({target.budget_source})"
    note = "training memory, the whole batch at once; s/epoch orders rows by a cost model, no promise of speed"
    return Group(table, Text(budget), Text(note, style="dim"))


def _on_gpus(fitting: tuple[str, ...]) -> str:
    """Return how many of the catalog's GPUs, and the smallest of them."""
    if not fitting:
        return f"none of {len(GPUS)}"
    smallest = min((GPUS[name] for name in fitting), key=lambda gpu: gpu.memory_bytes)
    size = f"from {smallest.memory_bytes // 2**30} GiB ({smallest.name})"
    return f"all {len(GPUS)}" if len(fitting) == len(GPUS) else f"{len(fitting)} of {len(GPUS)}, {size}"


def calibration_report(found: Calibration) -> RenderableType:
    """Return a device's measured figures."""
    table = new_table(found.device, ("measured", ">"))
    table.add_row("matrix products", f"{found.flops_per_second / 1e9:,.1f} GFLOP/s")
    table.add_row("element-wise traffic", f"{found.bytes_per_second / 1e9:,.1f} GB/s")
    table.add_row("writing new tensors", f"{found.fresh_bytes_per_second / 1e9:,.1f} GB/s")
    table.add_row("the smallest operation", f"{found.launch_seconds * 1e6:,.2f} µs")
    if found.l1_terms_per_second is not None and found.l1_gradient_terms_per_second is not None:
        table.add_row("fused L1, terms forward", f"{found.l1_terms_per_second / 1e9:,.1f} G/s")
        table.add_row("fused L1, terms backward", f"{found.l1_gradient_terms_per_second / 1e9:,.1f} G/s")
    if found.context_bytes is not None:
        table.add_row("CUDA context and modules", format_bytes(found.context_bytes))
    if found.workspace_bytes is not None:
        table.add_row("cuBLAS workspace", format_bytes(found.workspace_bytes))
    return table


def verification_report(found: list[tuple[Workload, MemoryCheck]]) -> RenderableType:
    """Return a table of errors, worst first, cut where they are all exact, and how many were."""
    exact = sum(all(phase.relative_error == 0 for phase in check.phases) for _, check in found)
    table = new_table("workload", ("predicted B", ">"), ("measured B", ">"), ("error", ">"))
    for workload, check in found[:SHOWN_WORKLOADS]:
        table.add_row(
            _short(workload),
            format_count(check.peak.predicted.requested_bytes),
            format_count(check.peak.measured.requested_bytes),
            "exact" if check.peak.relative_error == 0 else f"{check.peak.relative_error:+.4%}",
        )
    return Group(table, Text(f"{exact} of {len(found)} workloads exact to the byte in every phase; worst first above"))


def _short(workload: Workload) -> str:
    how = f"{workload.model} {workload.score} {workload.scoring} {workload.precision} {workload.optimizer}"
    sizes = {
        "N": workload.n_entities,
        "d": workload.rank,
        "B": workload.batch_size,
        "b": workload.micro_batch_size,
        "C": workload.chunk_size,
    }
    return " ".join([how, *(f"{name}={size}" for name, size in sizes.items())])


def runs_listing(runs: Iterable[RunInfo]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return columns and rows of a listing of runs."""
    columns = ("run", "state", "model", "dataset", "rank>", "batch>", "micro-batch>", "chunk>", "scoring", "planned>",
               "measured>", "epochs>", "valid MRR>", "test MRR>")  # fmt: skip
    rows: list[Sequence[str]] = [
        (
            str(run.folder),
            run.state,
            run.model,
            Path(run.dataset or "").name,
            str(run.rank),
            str(run.batch_size),
            str(run.micro_batch_size),
            str(run.chunk_size),
            run.scoring,
            format_bytes(run.planned_bytes),
            "" if run.measured_bytes is None else format_bytes(run.measured_bytes),
            f"{run.epochs}/{run.max_epochs or '?'}",
            "" if run.valid_mrr is None else f"{run.valid_mrr:.4f}",
            "" if run.test_mrr is None else f"{run.test_mrr:.4f}",
        )
        for run in runs
    ]
    return columns, rows
