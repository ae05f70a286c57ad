"""Estimates and plans as text for a terminal, and what such texts are made of; the same without colour in a pipe."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from memplan.app.views.mesh import mesh_lines
from memplan.device.rates import StepRates
from memplan.device.target import Target
from memplan.memory.curve import curve, sparkline
from memplan.memory.ledger import Ledger
from memplan.plan import Estimate, Knob, Peak, PhasePeak, Plan, TensorAtPeak
from memplan.prediction.rehearsal import one_step
from memplan.units import format_bytes, format_count, format_mib_up
from memplan.workload import DeviceType, Workload

SHOWN_TENSORS = 8
CURVE_WIDTH = 64
PIPE_WIDTH = 1000


def make_console() -> Console:
    """Return a console that keeps lines whole in a pipe, where there is no width to fit."""
    # No markup and no emoji: a name such as "r:x:y" or "[a]" stands for itself.
    # A notebook's cell is written to as a stream, too: as HTML every print would be a block of its own.
    console = Console(highlight=False, markup=False, emoji=False, force_jupyter=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def quiet_console() -> Console:
    """Return a console that shows nothing: of a process whose part another one reports."""
    return Console(quiet=True)


def printable(text: str) -> str:
    """Return the text with its control characters, and those that turn its direction, shown and not obeyed.

    A name in somebody's data may hold an escape sequence that would move the cursor or rename the window.
    """
    return "".join(
        character.encode("unicode_escape").decode() if _is_control(character) else character for character in text
    )


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(character) in (
        "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
    )  # fmt: skip


def fits_width(console: Console, what: RenderableType) -> bool:
    """Return whether it fits the terminal with every cell on one line."""
    return console.measure(what, options=console.options.update(width=PIPE_WIDTH)).maximum <= console.width


def estimate_report(estimate: Estimate, target: Target, *, explain: bool) -> RenderableType:
    """Return what a workload allocates: the peak, its phases, and the tensors alive at the peak."""
    workload = estimate.workload
    parts: list[RenderableType] = [_title(workload, target), _layout(workload), _evaluation(workload)]
    peak = estimate.peak
    parts += [] if estimate.mesh is None else mesh_lines(estimate.mesh, workload, target)
    parts += [peak_line(peak, workload.device), *large_tensors(estimate.tensors_at_peak)]
    if estimate.budget_bytes is not None:
        parts.append(verdict(peak.device_bytes, estimate.budget_bytes, target.budget_source))
    parts += ["", phase_table(estimate.phases), curve_line(one_step(estimate.workload))]
    parts += ["", tensor_table(estimate.tensors_at_peak, everything=explain)]
    if estimate.knobs is not None:
        parts += ["", _knobs(estimate.knobs)]
    return Group(*parts)


def plan_report(plan: Plan, target: Target) -> RenderableType:
    """Return the chosen plan, why it was chosen, and what was looked at besides."""
    several = plan.workload.n_processes > 1
    sizes = ["micro-batch>", "steps>", "chunk>", "scoring"]
    chosen = new_table("mesh" if several else "", *sizes, "memory>", "s/epoch>", "verdict")
    chosen.add_row(
        Text(f"{plan.workload.shards} × {plan.workload.replicas}" if several else "chosen", style="bold"),
        str(plan.micro_batch_size),
        str(plan.accumulation_steps),
        str(plan.chunk_size),
        plan.scoring,
        format_bytes(plan.peak.device_bytes),
        seconds_text(plan.seconds_per_epoch),
        "chosen: fits" if several else "fits",
    )
    for other in plan.alternatives:
        chosen.add_row(
            f"{other.shards} × {other.replicas}" if several else "",
            str(other.micro_batch_size),
            str(-(-plan.batch_size // (other.replicas * other.micro_batch_size))),
            str(other.chunk_size),
            other.scoring,
            format_bytes(other.device_bytes),
            seconds_text(other.seconds_per_epoch),
            other.reason,
        )
    return Group(
        plan_summary(plan, target),
        "",
        *counted(plan),
        chosen,
        Text(about_seconds(target), style="dim"),
    )


def about_seconds(target: Target) -> str:
    """Return what predicted seconds are worth."""
    rates = target.rates
    if isinstance(rates, StepRates):
        if target.is_calibrated:
            return f"s/epoch is an estimate: 9 steps of 10 measured here took within {rates.error:.0%} of theirs"
        return (
            f"s/epoch is an estimate from steps measured on another CPU, ±{rates.error:.0%} there; memplan calibrate "
            "measures this one"
        )
    stated = "measured here" if target.is_calibrated else "as stated"
    return f"s/epoch orders plans by a cost model, rates {stated} (memplan calibrate); it is no promise of speed"


def plan_summary(plan: Plan, target: Target) -> RenderableType:
    """Return what will be trained, how, why so, and what it takes, in a few lines."""
    lowered = []
    if plan.rank_lowered_from is not None:
        what = f"rank lowered from {plan.rank_lowered_from} to {plan.rank}, the largest that fits"
        lowered.append(Text(what, style="bold yellow"))
    return Group(
        *lowered,
        _title(plan.workload, target),
        _layout(plan.workload),
        Text(f"why  {plan.reason}"),
        _evaluation(plan.workload),
        *([] if plan.mesh is None else mesh_lines(plan.mesh, plan.workload, target)),
        Text("peak  ")
        .append(format_bytes(plan.peak.device_bytes), style="bold")
        .append(" in each process" if plan.workload.n_processes > 1 else "", style="not bold"),
        verdict(plan.peak.device_bytes, plan.budget_bytes, plan.budget_source),
        Text(f"the smallest budget that would do: {format_mib_up(plan.smallest_budget_bytes)}"),
    )


def counted(plan: Plan) -> list[RenderableType]:
    """Return what other numbers of devices come to, where the number was the search's to choose."""
    if plan.mesh is None or plan.mesh.counts is None:
        return []
    table = new_table("devices", "shards>", "replicas>", "memory>", "s/epoch>", "")
    for row in plan.mesh.counts:
        seconds = row.seconds_per_epoch
        over = f"does not fit: {format_bytes(row.device_bytes - row.budget_bytes)} over"
        table.add_row(
            Text(str(row.devices), style="bold" if row.devices == plan.mesh.devices else ""),
            str(row.shards),
            str(row.replicas),
            format_bytes(row.device_bytes),
            "" if seconds is None else seconds_text(seconds),
            over if not row.fits else "the fewest" if row.devices == plan.mesh.devices else "fits",
        )
    return [table, ""]


