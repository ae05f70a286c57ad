"""Seconds of kinds of work from measured steps: found again where they are known."""

from __future__ import annotations

import random

import pytest

from memplan.search.work import Work
from tkbc.measure.fitting import error_on_others, fitted, robustly_fitted

TRUE = {"a": 2.0, "b": 0.5, "c": 0.0}


def steps(seed: int, n: int = 40) -> tuple[list[Work], list[float]]:
    draw = random.Random(seed)
    work = [{kind: draw.uniform(0, 10) for kind in TRUE} for _ in range(n)]
    return work, [sum(count * TRUE[kind] for kind, count in step.items()) for step in work]


def test_what_is_known_is_found_again() -> None:
    work, seconds = steps(0)
    found = fitted(work, seconds, {"a": 1.0, "b": 1.0, "c": 1.0}, trust=0.0)
    assert found == pytest.approx(TRUE, abs=1e-4)
    assert robustly_fitted(work, seconds) == pytest.approx(TRUE, abs=1e-4)
    assert error_on_others(work, seconds, {"a": 1.0, "b": 1.0, "c": 1.0}, 0.0) < 1e-3


def test_a_kind_that_no_step_has_follows_the_others() -> None:
    """A machine that takes twice as long for the rest is expected to for this one too."""
    work, seconds = steps(1)
    found = fitted(work, [2 * s for s in seconds], {**TRUE, "d": 7.0}, trust=0.01)
    assert found["d"] == pytest.approx(14.0, rel=1e-3)


def test_nothing_takes_less_than_no_time() -> None:
    work, seconds = steps(2)
    for step, taken in zip(work, seconds, strict=True):
        step["e"] = (
            10 / taken
        )  # the longer the step, the less of it: by plain least squares its share would be negative
    found = robustly_fitted(work, seconds)
    assert all(x >= 0 for x in found.values())


def test_a_few_steps_gone_wrong_do_not_count() -> None:
    work, seconds = steps(3)
    disturbed = [3 * s if i % 8 == 0 else s for i, s in enumerate(seconds)]
    found = robustly_fitted(work, disturbed)
    assert found["a"] == pytest.approx(TRUE["a"], rel=0.05)
    assert error_on_others(work, disturbed, found, 0.0) > 0.5
