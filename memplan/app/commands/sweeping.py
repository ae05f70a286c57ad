"""The command that searches for a recipe: sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.app.commands import print_json
from memplan.app.options import AsJson, with_options
from memplan.app.request import SearchRequest
from memplan.errors import DoesNotFitError, UsageError

if TYPE_CHECKING:
    from memplan.app.sweep.study import Sweep, Trial


@with_options(SearchRequest)
def sweep(
    given: SearchRequest,
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="What to search, once for each setting: emb_reg=1e-3..1e-1, rank=100..300, unit_norm=true,false, "
            "model=TNTPairRE,TNTComplEx (each with its recipe and as many parameters as the first; with --rank auto "
            "its recipe's rank, with --rank 100 that one). If left out: rate, regularizers, unit norm."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Stop at this many trials in all.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop a sitting after this long.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of every trial; else the recipe's.")] = None,
    init_scale: Annotated[float | None, typer.Option(help="Of every trial; else the model's.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Epochs of a trial; else the recipe's.")] = None,
    cooldown: Annotated[
        float | None, typer.Option(help="Share of a trial in which the rate falls to 0; else the recipe's.")
    ] = None,
    valid_freq: Annotated[int | None, typer.Option(help="Validate after every this many epochs (5).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every trial, and of what is proposed (0).")] = None,
    sweep_dir: Annotated[Path | None, typer.Option(help="The sweep's folder; else a new one in sweeps/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the sweep in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search for a recipe: trials proposed by Optuna, planned within the budget, compared by their valid MRR.

    A trial that falls behind the median of the others is given up, unless models are compared, which learn at paces of
    their own; one that fits no memory is never begun. The test split is not looked at. Stopped, or killed, a sweep goes
    on with --resume as if nothing had been: with its own limits, or other ones.
    """
    from memplan.app.sweep.study import read_trials, require_optuna

    require_optuna()
    if given.devices is not None or given.shards is not None:
        raise UsageError("a sweep's trials train on one device each; leave out --devices and --shards")
    settings: dict[str, Any] = {"learning_rate": learning_rate, "init_scale": init_scale, "max_epochs": max_epochs}
    settings |= {"cooldown": cooldown, "valid_freq": valid_freq, "seed": seed}
    held = {name for name, value in settings.items() if value is not None}
    if minutes is not None and not minutes > 0:
        raise UsageError(f"--minutes: {minutes:g}: a number above 0")
    limits: dict[str, Any] = {"max_trials": trials, "minutes": minutes}
    if resume is not None:
        folder = resume
        found = _resumed(resume, given, {**settings, "over": over, "sweep_dir": sweep_dir}, limits)
    else:
        from memplan.app.jobs.prepare import new_folder
        from memplan.app.request import DEFAULT_MODEL, find_model
        from memplan.app.sweep.space import default_space, parse_space
        from memplan.app.sweep.study import SWEEPS, new_sweep

        if not any(limits.values()):
            raise UsageError("say when to stop: --trials, --minutes or both")
        model = find_model(given.model or DEFAULT_MODEL)
        space = parse_space(over) if over else default_space(model, but={*given.given_settings(), *held})
        compared = "models" if any(dimension.name == "model" for dimension in space) else model
        folder = sweep_dir or new_folder(Path(given.dataset or "demo").name, compared, SWEEPS)
        found = new_sweep(given, settings, space, seed=seed or 0, **limits)
    from memplan.app.sweep.job import run_sweep

    try:
        ended = run_sweep(folder, found, is_new=resume is None, quiet=as_json)
    except (DoesNotFitError, SystemExit):
        if as_json:  # the trials so far, whether nothing fits or a signal stopped it
            print_json(_as_json(folder, read_trials(folder)))
        raise
    if as_json:
        print_json(_as_json(folder, ended))


def _resumed(folder: Path, given: SearchRequest, own: dict[str, Any], limits: dict[str, Any]) -> Sweep:
    """Return the sweep in ``folder``, with the limits given now; ``own``: the command's other options.

    Raises:
        UsageError: an option that the sweep has settled.
        MemplanError: there is no sweep.
    """
    from memplan.app.sweep.study import read_sweep

    said = given.given_flags("data_dir")
    said += [f"--{name.replace('_', '-')}" for name, value in own.items() if value is not None]
    if said:
        raise UsageError(f"--resume: the sweep has settled {', '.join(said)}; leave that out, or begin another sweep")
    found = read_sweep(folder)
    if given.data_dir is not None:
        found = found.model_copy(update={"given": {**found.given, "data_dir": str(given.data_dir)}})
    return found.model_copy(update=limits) if any(limits.values()) else found


def _as_json(folder: Path, trials: list[Trial]) -> dict[str, Any]:
    from memplan.app.sweep.study import best_of, read_sweep

    best, found = best_of(trials), read_sweep(folder)
    return {
        "folder": str(folder),
        "best": None if best is None else best.model_dump(),
        "command": None if best is None else found.command(best.params),
        "ranks": found.ranks,
        "trials": [trial.model_dump() for trial in trials],
    }
