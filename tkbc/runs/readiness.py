"""Before a run: PyTorch set as the plan has it, and the plan's device checked."""

from __future__ import annotations

import os

from memplan.device.present import free_ram_bytes
from memplan.device.target import Target
from memplan.device.workspace import DETERMINISTIC_WORKSPACE, WORKSPACE_VARIABLE
from memplan.errors import DoesNotFitError, MemplanError
from memplan.memory.cuda.environment import obey
from memplan.plan import Plan
from memplan.units import format_bytes


def prepare_torch(plan: Plan) -> None:
    """Set what PyTorch's libraries read when they are loaded, unless the user has.

    Raises:
        UsageError: the environment has the allocator do otherwise than the plan.
    """
    if plan.workload.device == "cuda":
        obey(plan.workload.alloc_conf)
    if plan.workload.deterministic and plan.workload.device == "cuda":
        # cuBLAS repeats itself only with a workspace of its own, which it reads of here.
        os.environ.setdefault(WORKSPACE_VARIABLE, DETERMINISTIC_WORKSPACE)
        import torch

        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_device(plan: Plan, target: Target) -> None:
    """Check that the plan's device is here with what the plan takes.

    Raises:
        DoesNotFitError: there is less memory.
        MemplanError: there is no such device.
    """
    if target.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise MemplanError(
                f"{target.name}: PyTorch {torch.__version__} sees no CUDA device here; train with --device cpu, or "
                "plan for another machine with memplan plan"
            )
        return
    free, limit = free_ram_bytes()
    if plan.peak.device_bytes > free:
        raise DoesNotFitError(
            f"the plan takes {format_bytes(plan.peak.device_bytes)}, but only {format_bytes(free)} are free ({limit}); "
            "lower --budget"
        )
