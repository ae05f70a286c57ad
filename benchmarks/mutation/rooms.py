"""The modules that are changed, and which test files answer for each."""

from __future__ import annotations

from pathlib import Path

from mutation.changes import ROOT

_MEMORY = ("test_ledger", "test_recorded_steps", "test_memory_prediction", "test_operators", "test_interval_training")
_RUNS = ("test_training", "test_watching", "test_disk", "test_failed_runs", "test_power", "test_resume")
ROOMS: dict[str, tuple[str, ...]] = {
    "memplan/memory/ledger.py": _MEMORY,
    "memplan/memory/cuda/*.py": (
        "test_allocator_limits",
        "test_allocator_rules",
        "test_allocator_addresses",
        "test_allocator",
    ),
    "memplan/memory/ghost*.py": ("test_ghost", *_MEMORY),
    "memplan/prediction/*.py": ("test_allocator_addresses", "test_allocator", "test_planner", *_MEMORY),
    "memplan/search/planner.py": ("test_search", "test_planner"),
    "memplan/search/replan.py": ("test_recovery", "test_out_of_memory", "test_search"),
    "memplan/search/cost.py": ("test_cost", "test_search", "test_planner"),
    "memplan/search/side.py": ("test_search", "test_planner"),
    "tkbc/rehearsal.py": ("test_ghost", *_MEMORY, "test_allocator"),
    "tkbc/ranking/rivals.py": ("test_evaluation", "test_intervals", "test_watching", "test_memory_prediction"),
    "tkbc/step/stepper.py": ("test_step", "test_recovery", "test_interval_training", "test_memory_prediction"),
    "tkbc/step/trainer.py": ("test_step", "test_recovery", "test_interval_training", "test_memory_prediction"),
    "tkbc/step/loss.py": ("test_loss", "test_step", "test_memory_prediction"),
    "tkbc/models/regularizers.py": ("test_step", "test_models", "test_memory_prediction"),
    "tkbc/step/optimizers.py": ("test_recovery", "test_step", "test_memory_prediction"),
    "tkbc/ranking/evaluation.py": ("test_evaluation", "test_intervals", "test_watching", "test_memory_prediction"),
    "tkbc/use/evaluate.py": ("test_using", "test_watching"),
    "tkbc/runs/loop.py": (*_RUNS, "test_recovery"),
    "tkbc/runs/folder.py": _RUNS,
    "tkbc/runs/state.py": _RUNS,
    "tkbc/runs/checkpoint.py": _RUNS,
    "tkbc/runs/checkpoint_folders.py": _RUNS,
    "memplan/files.py": ("test_power", "test_disk"),
    "tkbc/runs/recovery.py": ("test_recovery", "test_out_of_memory"),
}


def modules() -> list[str]:
    """Return the paths of all modules that are changed."""
    return sorted(str(path.relative_to(ROOT)) for pattern in ROOMS for path in ROOT.glob(pattern))


def tests_for(module: str) -> list[str]:
    """Return the test files that answer for a module."""
    named = next(tests for pattern, tests in ROOMS.items() if Path(module).match(pattern))
    found = {path.stem: str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    return [found[name] for name in named if name in found]
