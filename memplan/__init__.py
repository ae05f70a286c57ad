"""The memory planner: what a training run will allocate, to the byte, before it runs."""

from typing import Any

from memplan.app.api import Settings, estimate, plan
from memplan.plan import Estimate, Plan
from memplan.workload import Shape

__all__ = ["Estimate", "Plan", "Settings", "Shape", "__version__", "estimate", "plan"]


def __getattr__(name: str) -> Any:
    """Return ``__version__`` when it is asked for: reading it takes longer than the rest of the import."""
    if name == "__version__":
        from importlib.metadata import version

        return version("memplan-tkbc")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
