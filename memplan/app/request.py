"""What a user asks for, before it is resolved: options as values, and the job that they add up to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from memplan.catalog.datasets import DEMO, find_dataset, is_folder
from memplan.catalog.folders import find_folder
from memplan.catalog.recipes import find_recipe
from memplan.errors import UsageError, unknown_name
from memplan.workload import TRAITS, ModelName, Shape, Workload, validated

if TYPE_CHECKING:
    from tkbc.data import Dataset as LoadedGraph

DEFAULT_MODEL = "TNTPairRE"
RankRule = Literal["auto", "max"]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What to train, how and where: the options of every command that sizes a run."""

    dataset: str | None = None
    data_dir: Path | None = None
    model: str | None = None
    recipe: str | None = None
    rank: str | None = None
    batch_size: str | None = None
    score: str | None = None
    optimizer: str | None = None
    emb_reg: float | None = None
    n3_parts: bool | None = None
    time_reg: float | None = None
    no_time_emb: bool | None = None
    unit_norm: bool | None = None
    negatives: int | None = None
    rules: bool | None = None
    deterministic: bool | None = None
    micro_batch_size: int | None = None
    chunk_size: int | None = None
    scoring: str | None = None
    precision: str | None = None
    eval_batch_size: int | None = None
    eval_chunk_size: int | None = None
    device: str | None = None
    devices: str | None = None
    shards: int | None = None
    budget: str | None = None
    alloc_conf: str | None = None

    @property
    def rank_rule(self) -> RankRule | None:
        """How the search chooses the rank: the recipe's, or the largest that fits. None: it is not the search's."""
        word = str(self.rank).strip().lower()
        return "auto" if word == "auto" else "max" if word == "max" else None

    @property
    def batch_is_auto(self) -> bool:
        """Whether the batch is the search's to choose."""
        return str(self.batch_size).strip().lower() == "auto"

    @property
    def for_the_search(self) -> list[str]:
        """Return the options whose value a search has to choose, as they were written."""
        chosen = [] if self.rank_rule is None else [f"--rank {self.rank_rule}"]
        return chosen + ["--batch-size auto"] * self.batch_is_auto

    def given_flags(self, *but: str) -> list[str]:
        """Return the flags of the options that the user gave, those of the fields ``but`` left out."""
        return [f"--{name.replace('_', '-')}" for name in self.given_values() if name not in but]

    def given_values(self) -> dict[str, Any]:
        """Return the options that the user gave, off and 0 among them."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {field.name: value for field, value in values if value != field.default}

    def given_settings(self) -> dict[str, Any]:
        """Return the workload's settings that the user gave.

        Raises:
            UsageError: rank or batch is no number.
        """
        names = set(Workload.model_fields) - {"dataset", "model", "device"}
        given = {name: value for name, value in self.given_values().items() if name in names}
        for name, is_chosen, words in (
            ("rank", self.rank_rule is not None, "auto or max"),
            ("batch_size", self.batch_is_auto, "auto"),
        ):
            if is_chosen:
                del given[name]
            elif name in given:
                try:
                    given[name] = int(given[name])
                except ValueError:
                    flag = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{flag}: {given[name]!r} is neither a whole number nor {words}") from None
        return given


@dataclass(frozen=True, kw_only=True)
class SearchRequest(JobRequest):
    """The options of a command that searches for a plan."""

    allow_rank_reduction: bool = False
    epoch_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class GraphRequest(JobRequest):
    """The options of a command that plans without data: a graph may be given by its counts."""

    n_entities: int | None = None
    n_relations: int | None = None
    n_timestamps: int | None = None
    n_facts: int | None = None
    intervals: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PlanRequest(GraphRequest, SearchRequest):
    """The options of a command that searches for a plan without data."""


class Graph(NamedTuple):
    """What planning needs to know of a graph; ``dataset`` is how it was asked for, None where it has no data."""

    dataset: str | None
    shape: Shape
    n_queries: int | None = None
    """Queries of the smaller of valid and test."""
    no_time: bool = False
    """The graph has facts without time, at its last timestamp."""


class Job(NamedTuple):
    """What the options add up to: a graph, and the workload's settings with the user's on top of the recipe's."""

    graph: Graph
    settings: dict[str, Any]
    recipe: str
    """The recipe's name."""


def find_model(name: str) -> ModelName:
    """Return the model that ``name`` names, whatever its case.

    Raises:
        UsageError: there is none; the message lists the nearest names.
    """
    for known in TRAITS:
        if known.lower() == name.lower():
            return known
    raise unknown_name("model", name, TRAITS)


def gather(given: JobRequest, graph: Graph | None = None) -> Job:
    """Return the job that the options add up to, with the model's recipe under what the user gave.

    ``graph`` is the data that is loaded already; else it is looked up. A recipe's batch is cut to the data where the
    data is smaller; a batch that the user gave is not.

    Raises:
        UsageError: an unknown model or dataset, or counts that are incomplete or out of range.
        MemplanError: a folder without a readable dataset.
    """
    model = find_model(given.model or DEFAULT_MODEL)
    graph = graph or _find_graph(given)
    asked = given.given_settings()
    recipe = find_recipe(graph.dataset, model, given.recipe)
    settings = {"no_time_emb": graph.no_time, **recipe.settings, **asked, "model": model, "dataset": graph.dataset}
    if "batch_size" not in asked:
        settings["batch_size"] = min(settings["batch_size"], 2 * graph.shape.n_facts)
    return Job(graph, settings, recipe.name)


def of_loaded(dataset: str, graph: LoadedGraph) -> Graph:
    """Return what planning needs to know of a graph whose facts are at hand."""
    n_queries = 2 * min(len(graph.valid), len(graph.test))
    return Graph(dataset, graph.shape, n_queries, no_time=graph.has_no_time)


def _find_graph(given: JobRequest) -> Graph:
    """Return the graph: from its counts, counted in its files where those are at hand, or from the catalog."""
    counts = {field: getattr(given, field, None) for field in Shape.model_fields}
    some = {field: value for field, value in counts.items() if value is not None}
    if some and given.dataset is not None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in some)
        raise UsageError(f"--dataset and a graph given by its counts ({flags}) exclude each other; leave one out")
    if some:
        missing = [f"--{field.replace('_', '-')}" for field in counts if field.startswith("n_") and field not in some]
        if missing:
            raise UsageError(f"a graph given by its counts needs all four; add {', '.join(missing)}")
        return Graph(None, validated(Shape, some))
    dataset = DEMO.name if given.dataset is None else given.dataset
    # As train looks for it: files that are at hand are counted, the catalog is believed where there are none.
    if is_folder(dataset) or given.data_dir is not None or find_folder(find_dataset(dataset), None) is not None:
        from tkbc.data import load_dataset  # numpy: only where there are files to count

        loaded = load_dataset(dataset, given.data_dir)
        return of_loaded(loaded.dataset, loaded)
    entry = find_dataset(dataset)
    known = [n for n in (entry.n_valid, entry.n_test) if n is not None]
    return Graph(entry.name, entry.shape, 2 * min(known) if known else None, entry.no_time)
