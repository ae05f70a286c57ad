"""Tables over many things: a check's phases, a comparison's grid, measured rates, verified workloads, runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from memplan.app.views.devices import WHY_NO_FUSED
from memplan.app.views.terminal import about_seconds, fits_width, listing, new_table, printable, seconds_text
from memplan.catalog.gpus import GPUS, Gpu
from memplan.device.calibration import Calibration
from memplan.device.target import Target
from memplan.plan import MemoryCheck
from memplan.search.compare import Row
from memplan.units import format_bytes, format_count
from memplan.workload import Workload
from memplan.workload.rules import obstacle

if TYPE_CHECKING:
    from tkbc.runs.listing import RunInfo

SHOWN_WORKLOADS = 8


def check_report(check: MemoryCheck) -> RenderableType:
    """Return predicted against measured memory, phase by phase."""
    table = new_table("memory", "predicted B>", "measured B>", "error>")
    for row in [*check.phases, check.peak]:
        table.add_row(
            Text(row.name, style="bold" if row is check.peak else ""),
            format_count(row.predicted.requested_bytes),
            format_count(row.measured.requested_bytes),
            "exact" if row.relative_error == 0 else f"{row.relative_error:+.3%}",
        )
    return table


def comparison_report(console: Console, rows: list[Row], target: Target) -> RenderableType:
    """Return the grid of a comparison; where the terminal is narrow for it, with fewer columns."""
    is_guide = any(row.claim is not None for row in rows)
    table: RenderableType = _wide_comparison(rows, is_guide=is_guide)
    if not fits_width(console, table):
        table = _narrow_comparison(rows, is_guide=is_guide)
    budget = f"here: {target.name}, budget {format_bytes(target.budget_bytes)} ({target.budget_source})"
    note = f"training memory, the whole batch at once; {about_seconds(target)}"
    old = left_out(rows)
    why = [Text(f"fused leaves out {', '.join(old)}: {WHY_NO_FUSED}")] if old else []
    return Group(table, Text(budget), *why, Text(note, style="dim"))


def left_out(rows: list[Row]) -> list[str]:
    """Return the GPUs that have the memory for a fused row and not the kernel."""
    found = []
    for name, gpu in GPUS.items():
        if obstacle("l1", "fused", "cuda", gpu.capability) is not None and any(
            row.scoring == "fused" and name not in row.gpus and _is_large_enough(gpu, row) for row in rows
        ):
            found.append(name)
    return found


def _is_large_enough(gpu: Gpu, row: Row) -> bool:
    return any(GPUS[fitting].memory_bytes <= gpu.memory_bytes for fitting in row.gpus)


def _sizes(row: Row, *, is_guide: bool) -> list[str]:
    # The guide counts in GB; so that its figures stand beside ours, so do we.
    sizes = (row.requested_bytes, row.device_bytes)
    return [f"{n_bytes / 1e9:.2f} GB" if is_guide else format_bytes(n_bytes) for n_bytes in sizes]


def _wide_comparison(rows: list[Row], *, is_guide: bool) -> Table:
    columns = ["batch>", "scoring", "tensors>", "on the device>", "s/epoch>", "here", "on GPUs"]
    if is_guide:
        table = new_table("where in the guide", "dataset", "it says>", "one tensor>", "its code>", "rank>", *columns)
    else:
        table = new_table("rank", *columns)
    for row in rows:
        cells: list[str | Text] = []
        if row.claim is not None:
            again = row.scoring != "materialized"  # the configuration's second row
            cells = [""] * 5 if again else [
                row.claim.place, row.claim.dataset, row.claim.says, f"{row.tensor_bytes / 1e9:.2f} GB",
                f"{row.claim.code_bytes / 1e9:.2f} GB",
            ]  # fmt: skip
        table.add_row(
            *cells,
            str(row.rank),
            str(row.batch_size),
            row.scoring,
            *_sizes(row, is_guide=is_guide),
            seconds_text(row.seconds_per_epoch),
            Text("fits", style="green") if row.fits else Text("does not fit", style="bold red"),
            _on_gpus(row.gpus),
        )
    return table


def _narrow_comparison(rows: list[Row], *, is_guide: bool) -> RenderableType:
    """Return what 80 columns hold; a claim of the guide stands in a line of its own above its two rows."""
    columns = ["batch>", "scoring", "tensors>", "device>", "s/epoch>", "fits"]
    parts: list[RenderableType] = []
    table = Table()
    for row in rows:
        claim = row.claim
        if not parts or (claim is not None and row.scoring == "materialized"):
            if claim is not None:
                tensor = f"one tensor {row.tensor_bytes / 1e9:.2f}, code {claim.code_bytes / 1e9:.2f}"
                parts.append(Text(f"{claim.place}, {claim.dataset}: it says {claim.says}, {tensor}", style="bold"))
            table = new_table("rank", *columns, "GPUs from>")
            table.show_header = len(parts) < 2
            if is_guide:
                # Small tables under one another: the same widths for all.
                for column, width in zip(table.columns, (4, 5, 12, 8, 8, 7, 4, 9), strict=True):
                    column.min_width = width
            parts.append(table)
        smallest = min((GPUS[name].memory_gib for name in row.gpus), default=None)
        table.add_row(
            str(row.rank),
            str(row.batch_size),
            row.scoring,
            *_sizes(row, is_guide=is_guide),
            seconds_text(row.seconds_per_epoch),
            Text("yes", style="green") if row.fits else Text("no", style="bold red"),
            "none" if smallest is None else f"{smallest} GiB",
        )
    return Group(*parts)


def _on_gpus(fitting: tuple[str, ...]) -> str:
    """Return how many of the catalog's GPUs, and the smallest of them."""
    if not fitting:
        return f"none of {len(GPUS)}"
    smallest = min((GPUS[name] for name in fitting), key=lambda gpu: gpu.memory_bytes)
    size = f"from {smallest.memory_bytes // 2**30} GiB ({smallest.name})"
    return f"all {len(GPUS)}" if len(fitting) == len(GPUS) else f"{len(fitting)} of {len(GPUS)}, {size}"


