"""What ``memplan evaluate`` does: rank a split with what a run has learned."""

from __future__ import annotations

from pathlib import Path

from memplan.app.views.terminal import make_console
from tkbc.use.opening import rank_run


def evaluate_command(run: Path, split: str, data_dir: Path | None) -> tuple[str, dict[str, dict[str, float]]]:
    """Return the name of the run's best checkpoint and the metrics of ``split`` with it.

    Raises:
        UsageError: no such split.
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    name, found = rank_run(run, split, data_dir, tell_on_stderr)
    from tkbc.ranking.evaluation import as_dict

    return name, as_dict(found)


def tell_on_stderr(notice: str) -> None:
    """Print a notice beside the command's output."""
    console = make_console()
    console.stderr = True
    console.print(notice, soft_wrap=True)
