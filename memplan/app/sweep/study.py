"""The search for a recipe behind ``memplan sweep``: Optuna proposes, memplan plans, tkbc trains; test is not looked at.

A sweep's folder holds ``sweep.json`` (what is searched), ``trials.jsonl`` (a line for each trial that ended: its data)
and ``trials/0007/`` (each trial's run). Nothing else is kept: Optuna's study is built anew from the trials that ended,
and what it proposes next depends on those and the sweep's seed alone. So a sweep that was stopped, or killed, goes on
with the same trials that it would have had; the one under way goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from memplan.app.request import JobRequest, SearchRequest
from memplan.app.sweep.space import COUNTS, Dimension, Range, Value, combinations, flags
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.files import read_lines
from memplan.workload import validated

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

SWEEPS = Path("sweeps")
TRIALS_FILE = "trials.jsonl"
STARTUP_TRIALS = 5
"""Trials that end before any is given up for falling behind the median of the others at the same epoch."""

HOPELESS_TRIALS = 20
"""Trials that do not fit, and none that does, after which a sweep is given up."""
ATTEMPTS = 50
"""Proposals of settings that were tried already, after which one that was not is drawn by lot."""
FEW = 100_000
"""Combinations that a space may have for those that are left to be listed."""

TrialState = Literal["finished", "pruned", "does not fit", "failed"]


class Sweep(BaseModel, frozen=True, extra="forbid"):
    """What is searched; sweep.json."""

    given: dict[str, Any]
    """The options that hold for every trial, as ``memplan train`` takes them."""
    settings: dict[str, Any]
    """The training settings that hold for every trial."""
    space: tuple[Dimension, ...]
    ranks: dict[str, int] = Field(default={})
    """The rank of each model that is searched over, where none is given: as many parameters as the first one has."""
    seed: int = 0
    """Of the proposals; every trial trains with the seed in ``settings``."""
    max_trials: int | None = None
    """Trials in all; None: no limit."""
    minutes: float | None = None
    """Of a sitting; None: no limit."""

    @property
    def options(self) -> SearchRequest:
        """Return the options that hold for every trial."""
        data_dir = self.given.get("data_dir")
        return SearchRequest(**{**self.given, "data_dir": None if data_dir is None else Path(data_dir)})

    def command(self, params: dict[str, Value]) -> str:
        """Return the command that trains with ``params``, in full: its sizes are chosen as the trial's were."""
        return f"memplan train --auto-fit-gpu {flags({**self.given, **self.settings, **self.whole(params)})}"

    def whole(self, params: dict[str, Value]) -> dict[str, Value]:
        """Return a trial's values with the rank that its model has in this sweep."""
        rank = self.ranks.get(str(params.get("model")))
        return params if rank is None else {**params, "rank": rank}


class Trial(BaseModel, frozen=True, extra="forbid"):
    """A trial that ended; a line of trials.jsonl."""

    trial: int
    params: dict[str, bool | int | float | str]
    state: TrialState
    valid_mrr: float | None = None
    """The best of its validations."""
    curve: tuple[tuple[int, float], ...] = Field(default=())
    """Epoch and valid MRR of each validation."""
    planned_bytes: int | None = None
    measured_bytes: int | None = None
    seconds: float = 0.0
    """Of training, all sittings together, validations not counted."""
    why: str = ""
    """What stood in the way, where it neither finished nor fell behind."""


def new_sweep(
    given: SearchRequest,
    settings: dict[str, Any],
    space: list[Dimension],
    *,
    seed: int = 0,
    max_trials: int | None = None,
    minutes: float | None = None,
) -> Sweep:
    """Return a sweep with what the user gave held fast.

    Raises:
        UsageError: a setting is both searched and given.
    """
    held = {name: str(value) if isinstance(value, Path) else value for name, value in given.given_values().items()}
    kept = {name: value for name, value in settings.items() if value is not None}
    both = [dimension.name for dimension in space if dimension.name in held or dimension.name in kept]
    if both:
        raise UsageError(f"{both[0]} is both given and searched over; leave one out")
    limits = {"max_trials": max_trials, "minutes": minutes}
    return Sweep(given=held, settings=kept, space=tuple(space), seed=seed, **limits)


