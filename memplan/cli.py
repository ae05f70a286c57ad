"""The ``memplan`` command: each command parses, calls one function and prints."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from memplan.catalog import DATASETS, find_recipe
from memplan.devices import resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.gpus import GPUS
from memplan.library import estimate_given, plan_given, settings_for
from memplan.machine import usable_threads
from memplan.options import AsJson, GraphOptions, PlanOptions, SearchOptions, gather, numbers, with_options
from memplan.plan import Plan
from memplan.scorings import available, obstacle
from memplan.workload import TRAITS, DeviceType, Score, build_workload


class _Group(TyperGroup):
    """A user's own mistake is one line on stderr and an exit status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MemplanError as error:
            typer.echo(f"memplan: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise  # the reader went away: typer ends quietly
        except OSError as error:
            typer.echo(f"memplan: cannot write: {error.strerror or error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, to the byte, what training a temporal knowledge-graph embedding allocates; then train with that plan.",
    epilog="Exit status: 0 it fits, 1 an error, 2 bad usage, 3 it does not fit.",
)


def main() -> None:
    """Run the command line."""
    app(prog_name="memplan")


@app.command()
@with_options(GraphOptions)
def estimate(
    given: GraphOptions,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every tensor alive at the peak, and what each knob would save.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw memory over one step: .png, .svg or .pdf.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A run's folder: its plan, and with --plot what it measured, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what exactly this configuration allocates, and whether it fits. Chooses nothing: see plan for that."""
    past = None if run is None else Plan.read(run / "plan.json")
    if past is not None and (given.given_settings() or given.model or given.dataset):
        raise UsageError("--run settles what is estimated; leave the other options out, but for --device and --budget")
    if past is not None and given.device is not None and resolve(given.device, None).device != past.workload.device:
        raise UsageError(
            f"--device {given.device}: the run's plan is for {past.workload.device}; estimate it anew instead"
        )
    result, target = estimate_given(given, explain=explain, workload=None if past is None else past.workload)
    if plot is not None:
        from memplan.curve import read_measured
        from memplan.plot import plot_step

        measured = None if run is None else read_measured(run)
        plot_step(result.workload, plot, budget_bytes=result.budget_bytes, measured=measured)
    if as_json:
        _print_json(result)
    else:
        from memplan.report import estimate_report, make_console

        make_console().print(estimate_report(result, target, explain=explain))
    if not result.fits:
        raise typer.Exit(DoesNotFitError.exit_code)


@app.command()
@with_options(PlanOptions)
def plan(given: PlanOptions, as_json: AsJson = False) -> None:
    """Choose micro-batch, chunk, scoring and evaluation sizes for a device or budget, and say why."""
    target = resolve(given.device, given.budget)
    result = plan_given(given, target)
    if as_json:
        _print_json(result)
    else:
        from memplan.report import make_console, plan_report

        make_console().print(plan_report(result, target))


@app.command()
@with_options(SearchOptions)
def train(
    given: SearchOptions,
    auto_fit_gpu: Annotated[
        bool,
        typer.Option(
            "--auto-fit-gpu", help="Choose sizes that fit the GPU present; without one, this machine's memory."
        ),
    ] = False,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="Train this plan, as plan --json wrote it.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimizer; else the recipe's.")] = None,
    max_epochs: Annotated[int | None, typer.Option(help="Epochs; else the recipe's.")] = None,
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
        str | None, typer.Option(help="Go on with the run in this folder; auto: the newest interrupted one in runs/.")
    ] = None,
    strict_memory: Annotated[
        bool, typer.Option("--strict-memory", help="Stop where measured memory drifts from the plan.")
    ] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On CUDA: slower, and the same bit for bit when resumed.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Metrics for TensorBoard too, in the run's folder.")
    ] = False,
) -> None:
    """Plan, train, check the plan against the allocations that really happen, and evaluate."""
    from memplan.job import run_command

    settings = {
        "learning_rate": learning_rate,
        "max_epochs": max_epochs,
        "valid_freq": valid_freq,
        "patience": patience,
        "checkpoint_minutes": checkpoint_minutes,
        "seed": seed,
        "strict_memory": strict_memory or None,
        "deterministic": deterministic or None,
        "tensorboard": tensorboard or None,
    }
    if resume is not None:
        from memplan.resume import resume_command

        refused = {"--auto-fit-gpu": auto_fit_gpu, "--plan": plan_file, "--run-dir": run_dir, "--seed": seed}
        resume_command(resume, given, settings, [flag for flag, value in refused.items() if value not in (None, False)])
        return
    run_command(given, settings, auto_fit=auto_fit_gpu, plan_file=plan_file, run_folder=run_dir)


