"""Running out of memory although it was planned for: telling it from other errors, freeing, and planning smaller."""

from __future__ import annotations

import gc

import torch

from memplan.device.present import free_ram_bytes
from memplan.device.target import resolve
from memplan.plan import Plan
from memplan.search.replan import Part, replan
from tkbc.measure.meter import tensor_bytes
from tkbc.step.trainer import Trainer
from tkbc.step.waiting import waiting

SIZES = ("micro_batch_size", "chunk_size", "eval_batch_size", "eval_chunk_size")
MARGIN = 0.05
"""Share of the measured free memory left alone: whoever took the rest may take more."""
# What PyTorch's CPU allocator and numpy say, in a RuntimeError of no class of its own.
_CPU_MESSAGES = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory", "Unable to allocate")


def changes_of(before: Plan, after: Plan) -> dict[str, tuple[int, int]]:
    """Return the sizes that a smaller plan changed, as they were and as they are."""
    sizes = ((name, getattr(before, name), getattr(after, name)) for name in SIZES)
    return {name: (old, new) for name, old, new in sizes if old != new}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out, on the GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MESSAGES)


def smaller_plan(plan: Plan, trainer: Trainer, part: Part) -> Plan:
    """Free what a failed attempt left, measure what there is now, and return a plan of less memory for ``part``.

    Call it after the exception is gone: its traceback holds the attempt's tensors.

    Raises:
        DoesNotFitError: not even the smallest plan fits.
    """
    trainer.score.forget()
    gc.collect()
    own_bytes = tensor_bytes(trainer.persistent_tensors())
    target = resolve(plan.workload.device, None)
    if plan.workload.device == "cuda":
        with waiting("out of memory"):
            torch.cuda.empty_cache()
        free_bytes, _total = torch.cuda.mem_get_info()
        # The budget counts the context, which is taken already, and what our allocator still holds.
        free_bytes = free_bytes + torch.cuda.memory_reserved() + target.outside_bytes
        source = "what the GPU has free now, and what this run holds"
    else:
        free_bytes, limit = free_ram_bytes()
        free_bytes += own_bytes
        source = f"{limit} now, and what this run holds"
    budget_bytes = round(free_bytes * (1 - MARGIN))
    return replan(plan, target._replace(budget_bytes=budget_bytes, budget_source=source), part)
