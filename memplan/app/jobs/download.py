"""The command that fetches a dataset: progress on the terminal, the files in the data folder."""

from __future__ import annotations

from pathlib import Path

from memplan.app.views.terminal import make_console
from memplan.catalog.datasets import DEMO, find_dataset
from memplan.catalog.downloads import remote_files
from memplan.errors import UsageError


def download_command(name: str, data_dir: Path | None) -> Path:
    """Fetch the catalog's dataset ``name`` where it is not here yet, showing progress; return its folder.

    Raises:
        UsageError: no such name in the catalog, or one that is not on the web.
        MemplanError: it cannot be fetched or written.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from memplan.catalog.folders import data_folder, find_folder
    from tkbc.data.download import download

    entry = find_dataset(name)
    files = remote_files(entry)
    if not files:
        if entry is DEMO:
            raise UsageError(f"{entry.name} is generated on the spot; nothing is to be downloaded")
        raise UsageError(f"{entry.name} cannot be fetched by this command; it is at {entry.how_to_get}")
    found = find_folder(entry, data_dir)
    if found is not None:
        return found
    folder = data_folder(data_dir) / entry.name
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), TimeRemainingColumn())
    console = make_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        bars = {file.split: shown.add_task(file.split, total=None) for file in files}
        download(entry.name, files, folder, lambda split, done, n: shown.update(bars[split], completed=done, total=n))
    return folder