def keep_sweep(folder: Path, sweep: Sweep) -> None:
    """Make a sweep's folder.

    Raises:
        MemplanError: there is something of that name, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text(sweep.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except FileExistsError:
        raise MemplanError(f"{folder}: there is a sweep already; --resume {folder} goes on with it") from None
    except OSError as error:
        raise MemplanError(f"{folder}: cannot be made: {error.strerror}; choose another with --sweep-dir") from None


def read_sweep(folder: Path) -> Sweep:
    """Return what the sweep in ``folder`` searches.

    Raises:
        MemplanError: there is none.
    """
    try:
        values = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise MemplanError(f"{folder}: no sweep; it has no sweep.json that can be read") from None
    return validated(Sweep, values)


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials that ended, in order; half a line at the end is left out."""
    return [validated(Trial, line) for line in read_lines(folder / TRIALS_FILE)]


class Watcher:
    """Decides when the trial under way ends early. Told of its validations by whoever trains it."""

    def __init__(self, trial: optuna.trial.Trial, must_stop: Callable[[], bool]) -> None:
        self._trial, self._must_stop = trial, must_stop
        self.curve: list[tuple[int, float]] = []
        self.is_pruned = False

    def validated(self, epoch: int, mrr: float) -> None:
        """Take note of a validation."""
        self.curve.append((epoch, mrr))
        self._trial.report(mrr, epoch)
        self.is_pruned = self._trial.should_prune()

    def should_stop(self) -> bool:
        """Return whether the run is to end here."""
        return self.is_pruned or self._must_stop()


Train = Callable[[SearchRequest, dict[str, Any], Path, Watcher], Trial | None]
"""Trains a trial with these options and settings in this folder; None where it was stopped before its end."""


def search(
    folder: Path,
    sweep: Sweep,
    train: Train,
    *,
    max_trials: int | None,
    must_stop: Callable[[], bool],
    on_end: Callable[[Trial], None],
) -> bool:
    """Run trials until there are ``max_trials``, until ``must_stop``, or until there is nothing new to try.

    Returns whether there may be more to try.

    Raises:
        DoesNotFitError: no trial fits the budget, nor seems likely to.
        MemplanError: Optuna is not installed.
    """
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {dimension.name: _distribution(dimension) for dimension in sweep.space}
    while not must_stop():
        ended = read_trials(folder)
        number = len(ended)
        if max_trials is not None and number >= max_trials:
            break
        if number >= HOPELESS_TRIALS and all(trial.state == "does not fit" for trial in ended):
            raise DoesNotFitError(f"none of {number} trials fits: {ended[-1].why}")
        found_new = _propose(sweep, ended, distributions)
        if found_new is None:
            return False
        proposed, params = found_new
        options, settings = split_params(sweep.whole(params))
        given = dataclasses.replace(sweep.options, **options)
        trial_folder = folder / "trials" / f"{number:04}"
        watcher = Watcher(proposed, must_stop)
        found = train(given, {**sweep.settings, **settings}, trial_folder, watcher)
        if found is None:
            break
        found = found.model_copy(update={"trial": number, "params": params})
        _keep(folder, [*ended, found])
        shutil.rmtree(trial_folder / "checkpoint", ignore_errors=True)
        on_end(found)
    return True


