"""What ``memplan evaluate`` does: rank a split with what a run has learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from memplan.app.views.terminal import make_console
from memplan.errors import UsageError
from tkbc.use.opening import Held, Ranked, rank_run

if TYPE_CHECKING:
    from tkbc.ranking.confidence import Interval

By = Literal["relation", "time"]


def evaluate_command(run: Path, split: str, by: str | None, data_dir: Path | None) -> dict[str, Any]:
    """Return the metrics of ``split`` with the run's best checkpoint, as ``memplan evaluate --json`` prints them.

    Raises:
        UsageError: no such split, or nothing to group ``by``.
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    if by is not None and by not in get_args(By):
        raise UsageError(f"--by {by!r}: relation or time")
    ranked = rank_run(run, split, data_dir, tell_on_stderr)
    from tkbc.ranking.confidence import LEVEL, RESAMPLES, SEED, intervals
    from tkbc.ranking.evaluation import as_dict

    found = {
        "run": str(run),
        "checkpoint": ranked.checkpoint,
        "split": split,
        "n_queries": len(ranked.ranks.higher),
        **as_dict(ranked.ranks.evaluation()),
        "mrr_intervals": {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "seed": SEED,
            **{name: _ends(interval) for name, interval in intervals(ranked.ranks).items()},
        },
    }
    if by is not None:
        found |= {"by": by, "groups": _groups(ranked, cast(Held, split), cast(By, by))}
    return found


def _groups(ranked: Ranked, split: Held, by: By) -> list[dict[str, Any]]:
    """Return the metrics of the split's facts by their relation or their time, the largest group first."""
    from tkbc.ranking.confidence import intervals_by_group
    from tkbc.ranking.groups import by_group

    data = ranked.data
    column, names = (1, data.relations) if by == "relation" else (3, data.timestamps)
    group = data.queries(split)[:, column]
    interval = dict(zip(names, intervals_by_group(ranked.ranks, group, len(names)), strict=True))
    return [
        {by: name, "n_queries": 2 * n_facts, **metrics._asdict(), "mrr_interval": _ends(interval[name])}
        for name, n_facts, metrics in by_group(ranked.ranks, group, names)
    ]


def _ends(interval: Interval) -> list[float] | None:
    """Return both ends, or None where a single fact has none: JSON knows no NaN."""
    return None if math.isnan(interval.low) else list(interval)


def tell_on_stderr(notice: str) -> None:
    """Print a notice beside the command's output."""
    console = make_console()
    console.stderr = True
    console.print(notice, soft_wrap=True)
