"""A trained model that answers by name: the likeliest entities of a question, the nearest embeddings, the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from memplan.errors import UsageError
from tkbc.use.opening import Tell, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from tkbc.data import Dataset
    from tkbc.models import Model
    from tkbc.ranking.prediction import Question
    from tkbc.ranking.weights import FittedRules
    from tkbc.runs.state import RunState
    from tkbc.use.trained import Things


class Because(NamedTuple):
    """The training fact near in time that speaks most for an answer, where a run ranks with rules."""

    head: str
    relation: str
    tail: str
    time: str
    """The begin, where it holds over an interval."""
    confidence: float
    """The smoothed number of facts like the answer that such a fact brings with it."""


class Answer(NamedTuple):
    """One of a question's likeliest answers."""

    place: int
    """From 1, by score."""
    entity: str
    score: float
    probability: float
    """Of a softmax over all entities."""
    known_in: tuple[str, ...]
    """The splits that hold it as a fact at the question's time."""
    other_times: int
    """At how many other times the data hold it."""
    nearest_other_time: str | None
    because: Because | None
    """None too where the question has no time or nothing near speaks for the answer."""


class Moment(NamedTuple):
    """One of the likeliest times of a fact."""

    place: int
    """From 1, by score."""
    time: str
    score: float
    """The fact's score at that time, as ``predict`` gives it."""
    probability: float
    """Of a softmax over all times."""
    known_in: tuple[str, ...]
    """The splits that hold the fact at that time."""


class Neighbour(NamedTuple):
    """One of the nearest embeddings."""

    place: int
    name: str
    cosine: float


