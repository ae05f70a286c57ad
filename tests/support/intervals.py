"""What tests of intervals share with others."""

from __future__ import annotations

from memplan.workload import TRAITS, Shape
from tests.support.models_cases import SCORED, TEMPORAL

TIMED = [(name, score) for name, score in SCORED if name in TEMPORAL and (TRAITS[name].is_complex or score != "dot")]
"""The temporal models with the scores that predict time."""


# Few entities and relations: queries with several true tails are the rule.
SHAPE = Shape(n_entities=23, n_relations=2, n_timestamps=7, n_facts=60, intervals=True)
