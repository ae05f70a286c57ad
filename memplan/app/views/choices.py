"""The few trainings that are known to pay on a device, as a table above the plan."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from memplan.app.views.terminal import new_table
from memplan.plan import Choice, Plan
from memplan.units import format_bytes


def choices_report(choices: list[Choice], plan: Plan) -> RenderableType:
    """Return what can be trained, by what it is known to reach; the recommended one, which is planned, is marked."""
    columns = ["training>", "memory>", "rank>", "train with"]
    table = new_table("", "test MRR>", *columns)
    for row in choices:
        style = "bold" if row.recommended else ""
        options = " ".join(row.options)
        if row.recommended:
            lowered = "" if row.rank == plan.rank else f" at rank {plan.rank}"
            options = f"{row.model}, recipe {row.recipe}: recommended, planned below{lowered}"
        table.add_row(
            "*" if row.recommended else "",
            "–" if row.test_mrr is None else f"{row.test_mrr:.3f}",
            duration(row.training_seconds) if row.fits else "–",
            format_bytes(row.device_bytes),
            str(row.rank),
            Text(options if row.fits else f"does not fit: {options}", style=style),
        )
    return Group(table, *(Text(line, style="dim") for line in _notes(choices, plan.workload.dataset)))


def _notes(choices: list[Choice], dataset: str | None) -> list[str]:
    best, recommended = choices[-1], next(row for row in choices if row.recommended)
    notes = []
    if best.fits and best.training_seconds <= recommended.training_seconds and not best.recommended:
        larger = best.n_parameters / recommended.n_parameters
        notes.append(f"the last reaches most in no more time, with {larger:.2g} times the parameters")
    elsewhere = {row.measured_on for row in choices if row.test_mrr is not None} - {dataset}
    measured = f"measured on {', '.join(sorted(elsewhere))}, not on this graph" if elsewhere else "measured, one seed"
    return [
        *notes,
        f"test MRR: {measured} (docs/results.md; --json says how)",
        "training: an estimate, epochs by the cost model's s/epoch without validations",
    ]


def duration(seconds: float) -> str:
    """Return a time as an estimate deserves: two or three digits and a unit that suits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
