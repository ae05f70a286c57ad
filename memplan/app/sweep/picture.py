"""The picture of a sweep: valid MRR trial by trial, and over each setting that was searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memplan.app.sweep.space import Dimension, Range, as_typed
from memplan.app.sweep.study import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY_DECADES = 200.0
FINISHED, FELL_BEHIND = "#4477aa", "#ccbb44"
"""From Paul Tol's bright scheme, distinct to colour-blind eyes."""


def draw_trials(space: Sequence[Dimension], trials: Sequence[Trial], path: Path) -> bool:
    """Draw the trials that have a valid MRR to ``path``; return whether it was done, which takes matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    shown = [trial for trial in trials if trial.valid_mrr is not None]
    if not shown:
        return False
    n_panels = 1 + len(space)
    n_columns = min(3, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(4 * n_columns, 3.2 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
    for state, colour, marker in (("finished", FINISHED, "o"), ("pruned", FELL_BEHIND, "x")):
        some = [trial for trial in shown if (trial.state == "finished") == (state == "finished")]
        mrr = [trial.valid_mrr for trial in some]
        label = "finished" if state == "finished" else "given up"
        panels[0].scatter([trial.trial for trial in some], mrr, c=colour, marker=marker, label=label)
        for panel, dimension in zip(panels[1:], space, strict=False):
            values = [trial.params[dimension.name] for trial in some]
            if not isinstance(dimension, Range):
                values = [dimension.values.index(value) for value in values]
            panel.scatter(values, mrr, c=colour, marker=marker)
    for panel, dimension in zip(panels[1:], space, strict=False):
        _set_axis(panel, dimension)
    best, so_far = 0.0, []
    for trial in shown:
        best = max(best, trial.valid_mrr or 0.0)
        so_far.append(best)
    panels[0].step([trial.trial for trial in shown], so_far, where="post", color="#bbbbbb", label="best so far")
    panels[0].set_xlabel("trial")
    panels[0].legend(frameon=False)
    for row in range(n_rows):
        panels[row * n_columns].set_ylabel("valid MRR")
    for panel in panels[n_panels:]:
        panel.set_visible(False)
    figure.savefig(path, dpi=120)
    return True


def _set_axis(panel: Axes, dimension: Dimension) -> None:
    """Name the panel's axis and scale it as the dimension is searched."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panel.set_xlabel(dimension.name)
    if not isinstance(dimension, Range):
        panel.set_xticks(range(len(dimension.values)), [as_typed(value) for value in dimension.values])
        panel.margins(x=0.3)
    elif dimension.is_log:
        panel.set_xscale("log")
        # Few decades: without ticks between them hardly any, with matplotlib's own one over the other.
        subs = (1.0,) if dimension.high / dimension.low >= MANY_DECADES else (1.0, 2.0, 5.0)
        panel.xaxis.set_major_locator(LogLocator(subs=subs))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
