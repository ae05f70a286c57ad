"""How well a split was ranked, as tables: the whole of it, and its largest groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from memplan.app.views.terminal import listing, make_console
from memplan.units import format_count

COLUMNS = ("MRR>", "95% interval", "Hits@1>", "Hits@3>", "Hits@10>")
KINDS = ("both", "tail", "head", "optimistic", "pessimistic")


def print_quality(found: Mapping[str, Any], top: int) -> None:
    """Print what ``memplan evaluate`` found, and the ``top`` largest groups where it was asked for groups."""
    console = make_console()
    title = f"{found['split']} of {found['run']}, checkpoint {found['checkpoint']}"
    console.print(f"{title}: {format_count(found['n_queries'])} queries", soft_wrap=True)
    if found["rules"] is not None:
        of = "" if found["split"] != "valid" else "; so their gain on valid is a little too good"
        fitted = f"weighed on {format_count(found['rules']['n_queries'])} queries of valid{of}"
        console.print(f"with the graph's rules beside the scores, {fitted}", soft_wrap=True)
    intervals = found["mrr_intervals"]
    console.print(listing(("", *COLUMNS), ((kind, *_cells(found[kind], intervals[kind])) for kind in KINDS)))
    if found["times"] is not None:
        _print_times(console, found["times"])
    if "by" not in found:
        return
    by, groups = found["by"], found["groups"]
    rows = [
        (group[by], format_count(group["n_queries"]), *_cells(group, group["mrr_interval"])) for group in groups[:top]
    ]
    header: tuple[str, ...] = (by, "queries>", *COLUMNS)
    if found["times"] is not None:
        header = (*header, "times>")
        precisions = [group["average_precision_of_times"] for group in groups[:top]]
        rows = [(*row, "" if x is None else f"{x:.4f}") for row, x in zip(rows, precisions, strict=True)]
    console.print()
    console.print(listing(header, rows))
    rest = groups[top:]
    if rest:
        n = sum(group["n_queries"] for group in rest)
        console.print(f"{len(rest)} more with {format_count(n)} queries: --top {len(groups)}", style="dim")


def _print_times(console: Console, times: Mapping[str, Any]) -> None:
    found = ", ".join(filter(None, (f"{times['average_precision']:.4f}", _between(times["interval"]))))
    counts = f"facts {format_count(times['n_facts'])}, times {format_count(times['n_timestamps'])}"
    console.print(f"average precision of times {found} ({counts})", soft_wrap=True)


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else "–".join(f"{end:.4f}" for end in interval)


def _cells(metrics: Mapping[str, float], interval: tuple[float, float] | None) -> tuple[str, ...]:
    mrr, *hits = (f"{metrics[name]:.4f}" for name in ("mrr", "hits_at_1", "hits_at_3", "hits_at_10"))
    return mrr, _between(interval), *hits
