"""A real step on the CPU, measured: every allocation and free of PyTorch's CPU allocator, by its profiler."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from memplan.device.profiler import without_log_lines
from memplan.device.target import Target
from memplan.memory.ledger import Allocation, Ledger
from memplan.trace.loading import FUNCTION, MakeStep, errors_told
from memplan.trace.tracing import STEPS, Recorded, check_sizes

MARK = "memplan step "
DEEPEST = 10_000
"""Nested operators that a walk over the profiler's tree must stand: deep models' backward."""


def record_real(make_step: MakeStep, sizes: dict[str, int], target: Target, *, steps: int = STEPS) -> Recorded:
    """Return the ledger of a real run on the CPU: built, then ``steps`` steps.

    For a GPU the same ledger is replayed by its allocator: what CUDA's operators take inside is then not in it, and
    what the CPU's take is.

    Raises:
        MemplanError: the user's code raises.
    """
    check_sizes(make_step, sizes)
    gc.collect()
    with without_log_lines(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with record_function(MARK + "0"), errors_told(None, FUNCTION):
            step = make_step(**sizes)
        for number in range(steps):
            with record_function(f"{MARK}{number + 1}"), errors_told(None, "step"):
                step()
    assert profiler.profiler is not None
    return ledger_of(profiler.profiler.kineto_results, target)


def ledger_of(results: Any, target: Target) -> Recorded:
    """Return what the profiler's events tell, named by the operators around each allocation."""
    ledger = Ledger(target.device)
    alive: dict[int, Allocation] = {}
    first = 0
    for event, path in sorted(_allocations(results), key=lambda pair: pair[0].start_time_ns):
        fields = event.extra_fields
        if fields.alloc_size > 0:
            phase = _phase(path)
            if not first and any(name == f"{MARK}2" for name in path):
                first = len(ledger.events)
            with ledger.phase(phase):
                name = _name(path)
                size = fields.alloc_size
                allocation = Allocation(
                    name, (size,), "uint8", size, "data" if phase == "setup" else "temporaries", phase
                )
                alive[fields.ptr] = ledger.born(allocation)
        elif fields.ptr in alive:
            ledger.free(alive.pop(fields.ptr))
    notes = ["measured over real steps on the CPU: tensors have operators for names"]
    if target.device == "cuda":
        notes.append("of the CPU's operators: what CUDA's take inside is not in it")
    return Recorded(ledger, first or len(ledger.events), "measured", [], notes)


def _allocations(results: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, DEEPEST))
    found: list[tuple[Any, tuple[str, ...]]] = []

    def walk(event: Any, path: tuple[str, ...]) -> None:
        if event.tag == _EventType.Allocation:
            if event.extra_fields.device.type == "cpu":
                found.append((event, path))
        else:
            path = (*path, event.name)
        for child in event.children:
            walk(child, path)

    for event in results.experimental_event_tree():
        walk(event, ())
    sys.setrecursionlimit(before)
    yield from found


def _phase(path: tuple[str, ...]) -> str:
    if any(name.startswith("Optimizer.step") for name in path):
        return "optimizer"
    if any("Backward" in name or name.startswith("autograd::engine") for name in path):
        return "backward"
    return "setup" if path and path[0] == f"{MARK}0" else "forward"


def _name(path: tuple[str, ...]) -> str:
    """Return the outermost operator, and the innermost where it is another."""
    names = [name.removeprefix("aten::") for name in path if name.startswith("aten::")]
    if not names:
        return path[-1] if path else "outside any operator"
    return names[0] if names[0] == names[-1] else f"{names[0]} ({names[-1]})"
