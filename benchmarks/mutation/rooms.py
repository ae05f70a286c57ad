"""The modules that are changed, and which test files answer for each."""

from __future__ import annotations

from pathlib import Path

from mutation.changes import ROOT

_MEMORY = ("test_ledger", "test_recorded_steps", "test_memory_prediction", "test_operators", "test_interval_training")
_RUNS = ("test_training", "test_watching", "test_disk", "test_failed_runs", "test_power", "test_resume")
ROOMS: dict[str, tuple[str, ...]] = {
    "memplan/ledger.py": _MEMORY,
    "memplan/allocator/*.py": (
        "test_allocator_limits",
        "test_allocator_rules",
        "test_allocator_addresses",
        "test_allocator",
    ),
    "memplan/estimator.py": ("test_allocator_addresses", "test_allocator", "test_planner", *_MEMORY),
    "memplan/planner.py": ("test_search", "test_planner"),
    "memplan/replan.py": ("test_recovery", "test_out_of_memory", "test_search"),
    "memplan/cost.py": ("test_cost", "test_search", "test_planner"),
    "memplan/programs/*.py": _MEMORY,
    "tkbc/trainer.py": ("test_step", "test_recovery", "test_interval_training", "test_memory_prediction"),
    "tkbc/loss.py": ("test_loss", "test_step", "test_memory_prediction"),
    "tkbc/regularizers.py": ("test_step", "test_models", "test_memory_prediction"),
    "tkbc/optimizers.py": ("test_recovery", "test_step", "test_memory_prediction"),
    "tkbc/evaluation.py": ("test_evaluation", "test_intervals", "test_watching", "test_memory_prediction"),
    "tkbc/ranking.py": ("test_using", "test_watching"),
    "tkbc/run.py": (*_RUNS, "test_recovery"),
    "tkbc/run_folder.py": _RUNS,
    "tkbc/run_state.py": _RUNS,
    "tkbc/checkpoint.py": _RUNS,
    "tkbc/checkpoints.py": _RUNS,
    "tkbc/durable.py": ("test_power", "test_disk"),
    "tkbc/recovery.py": ("test_recovery", "test_out_of_memory"),
}


def modules() -> list[str]:
    """Return the paths of all modules that are changed."""
    return sorted(str(path.relative_to(ROOT)) for pattern in ROOMS for path in ROOT.glob(pattern))


def tests_for(module: str) -> list[str]:
    """Return the test files that answer for a module."""
    named = next(tests for pattern, tests in ROOMS.items() if Path(module).match(pattern))
    return [file for name in named if (ROOT / (file := f"tests/{name}.py")).is_file()]
