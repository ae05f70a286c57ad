"""Bootstrap intervals against the distributions of means that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tkbc.ranking.confidence import intervals, intervals_by_group
from tkbc.ranking.evaluation import Ranks


def ranks_of(n_facts: int, seed: int = 0) -> Ranks:
    random = np.random.default_rng(seed)
    higher = np.floor(random.pareto(0.6, 2 * n_facts)).clip(max=7000)
    return Ranks(higher, random.integers(0, 3, 2 * n_facts).astype(np.float64))


def per_fact(ranks: Ranks, n_facts: int) -> np.ndarray:
    reciprocal = 1 / (1 + ranks.higher + ranks.ties / 2)
    return (reciprocal[:n_facts] + reciprocal[n_facts:]) / 2


def test_of_many_facts_it_is_the_normal_interval_of_their_mean() -> None:
    n = 1500
    ranks = ranks_of(n)
    values, (low, high) = per_fact(ranks, n), intervals(ranks)["both"]
    margin = 1.96 * values.std() / math.sqrt(n)
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.1 * margin)


def test_of_two_values_it_is_the_binomial_distribution_s() -> None:
    """40 facts, 12 of rank 1 and 28 of rank 2: a resample holds B(40, 0.3) of the first; to within one."""
    n, hits = 40, 12
    higher = np.tile(np.arange(n) >= hits, 2).astype(np.float64)
    chance = [math.comb(n, k) * 0.3**k * 0.7 ** (n - k) for k in range(n + 1)]
    low, high = (next(k for k in range(n + 1) if sum(chance[: k + 1]) >= q) for q in (0.025, 0.975))
    assert intervals(Ranks(higher, np.zeros(2 * n)))["both"] == pytest.approx(
        [(k + (n - k) / 2) / n for k in (low, high)], abs=0.5 / n
    )


def test_every_metric_has_its_own_and_the_same_each_time() -> None:
    ranks = ranks_of(300)
    found, metrics = intervals(ranks), ranks.evaluation()
    assert list(found) == list(metrics._fields)
    for name, interval in found.items():
        assert interval.low < getattr(metrics, name).mrr < interval.high
    assert found["optimistic"].low > found["both"].low > found["pessimistic"].low
    assert intervals(ranks) == found


def test_a_group_is_drawn_from_its_own_facts() -> None:
    """Group 3 is group 0's ranks on other places; 2 has one fact, 1 none; all of 4's ranks are 2."""
    n = 400
    group = np.random.default_rng(2).choice([0, 3], n)
    ranks = ranks_of(n)
    higher = np.concatenate([ranks.higher[:n], [5.0, 1, 1], ranks.higher[n:], [8.0, 1, 1]])
    ties = np.concatenate([ranks.ties[:n], np.zeros(3), ranks.ties[n:], np.zeros(3)])
    found = intervals_by_group(Ranks(higher, ties), np.concatenate([group, [2, 4, 4]]), 5)
    for which in (0, 3):
        values = per_fact(ranks, n)[group == which]
        low, high = found[which]
        assert low < values.mean() < high
        assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(len(values)), rel=0.15)
    assert np.isnan([found[1], found[2]]).all()
    assert found[4] == (0.5, 0.5)
