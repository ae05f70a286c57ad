"""What a finished run is good for: answers, neighbours, embeddings for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memplan.app.jobs.evaluate import tell_on_stderr
from memplan.errors import UsageError
from tkbc.use.model import open_trained


def predict_command(
    run: Path,
    head: str | None,
    relation: str,
    tail: str | None,
    time: str | None,
    top: int,
    data_dir: Path | None,
) -> dict[str, Any]:
    """Return the question as the data write it and its likeliest answers, as ``memplan predict --json`` prints them.

    Raises:
        UsageError: both or neither of head and tail, a name or time that the data do not have, or no time where the
            model needs one.
        DoesNotFitError, MemplanError: as ``open_trained``.
    """
    if (head is None) == (tail is None):
        way_out = "" if head is None else "; of both, --when asks for the time"
        raise UsageError(f"say one of --head and --tail: the other is what is asked for{way_out}")
    found = open_trained(run, data_dir, tell_on_stderr)
    data, question = found.data, found.question(head, relation, tail, time)
    return {
        **found.about,
        "head": data.entities[question.entity] if question.asks_tail else None,
        "relation": data.relations[question.relation],
        "tail": None if question.asks_tail else data.entities[question.entity],
        "time": None if question.time is None else data.timestamps[question.time],
        "answers": [
            {
                **answer._asdict(),
                "known_in": list(answer.known_in),
                "because": None if answer.because is None else answer.because._asdict(),
            }
            for answer in found.answers(question, top)
        ],
    }


def when_command(
    run: Path,
    head: str | None,
    relation: str,
    tail: str | None,
    time: str | None,
    top: int,
    data_dir: Path | None,
) -> dict[str, Any]:
    """Return a fact as the data write it and its likeliest times, as ``memplan predict --when --json`` prints them.

    Raises:
        UsageError: not both of head and tail, a time, a name that the data do not have, or a model without time.
        DoesNotFitError, MemplanError: as ``open_trained``.
    """
    if head is None or tail is None or time is not None:
        raise UsageError("--when asks for the time of a fact: say --head, --relation and --tail, and no --time")
    found = open_trained(run, data_dir, tell_on_stderr)
    times = found.when(head, relation, tail, top=top)
    data, (h, r, t) = found.data, found.find_fact(head, relation, tail)
    return {
        **found.about,
        "head": data.entities[h],
        "relation": data.relations[r],
        "tail": data.entities[t],
        "times": [{**moment._asdict(), "known_in": list(moment.known_in)} for moment in times],
    }


def nearest_command(run: Path, name: str, of: str, top: int, data_dir: Path | None) -> dict[str, Any]:
    """Return the nearest neighbours of an entity, relation or time, as ``memplan nearest --json`` prints them.

    Raises:
        UsageError: a name that the data do not have, or embeddings that the model does not have.
        DoesNotFitError, MemplanError: as ``open_trained``.
    """
    if of not in ("entity", "relation", "time"):
        raise UsageError(f"--of {of!r}: entity, relation or time")
    found = open_trained(run, data_dir, tell_on_stderr)
    names, row = found.find(name, of)
    rows = [{"place": place, of: near, "cosine": cosine} for place, near, cosine in found.nearest(name, of=of, top=top)]
    return {**found.about, "of": names[row], "nearest": rows}


def export_command(run: Path, path: Path, data_dir: Path | None, *, force: bool) -> dict[str, int]:
    """Write a run's embedding tables to ``path``; return the rows of each.

    Raises:
        UsageError: another ending than .npz and .parquet.
        DoesNotFitError, MemplanError: as ``open_trained``, or the file is there or cannot be written.
    """
    from tkbc.use.export import check_file, export

    check_file(path, force=force)
    found = open_trained(run, data_dir, tell_on_stderr)
    export(found.model, found.data, found.about, path)
    return {name: n_rows for name, (n_rows, _) in found.model.tables(found.model.workload).items()}