@app.command()
@with_options(GraphOptions)
def compare(
    given: GraphOptions,
    ranks: Annotated[str | None, typer.Option(help="Ranks, separated by commas.")] = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Batch sizes, separated by commas.")] = None,
    scorings: Annotated[
        str | None, typer.Option(help="Scorings, separated by commas; materialized,fused if left out.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated rows on stdout, nothing else.")] = False,
) -> None:
    """Tabulate memory and predicted time over rank × batch × scoring, and on which GPUs each fits.

    With no option but --device and --budget: the configurations of the TNTPairRE memory guide, beside what it says.
    """
    from memplan.comparison import compare as run
    from memplan.comparison import compare_with_guide, values_of

    target = resolve(given.device, given.budget)
    for many, one in ((ranks, given.rank), (batch_sizes, given.batch_size)):
        if many is not None and one is not None:
            raise UsageError(f"a list, {many}, and a single value, {one}, exclude each other; leave one out")
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other; leave one out")
    where = {"device", "budget"}
    asked = any(value is not None for name, value in vars(given).items() if name not in where)
    if not asked and ranks is batch_sizes is scorings is None:
        settings = {**find_recipe(None, "TNTPairRE").settings, "threads": usable_threads()}
        rows = list(compare_with_guide(target, settings))
    else:
        ranks = ranks or given.rank
        batch_sizes = batch_sizes or (None if given.batch_size is None else str(given.batch_size))
        scorings = scorings or given.scoring or "materialized,fused"
        job = gather(given)
        rows = run(
            job.graph.shape,
            target,
            numbers("--ranks", ranks or "50,64,100"),
            numbers("--batch-sizes", batch_sizes or "128,256,512,1000"),
            [name.strip() for name in scorings.split(",")],
            settings_for(job, target),
        )
    if as_json:
        _print_json({"budget_bytes": target.budget_bytes, "rows": [values_of(row) for row in rows]})
    elif as_csv:
        table = [values_of(row) for row in rows]
        writer = csv.DictWriter(sys.stdout, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "gpus": ";".join(row["gpus"])} for row in table)
    else:
        from memplan.report import comparison_report, make_console

        make_console().print(comparison_report(rows, target))


