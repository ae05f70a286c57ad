"""What ``memplan evaluate`` does: rank a split with what a run has learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.app.views.terminal import make_console
from tkbc.use.quality import Quality, evaluate_run

if TYPE_CHECKING:
    from tkbc.ranking.confidence import Interval


def evaluate_command(
    run: Path, split: str, by: str | None, data_dir: Path | None, *, rules: bool | None
) -> dict[str, Any]:
    """Return the metrics of ``split`` with the run's best checkpoint, as ``memplan evaluate --json`` prints them.

    Raises:
        UsageError: no such split, or nothing to group ``by``.
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    return _as_json(evaluate_run(run, split, by, data_dir, tell_on_stderr, rules=rules))


def _as_json(quality: Quality) -> dict[str, Any]:
    from tkbc.ranking.confidence import LEVEL, RESAMPLES, SEED
    from tkbc.ranking.evaluation import as_dict

    times = quality.times
    found: dict[str, Any] = {
        "run": str(quality.run),
        "checkpoint": quality.checkpoint,
        "split": quality.split,
        "n_queries": quality.n_queries,
        "rules": None if quality.rules is None else quality.rules.model_dump(),
        **as_dict(quality.metrics),
        "mrr_intervals": {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": SEED,
            **{name: _ends(interval) for name, interval in quality.intervals.items()},
        },
        "times": None if times is None else {**times._asdict(), "interval": _ends(times.interval)},
    }
    if quality.by is not None:
        found["by"] = quality.by
        found["groups"] = [
            {
                quality.by: group.name,
                "n_queries": 2 * group.n_facts,
                **group.metrics._asdict(),
                "mrr_interval": _ends(group.interval),
                "average_precision_of_times": group.average_precision_of_times,
            }
            for group in quality.groups
        ]
    return found


def _ends(interval: Interval) -> list[float] | None:
    """Return both ends, or None where a single fact has none: JSON knows no NaN."""
    return None if math.isnan(interval.low) else list(interval)


def tell_on_stderr(notice: str) -> None:
    """Print a notice beside the command's output."""
    console = make_console()
    console.stderr = True
    console.print(notice, soft_wrap=True)
