"""The options of the command line, each written once, and how a command gets those that it shares with others."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from memplan.app.request import DEFAULT_MODEL, JobRequest
from memplan.errors import UsageError
from memplan.workload import TRAITS

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_WHAT, _HOW, _WHERE, _GRAPH = "What to train", "How", "Where", "A graph you do not have yet"

OPTIONS: dict[str, OptionInfo] = {
    "dataset": typer.Option(help="Catalog name, a folder with train, valid and test, or demo.", rich_help_panel=_WHAT),
    "data_dir": typer.Option(
        help="Where datasets lie; else $TKBC_DATA, else your data directory.", rich_help_panel=_WHAT
    ),
    "model": typer.Option(help=f"{' or '.join(TRAITS)}; {DEFAULT_MODEL} if left out.", rich_help_panel=_WHAT),
    "recipe": typer.Option(
        help="Settings under those given here; else the model's default for the dataset (memplan recipes).",
        rich_help_panel=_WHAT,
    ),
    "rank": typer.Option(
        metavar="INTEGER|auto|max",
        help="d; the ComplEx family's rows hold 2d floats; the recipe's if left out. Where a plan is searched: auto "
        "lowers the recipe's to what fits, max takes the largest that fits.",
        rich_help_panel=_WHAT,
    ),
    "batch_size": typer.Option(
        metavar="INTEGER|auto",
        help="B, examples per optimizer step: part of the result, and no matter of memory, since micro-batches are. "
        "The recipe's if left out; auto says so in the plan.",
        rich_help_panel=_WHAT,
    ),
    "score": typer.Option(help="l1, l2 or dot: PairRE models take each, ComplEx ones dot.", rich_help_panel=_WHAT),
    "optimizer": typer.Option(help="adagrad, adam or sgd.", rich_help_panel=_WHAT),
    "emb_reg": typer.Option(help="Weight of the N3 regularizer.", rich_help_panel=_WHAT),
    "n3_parts": typer.Option(
        "--n3-parts/--n3-sum",
        help="N3 over each part of the relation at its time, or over the sum of its vectors (PairRE).",
        rich_help_panel=_WHAT,
    ),
    "time_reg": typer.Option(help="Weight of the smoothness of consecutive timestamps.", rich_help_panel=_WHAT),
    "no_time_emb": typer.Option(
        "--no-time-emb/--time-emb",
        help='Keep the last timestamp ("no time") out of smoothness.',
        rich_help_panel=_WHAT,
    ),
    "unit_norm": typer.Option(
        "--unit-norm/--no-unit-norm", help="Entities to unit norm after each step (PairRE).", rich_help_panel=_WHAT
    ),
    "negatives": typer.Option(
        help="K, entities drawn for each step, which its softmax is over; else over all.", rich_help_panel=_WHAT
    ),
    "rules": typer.Option(
        "--rules/--no-rules",
        help="Rank with what the training facts near in time say beside the scores, weighed on valid at the end.",
        rich_help_panel=_WHAT,
    ),
    "deterministic": typer.Option(
        "--deterministic",
        help="On CUDA: slower, more memory, and the same bit for bit when resumed.",
        rich_help_panel=_HOW,
    ),
    "micro_batch_size": typer.Option(help="b, examples at once.", rich_help_panel=_HOW),
    "chunk_size": typer.Option(help="C, entities scored at once.", rich_help_panel=_HOW),
    "scoring": typer.Option(help="materialized, chunked or fused.", rich_help_panel=_HOW),
    "precision": typer.Option(help="fp32, bf16 or fp16: of the score's inputs.", rich_help_panel=_HOW),
    "eval_batch_size": typer.Option(help="Queries ranked at once.", rich_help_panel=_HOW),
    "eval_chunk_size": typer.Option(help="Entities scored at once when ranking.", rich_help_panel=_HOW),
    "device": typer.Option(
        help="cpu, cuda, a GPU's name such as T4, or its memory such as 8GiB; else the GPU present, else cpu.",
        rich_help_panel=_WHERE,
    ),
    "devices": typer.Option(
        metavar="N|NxNAME|auto",
        help="How many train together: 2 of --device, of the GPUs present, or CPU processes; 2xT4; auto: the fewest "
        "that will do (plan, train).",
        rich_help_panel=_WHERE,
    ),
    "shards": typer.Option(
        help="Devices that hold the entity table between them; the rest are replicas. Else the search's to choose.",
        rich_help_panel=_WHERE,
    ),
    "budget": typer.Option(
        help="Memory that the run may take, such as 8GiB or 200MiB; with --devices, on each.", rich_help_panel=_WHERE
    ),
    "alloc_conf": typer.Option(
        help="CUDA allocator options as in PYTORCH_ALLOC_CONF, such as expandable_segments:True; "
        "else the environment's.",
        rich_help_panel=_WHERE,
    ),
    "allow_rank_reduction": typer.Option(
        "--allow-rank-reduction", help="Lower the rank where nothing fits as it is asked for.", rich_help_panel=_HOW
    ),
    "epoch_seconds": typer.Option(
        help="With --rank auto or max: what an epoch may take, by the cost model; else as long as it takes.",
        rich_help_panel=_HOW,
    ),
    "n_entities": typer.Option(help="N.", rich_help_panel=_GRAPH),
    "n_relations": typer.Option(help="R, without reciprocals.", rich_help_panel=_GRAPH),
    "n_timestamps": typer.Option(help="T.", rich_help_panel=_GRAPH),
    "n_facts": typer.Option(help="Training facts.", rich_help_panel=_GRAPH),
    "intervals": typer.Option("--intervals", help="Facts have a begin and an end.", rich_help_panel=_GRAPH),
}
"""How each field of a request is written on the command line, and what its help says."""

RUN_HELP = "A run's folder, its name in runs/, or latest."
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def with_options(kind: type[JobRequest]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of ``kind``, handed to it as one object, its first argument.

    Typer reads a command's options off its signature; this writes that signature from the fields of ``kind``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(kind)
        shared = [
            inspect.Parameter(
                field.name,
                _KEYWORD,
                default=field.default,
                annotation=Annotated[hints[field.name], OPTIONS[field.name]],
            )
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
