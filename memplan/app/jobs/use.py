"""What a finished run is good for: answers, neighbours, embeddings for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from memplan.app.jobs.resume import open_checkpoint
from memplan.errors import UsageError

if TYPE_CHECKING:
    from tkbc.data import Dataset
    from tkbc.models import Model
    from tkbc.runs.state import RunState
    from tkbc.use.trained import Things


class Trained(NamedTuple):
    """A run's best checkpoint, loaded onto the CPU, with the data that it was trained on."""

    run: Path
    checkpoint: str
    state: RunState
    data: Dataset
    model: Model

    @property
    def about(self) -> dict[str, Any]:
        """What it is, in a few words."""
        workload = self.state.plan.workload
        best = self.state.best
        return {
            "model": workload.model,
            "score": workload.score,
            "rank": workload.rank,
            "dataset": self.data.name,
            "data_sha256": self.state.data_sha256,
            "run": str(self.run),
            "checkpoint": self.checkpoint,
            "best_epoch": None if best is None or best.checkpoint != self.checkpoint else best.epoch,
        }


def open_trained(run: Path, data_dir: Path | None) -> Trained:
    """Return the model of a run's best checkpoint.

    Raises:
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    name, state, data = open_checkpoint(run, data_dir)
    from tkbc.use.trained import load_trained

    model = load_trained(run / "checkpoint" / name, state.plan.workload)
    return Trained(run, name, state, data, model)


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
        raise UsageError("say one of --head and --tail: the other is what is asked for")
    found = open_trained(run, data_dir)
    from tkbc.ranking.prediction import Question, predict
    from tkbc.use.names import find_name, find_time, moments

    data, workload = found.data, found.state.plan.workload
    if time is None and workload.traits.is_temporal:
        raise UsageError(
            f"{workload.model} answers for a time: add --time, one of the {len(data.timestamps):,} from "
            f"{data.timestamps[0]!r} to {data.timestamps[-1]!r}"
        )
    question = Question(
        entity=find_name("entity", cast(str, head if tail is None else tail), data.entities),
        relation=find_name("relation", relation, data.relations),
        time=None if time is None else find_time(time, data.timestamps),
        asks_tail=tail is None,
    )
    at = moments(data.timestamps)
    rows: list[dict[str, Any]] = []
    for answer in predict(found.model, data, question, top):
        others = answer.known.other_times
        near = min(others, key=lambda other: abs(at[other] - at[question.time or 0]), default=None)
        rows.append(
            {
                "place": answer.place,
                "entity": data.entities[answer.entity],
                "score": answer.score,
                "probability": answer.probability,
                "known_in": list(answer.known.splits),
                "other_times": len(others),
                "nearest_other_time": None if near is None else data.timestamps[near],
            }
        )
    return {
        **found.about,
        "head": data.entities[question.entity] if question.asks_tail else None,
        "relation": data.relations[question.relation],
        "tail": None if question.asks_tail else data.entities[question.entity],
        "time": None if question.time is None else data.timestamps[question.time],
        "answers": rows,
    }


def nearest_command(run: Path, name: str, of: str, top: int, data_dir: Path | None) -> dict[str, Any]:
    """Return the nearest neighbours of an entity, relation or time, as ``memplan nearest --json`` prints them.

    Raises:
        UsageError: a name that the data do not have, or embeddings that the model does not have.
        DoesNotFitError, MemplanError: as ``open_trained``.
    """
    if of not in ("entity", "relation", "time"):
        raise UsageError(f"--of {of!r}: entity, relation or time")
    found = open_trained(run, data_dir)
    from tkbc.use.names import find_name, find_time
    from tkbc.use.trained import nearest

    things = cast("Things", of)
    names = {"entity": found.data.entities, "relation": found.data.relations, "time": found.data.timestamps}[of]
    row = find_time(name, names) if of == "time" else find_name(of, name, names)
    rows = [
        {"place": place, of: names[i], "cosine": cosine}
        for place, (i, cosine) in enumerate(nearest(found.model, things, row, top), start=1)
    ]
    return {**found.about, "of": names[row], "nearest": rows}


def export_command(run: Path, path: Path, data_dir: Path | None, *, force: bool) -> dict[str, int]:
    """Write a run's embedding tables to ``path``; return the rows of each.

    Raises:
        UsageError: another ending than .npz and .parquet.
        DoesNotFitError, MemplanError: as ``open_trained``, or the file is there or cannot be written.
    """
    from tkbc.use.export import check_file, export

    check_file(path, force=force)
    found = open_trained(run, data_dir)
    export(found.model, found.data, found.about, path)
    return found.model.tables(found.model.workload)
