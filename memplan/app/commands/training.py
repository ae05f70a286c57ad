"""The commands of a run: train, evaluate, runs, monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memplan.app.commands import print_json
from memplan.app.options import RUN_HELP, AsJson, with_options
from memplan.app.request import SearchRequest
from memplan.errors import MemplanError


@with_options(SearchRequest)
def train(
    given: SearchRequest,
    auto_fit_gpu: Annotated[
        bool,
        typer.Option(
            "--auto-fit-gpu", help="Choose sizes that fit the GPU present; without one, this machine's memory."
        ),
    ] = False,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="Train this plan, as plan --json wrote it.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimizer; else the recipe's.")] = None,
    init_scale: Annotated[
        float | None, typer.Option(help="Standard deviation of the initial embeddings; else the model's.")
    ] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Epochs; else the recipe's.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="End in good order after this long, all sittings together; the ranking of test comes on top. The "
            "learning rate falls by epochs, not by time. --resume with more goes on."
        ),
    ] = None,
    cooldown: Annotated[
        float | None,
        typer.Option(help="Share of the epochs, the last, in which the rate falls to 0; else the recipe's."),
    ] = None,
    valid_freq: Annotated[int | None, typer.Option(help="Validate after every this many epochs (5).")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many validations in a row without a better MRR; else never.")
    ] = None,
    checkpoint_minutes: Annotated[
        float | None, typer.Option(help="A checkpoint at least this often, besides one at every validation (10).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: same run (0).")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run's folder; else a new one in runs/.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with this run, a folder, a name or latest; auto: the newest interrupted one in runs/."
        ),
    ] = None,
    strict_memory: Annotated[
        bool, typer.Option("--strict-memory", help="Stop where measured memory drifts from the plan.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Metrics for TensorBoard too, in the run's folder.")
    ] = False,
) -> None:
    """Plan, train, check the plan against the allocations that really happen, and evaluate."""
    from memplan.app.jobs.train import run_command

    settings = {
        "learning_rate": learning_rate,
        "init_scale": init_scale,
        "max_epochs": max_epochs,
        "minutes": minutes,
        "cooldown": cooldown,
        "valid_freq": valid_freq,
        "patience": patience,
        "checkpoint_minutes": checkpoint_minutes,
        "seed": seed,
        "strict_memory": strict_memory or None,
        "tensorboard": tensorboard or None,
    }
    if resume is not None:
        from memplan.app.jobs.resume import resume_command

        refused: dict[str, object] = {
            "--auto-fit-gpu": auto_fit_gpu,
            "--plan": plan_file,
            "--run-dir": run_dir,
            "--seed": seed,
        }
        refused["--init-scale"] = init_scale
        resume_command(resume, given, settings, [flag for flag, value in refused.items() if value not in (None, False)])
        return
    run_command(given, settings, auto_fit=auto_fit_gpu, plan_file=plan_file, run_folder=run_dir)


def evaluate(
    run: Annotated[Path, typer.Argument(help=RUN_HELP)],
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    by: Annotated[
        str | None,
        typer.Option(help="relation, time or kind (of time): each one's MRR and Hits too, the most queries first."),
    ] = None,
    rules: Annotated[
        bool | None,
        typer.Option(
            "--rules/--no-rules",
            help="With the graph's rules beside the scores, weighed on valid; else as the run was trained.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of them to show; --json has all.")] = 20,
    data_dir: Annotated[Path | None, typer.Option(help="Where datasets lie; else as when it was trained.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank a split with a run's best checkpoint: MRR and Hits for tails, heads and both, ties every way.

    Beside each MRR is its 95% confidence interval: a bootstrap of the facts ranked, 1,000 times. Of a model with
    embeddings of timestamps: the average precision of each fact's time among all.
    """
    from memplan.app.jobs.evaluate import evaluate_command
    from tkbc.runs.listing import find_run

    run = find_run(run)
    found = evaluate_command(run, split, by, data_dir, rules=rules)
    if as_json:
        print_json(found)
        return
    from memplan.app.views.quality import print_quality

    print_quality(found, top)


def runs(
    folder: Annotated[Path | None, typer.Argument(help="Where to look; runs/ if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """List past and present runs with their plan, memory and MRR, the newest first."""
    from memplan.app.views.tables import runs_listing
    from memplan.app.views.terminal import make_console
    from tkbc.runs.listing import RUNS, list_runs

    if folder is not None and not folder.is_dir():
        raise MemplanError(f"{folder}: no such folder")
    found = list_runs(folder or RUNS)
    if as_json:
        print_json({"runs": [run.as_json() for run in found]})
    else:
        console = make_console()
        console.print(runs_listing(console, found) if found else f"no runs in {folder or RUNS}/")


def monitor(
    run: Annotated[Path, typer.Argument(help=RUN_HELP)],
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing it until it ends.")] = False,
) -> None:
    """Show where a run stands and its memory: allocated, reserved, peak and budget. Works beside the run."""
    from memplan.app.views.terminal import make_console
    from tkbc.runs.listing import find_run, follow_lines

    for lines in follow_lines(find_run(run), forever=follow):
        make_console().print(*lines, sep="\n", soft_wrap=True)
