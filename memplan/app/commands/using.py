"""The commands that use a trained model: predict, nearest, export; and report, a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memplan.app.commands import print_json
from memplan.app.options import RUN_HELP, AsJson

Run = Annotated[Path, typer.Argument(help=RUN_HELP)]
Top = Annotated[int, typer.Option(min=1, help="How many to list.")]
DataDir = Annotated[Path | None, typer.Option(help="Where datasets lie; else as when it was trained.")]


def predict(
    run: Run,
    relation: Annotated[str, typer.Option(help="As the data write it; case and underscores do not matter.")],
    head: Annotated[str | None, typer.Option(help="Ask for the tails of this head.")] = None,
    tail: Annotated[str | None, typer.Option(help="Ask for the heads of this tail.")] = None,
    time: Annotated[
        str | None, typer.Option(help="When. Models without time need none: it marks what is known then.")
    ] = None,
    when: Annotated[bool, typer.Option("--when", help="Ask for the likely times of head, relation and tail.")] = False,
    top: Top = 10,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the likeliest tails (or heads, or times) of a question with a run's best checkpoint, and mark the known."""
    from memplan.app.jobs.use import predict_command, when_command
    from tkbc.runs.listing import find_run

    ask = when_command if when else predict_command
    found = ask(find_run(run), head, relation, tail, time, top, data_dir)
    if as_json:
        print_json(found)
        return
    from memplan.app.views.terminal import listing, make_console, printable

    question = (found["head"] or "?", found["relation"], found["tail"] or "?", "?" if when else found["time"])
    console = make_console()
    asked = printable("  ".join(part for part in question if part is not None))
    console.print(asked, style="bold", soft_wrap=True)
    _print_source(found)
    if when:
        console.print(listing((">", "time", *SCORED), (_scored(row, "time") for row in found["times"])))
        return
    columns: tuple[str, ...] = (">", "head" if found["head"] is None else "tail", *SCORED)
    rows = [_scored(row, "entity") for row in found["answers"]]
    if any(row["because"] for row in found["answers"]):
        columns = (*columns, "because")
        rows = [(*row, _because(answer)) for row, answer in zip(rows, found["answers"], strict=True)]
    console.print(listing(columns, rows))


SCORED = ("score>", "probability>", "known")


def _scored(row: dict[str, Any], what: str) -> tuple[str, ...]:
    return str(row["place"]), row[what], f"{row['score']:.4f}", f"{row['probability']:.2%}", _known(row)


def _because(answer: dict[str, Any]) -> str:
    """Return the training fact that speaks most for an answer; the arrow is → where it goes to the answer."""
    fact = answer["because"]
    if fact is None:
        return ""
    return f"{'→' if fact['tail'] == answer['entity'] else '←'} {fact['relation']}, {fact['time']}"


def _known(row: dict[str, Any]) -> str:
    """Return where the data hold an answer, as text: its splits, and how often at other times."""
    parts = [", ".join(row["known_in"])] if row["known_in"] else []
    if row.get("other_times"):
        times = "time" if row["other_times"] == 1 else "times"
        parts.append(f"at {row['other_times']:,} other {times}, nearest {row['nearest_other_time']}")
    return "; ".join(parts)


def _print_source(found: dict[str, Any]) -> None:
    from memplan.app.views.terminal import make_console, printable

    what = f"{found['model']} on {found['dataset']}, {found['run']}, checkpoint {found['checkpoint']}"
    make_console().print(printable(what), style="dim", soft_wrap=True)


def nearest(
    run: Run,
    name: Annotated[str, typer.Argument(help="As the data write it; case and underscores do not matter.")],
    of: Annotated[str, typer.Option(help="What it names: entity, relation or time.")] = "entity",
    top: Top = 10,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the entities (or relations, times) whose embeddings in a run's best checkpoint are nearest by cosine."""
    from memplan.app.jobs.use import nearest_command
    from tkbc.runs.listing import find_run

    found = nearest_command(find_run(run), name, of, top, data_dir)
    if as_json:
        print_json(found)
        return
    from memplan.app.views.terminal import listing, make_console, printable

    make_console().print(printable(found["of"]), style="bold", soft_wrap=True)
    _print_source(found)
    rows = ((str(row["place"]), row[of], f"{row['cosine']:.4f}") for row in found["nearest"])
    make_console().print(listing((">", of, "cosine>"), rows))


def export(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .npz or .parquet.")],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write every embedding table of a run's best checkpoint, with labels, to one file: NumPy's npz, or Parquet."""
    from memplan.app.jobs.use import export_command
    from tkbc.runs.listing import find_run

    tables = export_command(find_run(run), file, data_dir, force=force)
    typer.echo(f"{file} holds {', '.join(f'{name} ({rows:,} rows)' for name, rows in tables.items())}")


def report(
    run: Run,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; else report.html in its folder.")
    ] = None,
) -> None:
    """Write a run on one HTML page: quality, learning curves, plan, memory, settings, the command that repeats it."""
    from memplan.app.views.page import write_page
    from tkbc.runs.listing import find_run

    typer.echo(f"the report is {write_page(find_run(run), output)}")