def listing(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """Return a plain listing; columns as ``new_table`` takes them."""
    table = new_table(*columns)
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def new_table(*columns: str) -> Table:
    """Return an empty table; columns whose name ends in ``>`` are aligned right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table


def _title(workload: Workload, target: Target) -> Text:
    name = printable(Path(workload.dataset).name) if workload.dataset else "your graph"
    text = Text(f"{workload.model}", style="bold").append(f" on {name}", style="not bold")
    return text.append(
        f": {format_count(workload.n_entities)} entities, {format_count(workload.n_relations)} relations, "
        f"{format_count(workload.n_timestamps)} timestamps, {format_count(workload.n_facts)} facts"
        f"{' over intervals' if workload.intervals else ''}; {target.name}",
        style="not bold",
    )


def _layout(workload: Workload) -> Text:
    steps = workload.accumulation_steps
    batch = f"batch {workload.batch_size}" + (
        f" in {steps} micro-batches of up to {workload.micro_batch_size}" if steps > 1 else ""
    )
    whole = workload.chunk_size >= workload.n_candidates
    if workload.negatives is None:
        entities = f"all {'' if workload.shards == 1 else 'its '}entities at once"
        chunk = entities if whole else f"{workload.chunk_size} entities a chunk"
    else:
        chunk = f"{workload.negatives} negatives" + (" at once" if whole else f", {workload.chunk_size} a chunk")
    inputs = "" if workload.precision == "fp32" else f" in {workload.precision}"
    score = f"{workload.score} score{inputs}, {workload.scoring}"
    return Text(f"rank {workload.rank}, {batch}, {score}, {chunk}, {workload.optimizer}")


def _evaluation(workload: Workload) -> Text:
    return Text(f"evaluation: {workload.eval_batch_size} queries × {workload.eval_chunk_size} entities at a time")


def peak_line(peak: Peak, device: DeviceType) -> Text:
    """Return the peak as each layer of memory sees it."""
    line = Text("peak  ").append(format_bytes(peak.requested_bytes), style="bold")
    line.append(f" requested by tensors ({format_count(peak.requested_bytes)} bytes)")
    if device == "cuda":
        unused = format_bytes(peak.reserved_bytes - peak.allocated_bytes)
        line.append(f", {format_bytes(peak.allocated_bytes)} allocated")
        line.append(f", {format_bytes(peak.reserved_bytes)} reserved ({unused} of it fragmentation)")
        line.append(f", {format_bytes(peak.device_bytes)} on the device")
    return line


def verdict(device_bytes: int, budget_bytes: int, source: str) -> Text:
    """Return whether the budget is kept, and by how much."""
    left = budget_bytes - device_bytes
    budget = f"{format_bytes(budget_bytes)} ({source})"
    if left >= 0:
        return Text("fits  ", style="green").append(f"{format_bytes(left)} to spare of {budget}", style="default")
    return Text("does not fit  ", style="bold red").append(f"{format_bytes(-left)} over {budget}", style="default")


def large_tensors(tensors: Sequence[TensorAtPeak]) -> list[Text]:
    """Return a line on the shape that makes the peak, where one shape alone is over half of it."""
    by_shape: Counter[tuple[int, ...]] = Counter()
    for tensor in tensors:
        by_shape[tensor.shape] += tensor.bytes
    shape, n_bytes = by_shape.most_common(1)[0]
    if 2 * n_bytes < sum(by_shape.values()) or len(shape) < 3:
        return []
    alike = [tensor for tensor in tensors if tensor.shape == shape]
    size = ", ".join(str(n) for n in shape)
    return [
        Text(
            f"      {len(alike)} tensors of shape ({size}), {format_count(alike[0].bytes)} bytes each, live at the "
            "peak",
            style="yellow",
        )
    ]


def phase_table(phases: Sequence[PhasePeak]) -> Table:
    """Return each phase's peak, with bars."""
    table = new_table("phase", "peak>", "")
    highest = max(phase.peak_bytes for phase in phases)
    for phase in phases:
        bar = "█" * max(1, round(24 * phase.peak_bytes / max(1, highest)))
        table.add_row(phase.name, format_bytes(phase.peak_bytes), bar)
    return table


def curve_line(ledger: Ledger) -> Text:
    """Return memory over setup and one step in one line: the compact form of the picture that --plot draws."""
    line = sparkline(curve(ledger), CURVE_WIDTH)
    return Text("one step         ").append(line, style="cyan").append("  setup to optimizer", style="dim")


def _knobs(found: list[Knob]) -> RenderableType:
    table = new_table("what a knob would save", ">", "")
    for knob in found:
        table.add_row(
            knob.change,
            format_bytes(-knob.saved_bytes),
            "trains another model" if knob.changes_result else "same result",
        )
    if not found:
        table.add_row("nothing: no smaller setting is left", "", "")
    return table


def tensor_table(tensors: Sequence[TensorAtPeak], *, everything: bool) -> Table:
    """Return the tensors alive at the peak: the largest, or every one with its kind and the phase it is from."""
    total = sum(tensor.bytes for tensor in tensors)
    columns = ["shape", "dtype", "bytes>", "share>"]
    # With --explain each tensor also has the phase in which it was made.
    table = new_table("alive at the peak", *columns, *(["kind", "since"] if everything else []))
    shown = tensors if everything else tensors[:SHOWN_TENSORS]
    for tensor in shown:
        table.add_row(
            tensor.name,
            " × ".join(str(n) for n in tensor.shape) or "scalar",
            tensor.dtype,
            format_count(tensor.bytes),
            f"{tensor.bytes / total:.1%}",
            *([tensor.kind, tensor.phase] if everything else []),
        )
    rest = tensors[len(shown) :]
    if rest:
        n_bytes = sum(tensor.bytes for tensor in rest)
        table.add_row(f"{len(rest)} more (--explain)", "", "", format_count(n_bytes), f"{n_bytes / total:.1%}")
    return table


def seconds_text(seconds: float) -> str:
    """Return seconds as a cost model's figure deserves: two digits, or whole ones."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"