@app.command()
def verify(
    count: Annotated[int, typer.Option(min=1, help="Random workloads to run.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed draws the same workloads.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest relative error of a peak.")] = 0.005,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Compare predicted with measured memory on this machine; exit status 1 where an error exceeds the tolerance."""
    from memplan.job import run_verification

    found = run_verification(count, seed, device, show_progress=not as_json)
    if as_json:
        rows = [{"workload": v.workload.model_dump(), "check": v.check.model_dump(exclude_none=True)} for v in found]
        _print_json({"tolerance": tolerance, "rows": rows})
    else:
        from memplan.report import make_console, verification_report

        make_console().print(verification_report([(v.workload, v.check) for v in found]))
    if max(abs(v.check.peak.relative_error) for v in found) > tolerance:
        raise typer.Exit(1)


@app.command()
def calibrate(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure this machine's rates (on CUDA also context and workspace); plans for it use them from then on."""
    from memplan.job import run_calibration

    found, path = run_calibration(device)
    if as_json:
        _print_json(found)
    else:
        from memplan.report import calibration_report, make_console

        make_console().print(calibration_report(found))
        make_console().print(f"kept in {path}", soft_wrap=True)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    split: Annotated[str, typer.Option(help="valid or test.")] = "test",
    data_dir: Annotated[Path | None, typer.Option(help="Where datasets lie; else as when it was trained.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank a split with a run's best checkpoint: MRR and Hits for tails, heads and both, ties every way."""
    from memplan.resume import evaluate_command

    name, found = evaluate_command(run, split, data_dir)
    if as_json:
        _print_json({"run": str(run), "checkpoint": name, "split": split, **found})
        return
    from memplan.report import listing, make_console

    columns = ("", "MRR>", "Hits@1>", "Hits@3>", "Hits@10>")
    rows = [(kind, *(f"{value:.4f}" for value in metrics.values())) for kind, metrics in found.items()]
    make_console().print(f"{split} of {run}, checkpoint {name}", soft_wrap=True)
    make_console().print(listing(columns, rows))


@app.command()
def runs(
    folder: Annotated[Path | None, typer.Argument(help="Where to look; runs/ if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """List past and present runs with their plan, memory and MRR, the newest first."""
    from memplan.report import listing, make_console, runs_listing
    from memplan.runs import RUNS, list_runs

    found = list_runs(folder or RUNS)
    if as_json:
        _print_json({"runs": [run.as_json() for run in found]})
    else:
        make_console().print(listing(*runs_listing(found)) if found else f"no runs in {folder or RUNS}/")


@app.command()
def monitor(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing it until it ends.")] = False,
) -> None:
    """Show where a run stands and its memory: allocated, reserved, peak and budget. Works beside the run."""
    from memplan.report import make_console
    from memplan.runs import follow_lines

    for lines in follow_lines(run, forever=follow):
        make_console().print(*lines, sep="\n", soft_wrap=True)


datasets_app = typer.Typer(invoke_without_command=True)
app.add_typer(datasets_app, name="datasets")


@datasets_app.callback()
def datasets(
    context: typer.Context,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where to look; else $TKBC_DATA or your data directory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the catalog's datasets, their shapes, and where they are on this machine."""
    if context.invoked_subcommand is not None:
        return
    from memplan.report import listing, make_console
    from tkbc.data import data_folder, find_folder

    places = {name: find_folder(entry, data_dir) for name, entry in DATASETS.items()}
    if as_json:
        rows = [
            {"name": name, **entry.shape.model_dump(), "n_valid": entry.n_valid, "n_test": entry.n_test}
            | {"source": entry.source, "folder": None if places[name] is None else str(places[name])}
            for name, entry in DATASETS.items()
        ]
        _print_json({"data_dir": str(data_folder(data_dir)), "datasets": rows})
        return
    columns = ("dataset", "entities>", "relations>", "timestamps>", "train>", "valid>", "test>", "where")
    make_console().print(
        listing(
            columns,
            (
                (
                    name,
                    *(f"{n:,}" for n in entry.shape.model_dump(exclude={"intervals"}).values()),
                    *("?" if n is None else f"{n:,}" for n in (entry.n_valid, entry.n_test)),
                    str(places[name] or ("generated" if name == "demo" else "not here")),
                )
                for name, entry in DATASETS.items()
            ),
        )
    )
    make_console().print(f"looked in {data_folder(data_dir)}", soft_wrap=True)
    for name, entry in DATASETS.items():
        if entry.how_to_get and places[name] is None:
            make_console().print(f"{name} is at {entry.how_to_get}", soft_wrap=True)


@datasets_app.command()
def download(
    name: Annotated[str, typer.Argument(help="A catalog name.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Where to put it; else $TKBC_DATA or your data directory.")
    ] = None,
) -> None:
    """Fetch a dataset's files; a download that was cut short goes on where it stopped."""
    from memplan.fetch import download_command

    typer.echo(f"{name} is in {download_command(name, data_dir)}")


@app.command()
def devices(as_json: AsJson = False) -> None:
    """List what is here to train on, and the GPUs that can be planned for by name."""
    from memplan.machine import free_ram_bytes, present_gpus
    from memplan.report import listing, make_console
    from memplan.units import format_bytes

    free, limit = free_ram_bytes()
    here = present_gpus()
    if as_json:
        _print_json(
            {
                "cpu": {"free_bytes": free, "limit": limit, "threads": usable_threads()},
                "gpus": [gpu._asdict() for gpu in here],
                "catalog": [
                    {"name": gpu.name, "memory_bytes": gpu.memory_bytes, "source": gpu.source} for gpu in GPUS.values()
                ],
            }
        )
        return
    console = make_console()
    console.print(f"cpu   {usable_threads()} threads, {format_bytes(free)} free ({limit})")
    for gpu in here:
        console.print(f"cuda  {gpu.name}, {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}")
        for process, used in gpu.processes:
            console.print(f"      process {process} holds {format_bytes(used) if used else 'some of it'}")
    if not here:
        console.print("cuda  no NVIDIA GPU or driver found")
    console.print()
    columns = ("plan for", "memory>", "TFLOP/s fp32>", "GB/s>", "source")
    rows = (
        (
            gpu.name,
            format_bytes(gpu.memory_bytes),
            f"{gpu.flops_per_second / 1e12:.1f}",
            f"{gpu.bytes_per_second / 1e9:,.0f}",
            gpu.source,
        )
        for gpu in GPUS.values()
    )
    console.print(listing(columns, rows))


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models, their scores and where each scoring runs."""
    from memplan.programs.step import program_of
    from memplan.report import listing, make_console

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "scores": list(traits.scores),
            "row_floats": "2d" if traits.is_complex else "d",
            "tables": list(program_of(_toy(name)).tables(_toy(name))),
            "scorings": {
                device: {score: available(score, device) for score in traits.scores} for device in get_args(DeviceType)
            },
        }
        for name, traits in TRAITS.items()
    ]
    if as_json:
        _print_json({"models": rows})
        return
    columns = ("model", "scores", "row", "tables")
    make_console().print(
        listing(
            columns,
            ((row["name"], ", ".join(row["scores"]), row["row_floats"], ", ".join(row["tables"])) for row in rows),
        )
    )
    for device in get_args(DeviceType):
        missing = {why for score in get_args(Score) if (why := obstacle(score, "fused", device)) is not None}
        make_console().print(f"{device}: materialized, chunked and fused" + "".join(f"; {why}" for why in missing))


def _toy(model: str) -> Any:
    from memplan.catalog import DEMO

    return build_workload(DEMO.shape, model=model)


def _print_json(value: BaseModel | dict[str, Any]) -> None:
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
