"""The commands that need no data and train nothing: estimate, plan, compare."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Annotated

import typer

from memplan.app.api import counts_given, estimate_given, plan_with_choices, settings_for, target_given
from memplan.app.commands import print_json, tell_what_is_not_modelled
from memplan.app.options import AsJson, numbers, with_options
from memplan.app.request import GraphRequest, PlanRequest, gather
from memplan.catalog.recipes import find_recipe
from memplan.device.asked import is_auto
from memplan.device.present import usable_threads
from memplan.device.target import resolve
from memplan.errors import DoesNotFitError, UsageError
from memplan.plan import Plan


@with_options(GraphRequest)
def estimate(
    given: GraphRequest,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every tensor alive at the peak, and what each knob would save.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw memory over one step: .png, .svg or .pdf.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="A run, by folder, name or latest: its plan, and with --plot what it measured, too."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what exactly this configuration allocates, and whether it fits. Chooses nothing: see plan for that."""
    if run is not None:
        from tkbc.runs.listing import find_run

        run = find_run(run)
    past = None if run is None else Plan.read(run / "plan.json")
    extra = given.given_flags("device", "budget")
    if past is not None and extra:
        raise UsageError(f"--run settles what is estimated; leave out {', '.join(extra)}")
    if past is not None and given.device is not None and resolve(given.device, None).device != past.workload.device:
        raise UsageError(
            f"--device {given.device}: the run's plan is for {past.workload.device}; estimate it anew instead"
        )
    result, target = estimate_given(given, explain=explain, workload=None if past is None else past.workload)
    if past is None:
        tell_what_is_not_modelled(given, target)
    if plot is not None:
        from memplan.app.views.plot import plot_step
        from memplan.memory.curve import read_measured

        measured = None if run is None else read_measured(run)
        plot_step(result, plot, measured=measured)
    if as_json:
        print_json(result)
    else:
        from memplan.app.views.terminal import estimate_report, make_console

        make_console().print(estimate_report(result, target, explain=explain))
    if not result.fits:
        raise typer.Exit(DoesNotFitError.exit_code)


@with_options(PlanRequest)
def plan(given: PlanRequest, as_json: AsJson = False) -> None:
    """Choose micro-batch, chunk, scoring and evaluation sizes for a device or budget, and say why."""
    target = target_given(given)
    tell_what_is_not_modelled(given, target)
    try:
        result = plan_with_choices(given, target)
        if is_auto(given.devices) and result.mesh is not None:
            mesh = result.mesh.model_copy(update={"counts": counts_given(given, target)})
            result = result.model_copy(update={"mesh": mesh})
    except DoesNotFitError as error:
        if as_json:
            print_json({"fits": False, "budget_bytes": target.budget_bytes, "reason": str(error)})
        raise
    if as_json:
        print_json(result)
    else:
        from memplan.app.views.choices import choices_report
        from memplan.app.views.next_steps import after_plan
        from memplan.app.views.terminal import make_console, plan_report, printable

        console = make_console()
        if result.choices is not None:
            console.print(choices_report(result.choices, result))
            console.print()
        console.print(plan_report(result, target))
        console.print(printable(after_plan(given, result.workload.n_processes)), soft_wrap=True)


@with_options(GraphRequest)
def compare(
    given: GraphRequest,
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
    if given.devices is not None or given.shards is not None:
        raise UsageError("compare tabulates what one device takes; leave out --devices and --shards, or use plan")
    from memplan.search.compare import compare as run
    from memplan.search.compare import compare_with_guide, values_of

    target = resolve(given.device, given.budget)
    for many, one in ((ranks, given.rank), (batch_sizes, given.batch_size), (scorings, given.scoring)):
        if many is not None and one is not None:
            raise UsageError(f"a list, {many}, and a single value, {one}, exclude each other; leave one out")
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other; leave one out")
    if given.eval_batch_size is not None or given.eval_chunk_size is not None:
        raise UsageError("compare tabulates training memory; leave out --eval-batch-size and --eval-chunk-size")
    if not given.given_flags("device", "budget") and ranks is batch_sizes is scorings is None:
        settings = {**find_recipe("ICEWS14", "TNTPairRE", "guide").settings, "threads": usable_threads()}
        rows = list(compare_with_guide(target, settings))
    else:
        ranks = ranks or given.rank
        batch_sizes = batch_sizes or given.batch_size
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
        print_json({"budget_bytes": target.budget_bytes, "rows": [values_of(row) for row in rows]})
    elif as_csv:
        table = [values_of(row) for row in rows]
        writer = csv.DictWriter(sys.stdout, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "gpus": ";".join(row["gpus"])} for row in table)
    else:
        from memplan.app.views.tables import comparison_report
        from memplan.app.views.terminal import make_console

        console = make_console()
        console.print(comparison_report(console, rows, target))