def split_params(params: dict[str, Value]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which of a trial's values are options of the run, and which are training settings."""
    names = {field.name for field in dataclasses.fields(JobRequest)}
    options = {name: str(value) if name in COUNTS else value for name, value in params.items() if name in names}
    return options, {name: value for name, value in params.items() if name not in names}


def _propose(
    sweep: Sweep, ended: list[Trial], distributions: dict[str, BaseDistribution]
) -> tuple[optuna.trial.Trial, dict[str, Value]] | None:
    """Return the next trial and its values, which none that ended had; None where all that there are were tried."""
    tried = {_key(trial.params) for trial in ended}
    for attempt in range(ATTEMPTS):
        proposed = _study(sweep, ended, distributions, attempt).ask(distributions)
        params = {dimension.name: _rounded(proposed.params[dimension.name], dimension) for dimension in sweep.space}
        if _key(params) not in tried:
            return proposed, params
    # What is thought best was tried: any other will do.
    left = [params for params in combinations(sweep.space, FEW) if _key(params) not in tried]
    if not left:
        return None
    params = left[_seed(sweep.seed, len(ended)) % len(left)]
    study = _study(sweep, ended, distributions, ATTEMPTS)
    study.enqueue_trial(params)
    return study.ask(distributions), params


def _study(sweep: Sweep, ended: list[Trial], distributions: dict[str, BaseDistribution], attempt: int) -> Any:
    """Return Optuna's study of the trials that ended."""
    optuna = require_optuna()
    sampler = optuna.samplers.TPESampler(seed=_seed(sweep.seed, len(ended), attempt))
    # Models learn at paces of their own: the median of others at the same epoch says nothing of one.
    is_over_models = "model" in distributions
    pruner = optuna.pruners.NopPruner() if is_over_models else optuna.pruners.MedianPruner(STARTUP_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.add_trials([_frozen(trial, distributions) for trial in ended])
    return study


def _key(params: dict[str, Value]) -> tuple[tuple[str, Value], ...]:
    return tuple(sorted(params.items()))


def _keep(folder: Path, trials: list[Trial]) -> None:
    # Whole and renamed: a line appended behind half a line, left by a kill, would be lost with it.
    new = folder / f"{TRIALS_FILE}.new"
    new.write_text("".join(trial.model_dump_json() + "\n" for trial in trials), encoding="utf-8")
    new.replace(folder / TRIALS_FILE)


def best_of(trials: list[Trial]) -> Trial | None:
    """Return the trial with the highest valid MRR; None where none has any."""
    return next((trial for trial in best_first(trials) if trial.valid_mrr is not None), None)


def best_first(trials: list[Trial]) -> list[Trial]:
    """Return the trials by their valid MRR, those without one last."""
    return sorted(trials, key=lambda trial: (trial.valid_mrr is None, -(trial.valid_mrr or 0.0), trial.trial))


def require_optuna() -> Any:
    """Return Optuna.

    Raises:
        MemplanError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MemplanError("memplan sweep needs Optuna: pip install 'memplan-tkbc[sweep]'") from None
    return optuna


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension.values)
    if dimension.is_whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)


def _frozen(trial: Trial, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    # One that could not be trained counts as one that fell behind at once: proposals keep away from there.
    is_finished = trial.state == "finished"
    return create_trial(
        params=trial.params,
        distributions=distributions,
        value=trial.valid_mrr if is_finished else None,
        intermediate_values=dict(trial.curve),
        state=TrialState.COMPLETE if is_finished else TrialState.PRUNED,
    )


def _seed(*numbers: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _rounded(value: Value, dimension: Dimension) -> Value:
    """Return a value with three digits, so that the command that repeats a trial can be read, and typed."""
    if not isinstance(value, float) or not isinstance(dimension, Range):
        return value
    rounded = float(f"{value:.3g}")
    return rounded if dimension.low <= rounded <= dimension.high else value


def deadline(minutes: float | None) -> Callable[[], bool]:
    """Return what says whether ``minutes`` from now have passed; never where that is None."""
    if minutes is None:
        return lambda: False
    end = time.monotonic() + 60 * minutes
    return lambda: time.monotonic() >= end
