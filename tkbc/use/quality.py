"""How well a run's best checkpoint ranks a split, how sure that is, at what, and how well it tells when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from memplan.device.target import resolve
from memplan.errors import UsageError
from tkbc.runs.readiness import check_device, prepare_torch
from tkbc.use.opening import Tell, check_bytes, open_checkpoint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tkbc.data import Dataset
    from tkbc.ranking.confidence import Interval
    from tkbc.ranking.evaluation import Evaluation, Metrics, Ranks
    from tkbc.ranking.weights import RuleWeights

Held = Literal["valid", "test"]
By = Literal["relation", "time", "kind"]


class TimePrediction(NamedTuple):
    """How well the times at which facts hold are found among all timestamps, by the facts' scores at each."""

    average_precision: float
    """The mean over facts of Σ (R_n − R_{n−1}) P_n; a fact at one time counts 1 / rank, ties against it."""
    interval: Interval
    """Of that mean, as those of the MRR."""
    n_facts: int
    """The facts that have a time."""
    n_timestamps: int
    """The candidates."""


class GroupQuality(NamedTuple):
    """The facts of one relation, one time, or one kind of time."""

    name: str
    n_facts: int
    metrics: Metrics
    interval: Interval
    """Of the MRR, from the group's own facts; NaN for a single one."""
    average_precision_of_times: float | None
    """None where ``Quality.times`` is, or no fact of the group has a time."""


@dataclass(frozen=True)
class Quality:
    """How well a run's best checkpoint ranks a split: what ``memplan evaluate`` shows."""

    run: Path
    checkpoint: str
    split: Held
    n_queries: int
    """Two of each fact: its tail and its head."""
    rules: RuleWeights | None
    """The weights of the rules beside the scores, where it was ranked with rules."""
    metrics: Evaluation
    """Filtered MRR and Hits of tails, heads and both, and with ties either way."""
    intervals: dict[str, Interval]
    """Of each MRR of ``metrics``, by the same names: the 95% bootstrap interval, the same each time."""
    times: TimePrediction | None
    """None where the model has no query for a time (docs/using.md), or no fact of the split has one."""
    by: By | None
    groups: tuple[GroupQuality, ...]
    """The split's facts by what was asked for, the largest group first."""

    @property
    def both(self) -> Metrics:
        """The mean of tail and head prediction."""
        return self.metrics.both


def evaluate_run(
    run: Path, split: str, by: str | None, data_dir: Path | None, tell: Tell, *, rules: bool | None = None
) -> Quality:
    """Rank ``split`` with the run's best checkpoint, and its groups ``by`` relation, time or kind of time.

    ``rules``: with the graph's rules beside the scores, weighed as the run has it, or as is fitted now where it has
    none; left out: where the run has them.

    Raises:
        UsageError: no such split, or nothing to group ``by``.
        DoesNotFitError: memory runs out.
        MemplanError: the run, its checkpoints or its data cannot be used.
    """
    if split not in get_args(Held):
        raise UsageError(f"--split: {split!r} is neither valid nor test")
    if by is not None and by not in get_args(By):
        raise UsageError(f"--by {by!r}: relation, time or kind")
    held, grouped_by = cast(Held, split), cast(By | None, by)
    name, state, data = open_checkpoint(run, data_dir, tell)
    check_bytes(state.plan, run)
    target = resolve(state.plan.workload.device, None)
    prepare_torch(state.plan)
    check_device(state.plan, target)
    from tkbc.ranking.confidence import intervals
    from tkbc.ranking.weights import read_weights
    from tkbc.use.evaluate import rank_with

    weights = read_weights(run)
    chosen: RuleWeights | Literal["fit"] | None = weights
    if rules is not None:
        chosen = (weights or "fit") if rules else None
    ranks, precisions, weights = rank_with(run / "checkpoint" / name, state.plan, data, held, chosen)
    return Quality(
        run=run,
        checkpoint=name,
        split=held,
        n_queries=len(ranks.higher),
        rules=weights,
        metrics=ranks.evaluation(),
        intervals=intervals(ranks),
        times=None if precisions is None else _times(precisions, data),
        by=grouped_by,
        groups=() if grouped_by is None else _groups(ranks, precisions, data, held, grouped_by),
    )


def _groups(
    ranks: Ranks, precisions: npt.NDArray[np.float64] | None, data: Dataset, split: Held, by: By
) -> tuple[GroupQuality, ...]:
    from tkbc.ranking.confidence import intervals_by_group
    from tkbc.ranking.groups import by_group, grouping, means_by_group

    group, names = grouping(data, split, by)
    n = len(names)
    interval = dict(zip(names, intervals_by_group(ranks, group, n), strict=True))
    means = [math.nan] * n if precisions is None else means_by_group(precisions, group, n).tolist()
    precision = {name: None if math.isnan(mean) else mean for name, mean in zip(names, means, strict=True)}
    return tuple(
        GroupQuality(*found, interval[found.name], precision[found.name]) for found in by_group(ranks, group, names)
    )


def _times(precisions: npt.NDArray[np.float64], data: Dataset) -> TimePrediction | None:
    from tkbc.ranking.confidence import interval_of

    dated = precisions[precisions == precisions]  # NaN is what has no time
    if len(dated) == 0:
        return None
    n_timestamps = len(data.timestamps) - data.has_no_time
    return TimePrediction(float(dated.mean()), interval_of(dated), len(dated), n_timestamps)
