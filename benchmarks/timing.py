"""Timing that means something on a noisy machine: contestants take turns, and medians are compared within one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Times(NamedTuple):
    """Seconds of one contestant."""

    first: float
    """The first call: compilation, where there is any, and one run."""
    median: float
    lower_quartile: float
    upper_quartile: float
    repeats: int

    def as_row(self) -> dict[str, Any]:
        """Return the figures as they go into a JSON row."""
        return {
            "first_call_seconds": self.first,
            "median_seconds": self.median,
            "quartiles_seconds": [self.lower_quartile, self.upper_quartile],
            "repeats": self.repeats,
        }


def take_turns(contestants: dict[str, Callable[[], object]], repeats: int, seconds_each: float) -> dict[str, Times]:
    """Return each contestant's times over up to ``repeats`` rounds; slow ones drop out after ``seconds_each``."""
    first = {name: _once(work) for name, work in contestants.items()}
    for name, work in contestants.items():
        if first[name] < seconds_each:
            _once(work)  # caches, clock rates
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, work in contestants.items():
            if len(taken[name]) < 1 or sum(taken[name]) < seconds_each:
                taken[name].append(_once(work))
    return {name: _summary(first[name], times) for name, times in taken.items()}


def _once(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _summary(first: float, times: list[float]) -> Times:
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return Times(first, middle, low, high, len(times))