@dataclass(frozen=True)
class TrainedModel:
    """A run's best checkpoint, loaded onto the CPU, with the data that it was trained on."""

    run: Path
    checkpoint: str
    state: RunState
    data: Dataset
    model: Model
    rules: FittedRules | None = None
    """The graph's rules, which ``predict`` has beside the scores, where the run ranks with them."""

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

    @property
    def tables(self) -> dict[str, Tensor]:
        """The embedding tables by name, (rows, width) float32 each; ``labels`` names their rows."""
        return {name: table.detach() for name, table in self.model.named_parameters()}

    def labels(self, table: str) -> tuple[str, ...]:
        """Return what each row of a table stands for.

        Raises:
            UsageError: there is no such table.
        """
        from tkbc.use.trained import labels_of

        if table not in self.tables:
            raise UsageError(f"no table {table!r}: {self.model.workload.model} has {', '.join(self.tables)}")
        return labels_of(table, self.data)

    def predict(
        self,
        *,
        head: str | None = None,
        relation: str,
        tail: str | None = None,
        time: str | None = None,
        top: int = 10,
    ) -> list[Answer]:
        """Return the ``top`` likeliest tails of (head, relation, ?, time), or heads of (?, relation, tail, time).

        Raises:
            UsageError: both or neither of head and tail, a name or time that the data do not have, or no time where
                the model needs one.
            MemplanError: a score is not a finite number.
        """
        return self.answers(self.question(head, relation, tail, time), top)

    def question(self, head: str | None, relation: str, tail: str | None, time: str | None) -> Question:
        """Return a question by ids; names may differ in case and underscores.

        Raises:
            UsageError: as ``predict``.
        """
        from tkbc.ranking.prediction import Question
        from tkbc.use.names import find_name, find_time

        data, workload = self.data, self.state.plan.workload
        given = tail if head is None else head
        if given is None or (head is not None and tail is not None):
            raise UsageError("say one of head and tail: the other is what is asked for")
        if time is None and workload.traits.knows_time:
            raise UsageError(
                f"{workload.model} answers for a time: add --time, one of the {len(data.timestamps):,} from "
                f"{data.timestamps[0]!r} to {data.timestamps[-1]!r}"
            )
        return Question(
            entity=find_name("entity", given, data.entities),
            relation=find_name("relation", relation, data.relations),
            time=None if time is None else find_time(time, data.timestamps),
            asks_tail=tail is None,
        )

    def answers(self, question: Question, top: int = 10) -> list[Answer]:
        """Return the ``top`` likeliest answers of a question, the highest score first.

        Raises:
            MemplanError: a score is not a finite number.
        """
        from tkbc.ranking.prediction import predict
        from tkbc.use.names import moments

        data, found = self.data, []
        at = moments(data.timestamps)
        for answer in predict(self.model, data, question, top, self.rules):
            others = answer.known.other_times
            near = min(others, key=lambda other: abs(at[other] - at[question.time or 0]), default=None)
            found.append(
                Answer(
                    place=answer.place,
                    entity=data.entities[answer.entity],
                    score=answer.score,
                    probability=answer.probability,
                    known_in=answer.known.splits,
                    other_times=len(others),
                    nearest_other_time=None if near is None else data.timestamps[near],
                    because=self._because(question, answer.entity),
                )
            )
        return found

    def _because(self, question: Question, answer: int) -> Because | None:
        if self.rules is None or question.time is None:
            return None
        data, n_relations = self.data, len(self.data.relations)
        asked = question.relation + (0 if question.asks_tail else n_relations)
        fact = self.rules.rules.strongest(question.entity, asked, answer, question.time)
        if fact is None:
            return None
        ends = [data.entities[question.entity], data.entities[answer]]
        head, tail = ends if fact.relation < n_relations else reversed(ends)
        relation, time = data.relations[fact.relation % n_relations], data.timestamps[fact.begin]
        return Because(head, relation, tail, time, fact.confidence)

    def when(self, head: str, relation: str, tail: str, *, top: int = 10) -> list[Moment]:
        """Return the ``top`` likeliest times of the fact (head, relation, tail); of equal scores the earlier first.

        Raises:
            UsageError: a name that the data do not have, or a model whose score does not depend on time.
            MemplanError: a score is not a finite number.
        """
        from tkbc.ranking.times import likely_times

        if not self.model.traits.knows_time:
            raise UsageError(
                f"{self.model.workload.model} scores a fact alike at all times: ask a model that knows time"
            )
        found = likely_times(self.model, self.data, *self.find_fact(head, relation, tail), top)
        return [
            Moment(place, self.data.timestamps[moment.time], moment.score, moment.probability, moment.known_in)
            for place, moment in enumerate(found, start=1)
        ]

    def find_fact(self, head: str, relation: str, tail: str) -> tuple[int, int, int]:
        """Return the ids of a head, a relation and a tail; names may differ in case and underscores.

        Raises:
            UsageError: a name that the data do not have.
        """
        from tkbc.use.names import find_name

        data = self.data
        return (
            find_name("entity", head, data.entities),
            find_name("relation", relation, data.relations),
            find_name("entity", tail, data.entities),
        )

    def nearest(self, name: str, *, of: str = "entity", top: int = 10) -> list[Neighbour]:
        """Return the ``top`` nearest neighbours, by cosine, of an entity, or ``of`` a relation or time.

        Raises:
            UsageError: a name that the data do not have, or embeddings that the model does not have.
        """
        from tkbc.use.trained import nearest

        names, row = self.find(name, of)
        found = nearest(self.model, cast("Things", of), row, top)
        return [Neighbour(place, names[i], cosine) for place, (i, cosine) in enumerate(found, start=1)]

    def find(self, name: str, of: str = "entity") -> tuple[tuple[str, ...], int]:
        """Return the names of all entities, relations or times, and the row of ``name`` among them.

        Raises:
            UsageError: it is not among them, or ``of`` is none of the three.
        """
        from tkbc.use.names import find_name, find_time

        known = {"entity": self.data.entities, "relation": self.data.relations, "time": self.data.timestamps}
        if of not in known:
            raise UsageError(f"--of {of!r}: entity, relation or time")
        names = known[of]
        return names, find_time(name, names) if of == "time" else find_name(of, name, names)


def open_trained(run: Path, data_dir: Path | None, tell: Tell) -> TrainedModel:
    """Return the model of a run's best checkpoint; ``tell`` is told which checkpoints are passed over.

    Raises:
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    name, state, data = open_checkpoint(run, data_dir, tell)
    from tkbc.ranking.rules import Rules
    from tkbc.ranking.weights import FittedRules, read_weights
    from tkbc.use.trained import load_trained

    model = load_trained(run / "checkpoint" / name, state.plan.workload)
    weights = read_weights(run)
    rules = None if weights is None else FittedRules(Rules.of(data), weights)
    return TrainedModel(run, name, state, data, model, rules)
