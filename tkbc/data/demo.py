"""The demo graph: generated, not real. A temporal graph with a structure that a temporal model can learn.

Entities form groups. A static relation leads from each group to one fixed group at all times; a time-varying relation
leads to a different group in each season. Within a group, heads and tails follow a skewed popularity, and a share of
the facts is noise. A model that ignores time sees a time-varying relation as a mixture over the seasons' groups, so
that knowing the time is worth a factor in rank; the planted rule bounds what any model can reach.
"""

from __future__ import annotations

import numpy as np

from memplan.catalog.datasets import DEMO
from memplan.workload import Shape
from tkbc.data.dataset import Dataset
from tkbc.data.ids import Ids

N_GROUPS = 20
N_SEASONS = 4
POPULARITY = 0.35
NOISE = 0.1
SPLIT_SHARES = (0.8, 0.1, 0.1)


def generate_demo(seed: int = 0) -> Dataset:
    """Return the demo graph: 500 entities, 8 relations (six of them time-varying), 48 days, 20,000 training facts.

    The same seed gives the same graph. Distinct facts only, split at random, so no test fact occurs in train.
    """
    shape = DEMO.shape
    random = np.random.default_rng(seed)
    group = random.permutation(np.arange(shape.n_entities) % N_GROUPS)
    members = np.stack([np.flatnonzero(group == g) for g in range(N_GROUPS)])
    # target[r, season, g]: the group that relation r leads to from group g; static relations repeat one season's map.
    target = np.stack(
        [np.stack([random.permutation(N_GROUPS) for _ in range(N_SEASONS)]) for _ in range(shape.n_relations)]
    )
    static = np.arange(shape.n_relations) % 4 == 0
    target[static] = target[static][:, :1]

    wanted = round(shape.n_facts / SPLIT_SHARES[0])
    facts = np.empty((0, 4), dtype=np.int64)
    while len(facts) < wanted:
        n = 2 * wanted
        head = members[random.integers(N_GROUPS, size=n), _positions(random, n, members.shape[1])]
        relation = random.integers(shape.n_relations, size=n)
        time = random.integers(shape.n_timestamps, size=n)
        season = time * N_SEASONS // shape.n_timestamps
        tail = members[target[relation, season, group[head]], _positions(random, n, members.shape[1])]
        tail = np.where(random.random(n) < NOISE, random.integers(shape.n_entities, size=n), tail)
        drawn = np.concatenate([facts, np.stack([head, relation, tail, time], axis=1)])
        _, first = np.unique(drawn, axis=0, return_index=True)
        facts = drawn[np.sort(first)]
    facts = facts[:wanted]

    n_valid = round(wanted * SPLIT_SHARES[1])
    cuts = (shape.n_facts, shape.n_facts + n_valid)
    return Dataset(
        "demo",
        tuple(f"entity {i}" for i in range(shape.n_entities)),
        tuple(f"{'static' if static[i] else 'seasonal'} relation {i}" for i in range(shape.n_relations)),
        tuple(f"day {i}" for i in range(shape.n_timestamps)),
        *(_frozen(part) for part in np.split(facts, cuts)),
    )


def _positions(random: np.random.Generator, n: int, n_members: int) -> np.ndarray:
    """Return n places in a group, the first the most popular."""
    return np.minimum(random.geometric(POPULARITY, size=n) - 1, n_members - 1)


def _frozen(facts: np.ndarray) -> Ids:
    ids = np.ascontiguousarray(facts, dtype=np.int32)
    ids.setflags(write=False)
    return ids


def random_facts(shape: Shape, n: int, seed: int = 0) -> Ids:
    """Return n random facts of a graph of that shape: (n, 4), or (n, 5) where they hold over intervals."""
    generator = np.random.default_rng(seed)
    bounds = [shape.n_entities, shape.n_relations, shape.n_entities] + [shape.n_timestamps] * (1 + shape.intervals)
    facts = np.stack([generator.integers(bound, size=n) for bound in bounds], axis=1).astype(np.int32)
    facts[:, 3:].sort(axis=1)
    return facts
