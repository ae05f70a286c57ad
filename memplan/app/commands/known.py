"""The commands that list what is known: datasets (and their download), models and recipes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from memplan.app.commands import print_json
from memplan.app.options import AsJson
from memplan.catalog.datasets import DATASETS, DEMO
from memplan.workload import TRAITS, DeviceType, Score, build_workload
from memplan.workload.models import recipes_of
from memplan.workload.rules import available, obstacle

datasets_app = typer.Typer(invoke_without_command=True)


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
    from memplan.app.views.terminal import listing, make_console
    from memplan.catalog.folders import data_folder, find_folder

    places = {name: find_folder(entry, data_dir) for name, entry in DATASETS.items()}
    if as_json:
        rows = [
            {"name": name, **entry.shape.model_dump(), "n_valid": entry.n_valid, "n_test": entry.n_test}
            | {"source": entry.source, "folder": None if places[name] is None else str(places[name])}
            for name, entry in DATASETS.items()
        ]
        print_json({"data_dir": str(data_folder(data_dir)), "datasets": rows})
        return
    columns = ("dataset", "entities>", "relations>", "timestamps>", "train>", "valid>", "test>", "where")
    cells = (
        (
            name,
            *(f"{n:,}" for n in entry.shape.model_dump(exclude={"intervals"}).values()),
            *("–" if n is None else f"{n:,}" for n in (entry.n_valid, entry.n_test)),
            str(places[name] or ("generated" if name == "demo" else "not here")),
        )
        for name, entry in DATASETS.items()
    )
    make_console().print(listing(columns, cells))
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
    from memplan.app.jobs.download import download_command

    typer.echo(f"{name} is in {download_command(name, data_dir)}")


def models(as_json: AsJson = False) -> None:
    """List the models, their scores and where each scoring runs."""
    from memplan.app.views.terminal import listing, make_console
    from memplan.prediction.rehearsal import tables

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "scores": list(traits.scores),
            "row_floats": "2d" if traits.is_complex else "d",
            "tables": list(tables(build_workload(DEMO.shape, model=name))),
            "scorings": {
                device: {score: available(score, device) for score in traits.scores} for device in get_args(DeviceType)
            },
        }
        for name, traits in TRAITS.items()
    ]
    if as_json:
        print_json({"models": rows})
        return
    columns = ("model", "scores", "row", "tables")
    cells = ((row["name"], ", ".join(row["scores"]), row["row_floats"], ", ".join(row["tables"])) for row in rows)
    make_console().print(listing(columns, cells))
    for device in get_args(DeviceType):
        missing = {why for score in get_args(Score) if (why := obstacle(score, "fused", device)) is not None}
        make_console().print(f"{device}: materialized, chunked and fused" + "".join(f"; {why}" for why in missing))


def recipes(as_json: AsJson = False) -> None:
    """List the recipes: settings for a model on a dataset, where they are from and what they were measured to reach."""
    from memplan.app.views.terminal import listing, make_console

    rows = [
        {"recipe": recipe.name, "model": model, "dataset": recipe.dataset, **recipe.settings}
        | recipe.training
        | {"source": recipe.source, "test_mrr": recipe.test_mrr}
        | {"variants": [dataclasses.asdict(variant) for variant in recipe.variants]}
        for model in TRAITS
        for recipe in recipes_of(model)
    ]
    if as_json:
        print_json({"recipes": rows})
        return
    columns = ("recipe", "model", "dataset", "rank>", "epochs>", "test MRR>", "source")
    cells = (
        (
            recipe.name,
            model,
            recipe.dataset or "any",
            str(recipe.settings["rank"]),
            str(recipe.max_epochs),
            "–" if recipe.test_mrr is None else f"{recipe.test_mrr:.3f}",
            recipe.source,
        )
        for model in TRAITS
        for recipe in recipes_of(model)
    )
    make_console().print(listing(columns, cells))
    make_console().print(
        "The first that names your dataset, else the first for any, is the default; --recipe takes another. Test MRR, "
        "seed 0, of those for any is ICEWS14's; – not measured. --json has batch, rate, regularizers and the like too.",
        soft_wrap=True,
    )
