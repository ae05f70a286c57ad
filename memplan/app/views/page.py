"""A run on one page: what it learned, how, and what it took, as HTML that needs no network and no script.

The page is made from the run's folder alone, so it can be made of a run that is still going on, on a machine without
its data.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from memplan.app.views.charts import line_chart, memory_chart
from memplan.app.views.plot import taken_of_device
from memplan.app.views.repeat import how_to_repeat
from memplan.errors import MemplanError
from memplan.files import read_object, write_text
from memplan.memory.curve import curve, read_measured
from memplan.plan import MemoryCheck, Plan
from memplan.prediction.rehearsal import one_step
from memplan.units import format_bytes, format_count, format_mib_up
from memplan.workload import PAIRRE_SETTINGS
from tkbc.runs.listing import how_to_resume, read_run
from tkbc.runs.metrics import Epoch, Event, Ranking, RunMetrics, read_metrics

PAGE = "report.html"
RANKS = (
    ("both", "mean of both"),
    ("tail", "tails"),
    ("head", "heads"),
    ("optimistic", "mean, ties for it"),
    ("pessimistic", "mean, ties against it"),
)

SHOWN_RELATIONS = 10
"""Relations of the test split that are seen at once, the most frequent; the others are opened."""


def write_page(run: Path, output: Path | None = None) -> Path:
    """Write the page of the run in the folder ``run`` to ``output``, else to its report.html; return where it is.

    Raises:
        MemplanError: it is no run, a file of it is damaged, or the page cannot be written.
    """
    text = render(run)
    path = output or run / PAGE
    try:
        write_text(path, text)
    except OSError as error:
        raise MemplanError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def render(run: Path) -> str:
    """Return the page of the run in the folder ``run`` as HTML.

    Raises:
        MemplanError: it is no run, or a file of it is damaged.
    """
    info = read_run(run)
    plan = Plan.read(run / "plan.json")
    config = read_object(run / "config.json")
    history = read_metrics(run)
    check = _read_check(run)
    workload = plan.workload
    dataset = Path(info.dataset or config.get("dataset") or "a graph").name
    counts = {"entities": workload.n_entities, "relations": workload.n_relations, "timestamps": workload.n_timestamps}
    memory, legend = _memory(run, plan)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("memplan.app.views").joinpath("page.html").read_text(encoding="utf-8"))
    lowered = "" if plan.rank_lowered_from is None else f"The rank was lowered from {plan.rank_lowered_from} to fit."
    return template.render(
        name=run.resolve().name,
        workload=workload,
        plan=plan,
        dataset=dataset,
        graph=", ".join(f"{format_count(n)} {what}" for what, n in {**counts, "facts": workload.n_facts}.items()),
        state=info.state,
        progress=f", {info.epochs} of {info.max_epochs or '?'} epochs",
        resume=how_to_resume(run) if info.state == "interrupted" else "",
        figures=_figures(plan, history, check),
        rankings=_rankings(history),
        relations=_relations(history),
        shown_relations=SHOWN_RELATIONS,
        charts=_charts(history),
        epochs=[_epoch_row(epoch) for epoch in history.epochs],
        events=[_event_row(event) for event in history.events],
        lowered=lowered,
        sizes=_sizes(plan),
        memory=Markup(memory),
        legend=legend,
        check=None if check is None else _check_rows(check),
        phases=[(phase.name, format_count(phase.peak_bytes)) for phase in plan.phases],
        settings=_settings(plan, config),
        again=how_to_repeat(plan, config),
        again_note="settings that changed on the way are given as they were last" if history.events else "",
    )


def _memory(run: Path, plan: Plan) -> tuple[str, list[tuple[str, str]]]:
    """Return the picture of memory over set-up and one step, and its legend."""
    step = one_step(plan.workload)
    points, taken = curve(step), taken_of_device(step, plan.workload, plan.peak)
    alt = f"Memory over set-up and one step by kind, at most {format_bytes(max(point.total for point in points))}."
    return memory_chart(points, alt=alt, budget_bytes=plan.budget_bytes, measured=read_measured(run), taken=taken)


def _read_check(run: Path) -> MemoryCheck | None:
    found = read_object(run / "memory_check.json")
    try:
        return MemoryCheck.model_validate(found) if found else None
    except ValidationError:
        return None


def _figures(plan: Plan, history: RunMetrics, check: MemoryCheck | None) -> list[tuple[str, str, str]]:
    """Return label, value and note of what a reader wants to see first."""
    found = []
    if history.final is not None:
        test, alone = history.final.test.both, history.final.alone
        note = f"Hits@10 {test.hits_at_10:.4f}"
        found.append(("test MRR", f"{test.mrr:.4f}", note if alone is None else f"without rules {alone.both.mrr:.4f}"))
    best = history.best
    if best is not None and best.valid is not None:
        found.append(("best valid MRR", f"{best.valid.both.mrr:.4f}", f"in epoch {best.epoch}"))
    if history.epochs:
        last = history.epochs[-1]
        found.append(("last loss", f"{last.loss:.4f}", f"in epoch {last.epoch}"))
        seconds = sum(epoch.seconds for epoch in history.epochs)
        found.append(("time training", _duration(seconds), f"{_duration(seconds / len(history.epochs))} an epoch"))
    measured = "not measured yet"
    if check is not None:
        measured = "as measured, to the byte" if check.peak.relative_error == 0 else _error(check.peak.relative_error)
    found.append(("planned peak", format_bytes(plan.peak.device_bytes), measured))
    found.append(("budget", format_bytes(plan.budget_bytes), plan.budget_source))
    return found


def _rankings(history: RunMetrics) -> list[tuple[str, list[tuple[str, ...]]]]:
    found = []
    if history.final is not None:
        best = history.final.best_epoch
        found.append((f"Test, with the tables of epoch {best}" if best else "Test", _ranking_rows(history.final.test)))
        if history.final.alone is not None:
            found.append(("Test, by the embeddings alone, without rules", _ranking_rows(history.final.alone)))
    if history.best is not None and history.best.valid is not None:
        found.append((f"Validation, epoch {history.best.epoch}", _ranking_rows(history.best.valid)))
    return found


def _ranking_rows(ranking: Ranking) -> list[tuple[str, ...]]:
    return [
        (label, *(f"{value:.4f}" for value in getattr(ranking, name).model_dump().values())) for name, label in RANKS
    ]


def _relations(history: RunMetrics) -> list[tuple[str, ...]]:
    """Return name, facts and metrics of every relation of the test split, the most frequent first."""
    return [
        (row.relation, format_count(row.n_facts), *(f"{x:.4f}" for x in (row.mrr, row.hits_at_1, row.hits_at_10)))
        for row in (history.final.by_relation if history.final is not None else ())
    ]


def _charts(history: RunMetrics) -> list[tuple[str, Markup]]:
    """Return caption and picture of loss and validation over epochs."""
    found = []
    losses = [(epoch.epoch, epoch.loss) for epoch in history.epochs]
    if losses:
        alt = f"Loss from {losses[0][1]:.4f} in epoch {losses[0][0]} to {losses[-1][1]:.4f} in epoch {losses[-1][0]}."
        found.append(("Training loss (cross-entropy)", Markup(line_chart(losses, alt=alt, digits=1))))
    valid = [(epoch.epoch, epoch.valid.both.mrr) for epoch in history.epochs if epoch.valid is not None]
    if valid and history.best is not None:
        best = history.best.epoch
        alt = f"Validation MRR; the best, {dict(valid)[best]:.4f}, in epoch {best}."
        chart = line_chart(valid, alt=alt, digits=2, marked=(best, f"best, epoch {best}"))
        found.append(("Validation MRR", Markup(chart)))
    return found


def _epoch_row(epoch: Epoch) -> tuple[str, ...]:
    valid = ("", "") if epoch.valid is None else (f"{epoch.valid.both.mrr:.4f}", f"{epoch.valid.both.hits_at_10:.4f}")
    numbers = (f"{epoch.loss:.4f}", f"{epoch.n3_penalty:.4f}", f"{epoch.seconds:.1f}")
    return (str(epoch.epoch), *numbers, f"{epoch.examples_per_second:,.0f}", *valid)


def _event_row(event: Event) -> tuple[str, str, str]:
    """Return epoch, name and details of something that happened."""
    details = [event.what or ""]
    if event.during is not None:
        details.append(f"during {event.during}")
    if event.examples_done is not None:
        details.append(f"{event.examples_done:,} examples of the epoch were done")
    details += [f"{name.replace('_', ' ')} {old} → {new}" for name, (old, new) in (event.changes or {}).items()]
    return str(event.epoch), event.event, ", ".join(filter(None, details))


def _sizes(plan: Plan) -> list[tuple[str, str]]:
    workload = plan.workload
    steps = plan.accumulation_steps
    candidates = "entities" if workload.negatives is None else "negatives"
    whole = plan.chunk_size >= workload.n_candidates
    return [
        ("rank", f"{plan.rank} (rows of {workload.width} numbers)"),
        ("batch", format_count(plan.batch_size)),
        ("micro-batch", f"{format_count(plan.micro_batch_size)}, {steps} a step" if steps > 1 else "the whole batch"),
        *([] if workload.negatives is None else [("negatives a step", format_count(workload.negatives))]),
        ("chunk", f"{'all' if whole else format_count(plan.chunk_size)} {candidates} at once"),
        ("score", f"{workload.score}, {plan.scoring}, {plan.precision}"),
        ("ranking", f"{format_count(plan.eval_batch_size)} queries × {format_count(plan.eval_chunk_size)} entities"),
        ("smallest budget that would do", format_mib_up(plan.smallest_budget_bytes)),
    ]


def _check_rows(check: MemoryCheck) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            format_count(row.predicted.requested_bytes),
            format_count(row.measured.requested_bytes),
            "exact" if row.relative_error == 0 else f"{row.relative_error:+.3%}",
        )
        for row in [*check.phases, check.peak]
    ]


def _settings(plan: Plan, config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the workload's settings, the run's, and the versions."""
    workload = plan.workload
    of_pairre = () if workload.traits.is_complex else PAIRRE_SETTINGS
    of_plan = ["model", "optimizer", "emb_reg", *of_pairre, "time_reg", "no_time_emb", "device", "threads"]
    values = {name: getattr(workload, name) for name in of_plan} | {
        name: value for name, value in config.items() if name != "versions"
    }
    versions = config.get("versions")
    if isinstance(versions, dict):
        values |= {f"{name} version": version for name, version in versions.items()}
    return [(name.replace("_", " "), _shown(value)) for name, value in values.items()]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _error(relative: float) -> str:
    return f"measured {abs(relative):.3%} {'more' if relative > 0 else 'less'}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
