"""The memory planner: what a training run will allocate, to the byte, before it runs."""

from memplan.app.api import Settings, estimate, plan
from memplan.plan import Estimate, Plan
from memplan.workload import Shape

__all__ = ["Estimate", "Plan", "Settings", "Shape", "estimate", "plan"]
