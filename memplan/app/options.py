"""The options that commands share, each written once, and what they add up to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from memplan.catalog.datasets import DEMO, find_dataset, is_folder
from memplan.catalog.folders import find_folder
from memplan.catalog.recipes import find_recipe
from memplan.errors import UsageError, unknown_name
from memplan.workload import TRAITS, ModelName, Shape, Workload, validated

if TYPE_CHECKING:
    from tkbc.data import Dataset as LoadedGraph

DEFAULT_MODEL = "TNTPairRE"
EPOCH_SECONDS = 60.0
"""What an epoch may take where the rank is the search's to choose and nothing is said."""
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_WHAT, _HOW, _WHERE, _GRAPH = "What to train", "How", "Where", "A graph you do not have yet"


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What to train, how and where: the options of every command that sizes a run."""

    dataset: Annotated[
        str | None,
        typer.Option(help="Catalog name, a folder with train, valid and test, or demo.", rich_help_panel=_WHAT),
    ] = None
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where datasets lie; else $TKBC_DATA, else your data directory.", rich_help_panel=_WHAT),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(help=f"{' or '.join(TRAITS)}; {DEFAULT_MODEL} if left out.", rich_help_panel=_WHAT),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings under those given here; else the model's default for the dataset (memplan recipes).",
            rich_help_panel=_WHAT,
        ),
    ] = None
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="INTEGER|auto",
            help="d; the ComplEx family's rows hold 2d floats. auto: the largest that fits (plan, --auto-fit-gpu).",
            rich_help_panel=_WHAT,
        ),
    ] = None
    batch_size: Annotated[int | None, typer.Option(help="B, examples per optimizer step.", rich_help_panel=_WHAT)] = (
        None
    )
    score: Annotated[
        str | None,
        typer.Option(help="l1, l2 or dot: PairRE models take each, ComplEx ones dot.", rich_help_panel=_WHAT),
    ] = None
    optimizer: Annotated[str | None, typer.Option(help="adagrad, adam or sgd.", rich_help_panel=_WHAT)] = None
    emb_reg: Annotated[float | None, typer.Option(help="Weight of the N3 regularizer.", rich_help_panel=_WHAT)] = None
    n3_parts: Annotated[
        bool | None,
        typer.Option(
            "--n3-parts/--n3-sum",
            help="N3 over each part of the relation at its time, or over the sum of its vectors (PairRE).",
            rich_help_panel=_WHAT,
        ),
    ] = None
    time_reg: Annotated[
        float | None, typer.Option(help="Weight of the smoothness of consecutive timestamps.", rich_help_panel=_WHAT)
    ] = None
    no_time_emb: Annotated[
        bool | None,
        typer.Option(
            "--no-time-emb/--time-emb",
            help='Keep the last timestamp ("no time") out of smoothness.',
            rich_help_panel=_WHAT,
        ),
    ] = None
    unit_norm: Annotated[
        bool | None,
        typer.Option(
            "--unit-norm/--no-unit-norm", help="Entities to unit norm after each step (PairRE).", rich_help_panel=_WHAT
        ),
    ] = None
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic",
            help="On CUDA: slower, more memory, and the same bit for bit when resumed.",
            rich_help_panel=_HOW,
        ),
    ] = None
    micro_batch_size: Annotated[int | None, typer.Option(help="b, examples at once.", rich_help_panel=_HOW)] = None
    chunk_size: Annotated[int | None, typer.Option(help="C, entities scored at once.", rich_help_panel=_HOW)] = None
    scoring: Annotated[str | None, typer.Option(help="materialized, chunked or fused.", rich_help_panel=_HOW)] = None
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16: of the score's inputs.", rich_help_panel=_HOW)
    ] = None
    eval_batch_size: Annotated[int | None, typer.Option(help="Queries ranked at once.", rich_help_panel=_HOW)] = None
    eval_chunk_size: Annotated[
        int | None, typer.Option(help="Entities scored at once when ranking.", rich_help_panel=_HOW)
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, or a GPU's name such as T4; else the GPU present, else cpu.", rich_help_panel=_WHERE
        ),
    ] = None
    budget: Annotated[
        str | None, typer.Option(help="Memory that the run may take, such as 8GiB or 200MiB.", rich_help_panel=_WHERE)
    ] = None
    alloc_conf: Annotated[
        str | None,
        typer.Option(
            help="CUDA allocator options as in PYTORCH_ALLOC_CONF, such as expandable_segments:True; "
            "else the environment's.",
            rich_help_panel=_WHERE,
        ),
    ] = None

    @property
    def rank_is_auto(self) -> bool:
        """Whether the rank is the search's to choose."""
        return self.rank is not None and str(self.rank).strip().lower() == "auto"

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
            UsageError: the rank is no number.
        """
        names = set(Workload.model_fields) - {"dataset", "model", "device"}
        given = {name: value for name, value in self.given_values().items() if name in names}
        if self.rank_is_auto:
            del given["rank"]
        elif self.rank is not None:
            try:
                given["rank"] = int(self.rank)
            except ValueError:
                raise UsageError(f"--rank: {self.rank!r} is neither a whole number nor auto") from None
        return given


@dataclass(frozen=True, kw_only=True)
class SearchOptions(JobOptions):
    """The options of a command that searches for a plan."""

    allow_rank_reduction: Annotated[
        bool,
        typer.Option(
            "--allow-rank-reduction", help="Lower the rank where nothing fits as it is asked for.", rich_help_panel=_HOW
        ),
    ] = False
    epoch_seconds: Annotated[
        float | None,
        typer.Option(
            help=f"With --rank auto: what an epoch may take, by the cost model ({EPOCH_SECONDS:g}).",
            rich_help_panel=_HOW,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class GraphOptions(JobOptions):
    """The options of a command that plans without data: a graph may be given by its counts."""

    n_entities: Annotated[int | None, typer.Option(help="N.", rich_help_panel=_GRAPH)] = None
    n_relations: Annotated[int | None, typer.Option(help="R, without reciprocals.", rich_help_panel=_GRAPH)] = None
    n_timestamps: Annotated[int | None, typer.Option(help="T.", rich_help_panel=_GRAPH)] = None
    n_facts: Annotated[int | None, typer.Option(help="Training facts.", rich_help_panel=_GRAPH)] = None
    intervals: Annotated[
        bool | None, typer.Option("--intervals", help="Facts have a begin and an end.", rich_help_panel=_GRAPH)
    ] = None


@dataclass(frozen=True, kw_only=True)
class PlanOptions(GraphOptions, SearchOptions):
    """The options of a command that searches for a plan without data."""


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def with_options(kind: type[JobOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of ``kind``, handed to it as one object, its first argument.

    Typer reads a command's options off its signature; this writes that signature, so that no option is written twice.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(kind, include_extras=True)
        shared = [
            inspect.Parameter(field.name, _KEYWORD, default=field.default, annotation=hints[field.name])
            for field in fields(kind)
        ]
        own_hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(kind=_KEYWORD, annotation=own_hints[name])
            for name, parameter in list(inspect.signature(command).parameters.items())[1:]
        ]

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            given = kind(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            command(given, **values)

        parameters = [*own, *shared]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def numbers(flag: str, text: str) -> list[int]:
    """Return the whole numbers of a list such as ``50,64,100``.

    Raises:
        UsageError: an entry is no whole number above 0.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit() and int(part) > 0)]
    if wrong:
        raise UsageError(f"{flag}: {wrong[0]!r} is no whole number above 0; write a list such as 50,64,100")
    return list(dict.fromkeys(int(part) for part in parts))


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


def gather(given: JobOptions, graph: Graph | None = None) -> Job:
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


def _find_graph(given: JobOptions) -> Graph:
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
