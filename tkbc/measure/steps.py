"""Timing training steps: layouts of one workload take turns, so that what slows the machine slows them all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from memplan.workload import Workload
from tkbc.data.demo import random_facts
from tkbc.step.finite import check_step
from tkbc.step.trainer import Trainer

FEWEST_ROUNDS = 3
LEARNING_RATE = 1e-4
"""So small that the numbers stay what they were: on random facts a larger one soon leads to denormal probabilities,
with which a CPU computes several times more slowly."""
SLOW = 3
"""A layout whose first step took this many times the fastest's is not run again."""


class StepTime(NamedTuple):
    """Of a layout's steps."""

    seconds: float
    """The median."""
    least_seconds: float
    """What others on the machine hardly lengthen."""


def step_times(layouts: Sequence[Workload], seconds: float) -> list[StepTime]:
    """Return the time of a full step of each layout, on random facts.

    ``layouts`` differ in micro-batch, chunk and scoring alone. They take turns, a step each, for ``seconds`` in all, at
    least ``FEWEST_ROUNDS`` times after a first that does not count.
    """
    first = layouts[0]
    trainer = Trainer(first, random_facts(first, first.n_facts), learning_rate=LEARNING_RATE)
    order = trainer.shuffled(0)[: first.batch_size]

    def step(layout: Workload) -> float:
        trainer.adopt(layout)
        begin = time.perf_counter()
        trainer.step(order, checking=lambda: check_step(trainer, "timing", "seen here"))
        return time.perf_counter() - begin

    taken = [[step(layout)] for layout in layouts]
    fastest = min(times[0] for times in taken)
    running = [(layout, times) for layout, times in zip(layouts, taken, strict=True) if times[0] <= SLOW * fastest]
    for _, times in running:
        times.clear()
    begin, rounds = time.perf_counter(), 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() - begin < seconds:
        for layout, times in running:
            times.append(step(layout))
        rounds += 1
    return [StepTime(median(times), min(times)) for times in taken]