def calibration_report(found: Calibration) -> RenderableType:
    """Return a device's measured figures."""
    table = new_table(found.device, "measured>")
    if found.step_seconds is not None and found.error is not None:
        table.add_row("kinds of work in a step", str(len(found.step_seconds)))
        table.add_row("threads", str(found.threads))
        table.add_row("error of predicted seconds, 9 steps of 10", f"up to {found.error:.0%}")
    rows = [
        ("matrix products", found.flops_per_second, 1e9, "{:,.1f} GFLOP/s"),
        ("element-wise traffic", found.bytes_per_second, 1e9, "{:,.1f} GB/s"),
        ("writing new tensors", found.fresh_bytes_per_second, 1e9, "{:,.1f} GB/s"),
        ("the smallest operation", found.launch_seconds, 1e-6, "{:,.2f} µs"),
        ("fused L1, terms forward", found.l1_terms_per_second, 1e9, "{:,.1f} G/s"),
        ("fused L1, terms backward", found.l1_gradient_terms_per_second, 1e9, "{:,.1f} G/s"),
    ]
    for name, rate, unit, text in rows:
        if rate is not None:
            table.add_row(name, text.format(rate / unit))
    if found.context_bytes is not None:
        table.add_row("CUDA context and modules", format_bytes(found.context_bytes))
    if found.workspace_bytes is not None:
        table.add_row("cuBLAS workspace", format_bytes(found.workspace_bytes))
    return table


def verification_report(found: list[tuple[Workload, MemoryCheck]]) -> RenderableType:
    """Return a table of errors, worst first, cut where they are all exact, and how many were."""
    exact = sum(all(phase.relative_error == 0 for phase in check.phases) for _, check in found)
    table = new_table("workload", "predicted B>", "measured B>", "error>")
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
        **({} if workload.negatives is None else {"K": workload.negatives}),
    }
    return " ".join([how, *(f"{name}={size}" for name, size in sizes.items())])


def runs_listing(console: Console, runs: Iterable[RunInfo]) -> RenderableType:
    """Return a listing of runs; two lines a run where the terminal is narrow for one."""
    runs = list(runs)
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
    whole = listing(columns, rows)
    return whole if fits_width(console, whole) else Group(*(_in_two_lines(run) for run in runs))


def _in_two_lines(run: RunInfo) -> Text:
    marks = (("valid MRR", run.valid_mrr), ("test MRR", run.test_mrr))
    told = [f"{run.epochs}/{run.max_epochs or '?'} epochs", *(f"{what} {mrr:.4f}" for what, mrr in marks if mrr)]
    measured = "" if run.measured_bytes is None else f", measured {format_bytes(run.measured_bytes)}"
    how = (
        f"  {run.model} on {Path(run.dataset or 'a graph').name}, rank {run.rank}, batch {run.batch_size} by "
        f"{run.micro_batch_size} × {run.chunk_size}, {run.scoring}; planned {format_bytes(run.planned_bytes)}{measured}"
    )
    text = Text(printable(str(run.folder)), style="bold").append(f"  {run.state}", style="not bold")
    text.append("\n  " + ", ".join(told), style="not bold")
    return text.append("\n" + printable(how), style="not bold dim")
