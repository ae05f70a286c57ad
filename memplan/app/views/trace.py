"""A trace as text for a terminal, made of the same parts as an estimate's."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from memplan.app.views.terminal import curve_line, large_tensors, listing, peak_line, phase_table, tensor_table, verdict
from memplan.device.target import Target
from memplan.memory.ledger import Ledger
from memplan.trace.result import Fit, Trace
from memplan.units import format_bytes, format_count

SHOWN_OPERATORS = 5
WAYS = {
    "traced": "traced on tensors without numbers",
    "mapped": "traced on the CPU's tensors in place of CUDA's",
    "measured": "measured over real steps on the CPU",
}


def title_of(trace: Trace) -> str:
    """Return what was traced, with its sizes and its peak, as one line."""
    step = trace.workload
    name = step.function if step.file is None else f"{Path(step.file).name}:{step.function}"
    sizes = ", ".join(f"{size}={value}" for size, value in step.sizes.items())
    return f"{name}({sizes}) on {step.device}"


def trace_report(trace: Trace, target: Target, first_step: Ledger, *, explain: bool) -> RenderableType:
    """Return what a step allocates: the peak, its phases, the tensors at the peak, and what the numbers rest on."""
    step = trace.workload
    parts: list[RenderableType] = [
        Text(title_of(trace), style="bold").append(
            f": setup and three steps {WAYS[step.way]}, torch {step.torch}", style="not bold"
        ),
        peak_line(trace.peak, target.device),
        *large_tensors(trace.tensors_at_peak),
    ]
    if trace.budget_bytes is not None:
        parts.append(verdict(trace.peak.device_bytes, trace.budget_bytes, target.budget_source))
    parts += ["", phase_table(trace.phases), curve_line(first_step)]
    parts += ["", tensor_table(trace.tensors_at_peak, everything=explain)]
    if explain:
        rows = [(tensor.name, format_count(tensor.bytes), tensor.line) for tensor in trace.tensors_at_peak]
        parts += ["", listing(("made where", "bytes>", "line"), rows)]
    return Group(*parts, "", *_sources(trace))


def fit_report(fit: Fit) -> RenderableType:
    """Return the size that fits, and what shows that it is the largest."""
    text = Text(f"{fit.name} = {fit.value}", style="bold green")
    if fit.effective is not None:
        text.append(f" in {fit.accumulation_steps} micro-batches for {fit.effective}", style="default not bold")
    text.append(f": {format_bytes(fit.device_bytes)}", style="default not bold")
    if fit.next_device_bytes is not None:
        text.append(f"; {fit.value + 1} takes {format_bytes(fit.next_device_bytes)}", style="default not bold")
    else:
        text.append(f"; the largest asked for, {fit.highest}, fits", style="default not bold")
    return text.append(f" ({fit.traces} traces)", style="dim not bold")


def _sources(trace: Trace) -> list[Text]:
    """Return what is recorded, what is from the table, what is in neither, and what was assumed."""
    found = trace.sources
    recorded = "measured" if trace.workload.way == "measured" else "recorded tensor by tensor"
    lines = [
        Text(
            f"of the peak {format_count(found.recorded_bytes)} bytes are {recorded}, "
            f"{format_count(found.table_bytes)} from the table of what operators take inside"
        )
    ]
    if found.unlisted:
        shown = [f"{o.name} (at most {format_bytes(o.bound_bytes)})" for o in found.unlisted[:SHOWN_OPERATORS]]
        rest = len(found.unlisted) - len(shown)
        more = f" and {rest} more" if rest else ""
        lines.append(
            Text(
                f"not in the table: {', '.join(shown)}{more}; the bound is on the peak's error, for kernels that take "
                "inside no more than their operands and results",
                style="yellow",
            )
        )
    return lines + [Text(note, style="dim") for note in found.notes]
