"""Replays the planner's ledgers in PyTorch's real CUDA caching allocator, and compares the peaks with memplan's replay.

    run.py --gpu T4 python tests/cuda_standin/replay_ledgers.py --conf max_split_size_mb:128 --count 200
    run.py --gpu T4 python tests/cuda_standin/replay_ledgers.py --conf expandable_segments:True --capacity tight
    run.py --gpu T4 python tests/cuda_standin/replay_ledgers.py --conf garbage_collection_threshold:0.6 --fraction 0.8

--capacity none: without bound. tight: at four capacities near the edge - what is predicted to be reserved, the smallest
at which memplan's replay survives, 2 MiB less than that, and one between. Ends with 1 where a run is not equal in
allocated, reserved and out of memory. allocator_grid.py does it for every setting.
"""

from __future__ import annotations

import argparse
import collections
import gc
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MIB = 2**20
STEP_BYTES = 2 * MIB
"""What the driver hands out at least, and so the step between capacities that can differ."""
UNLIMITED_BYTES = 10**12
"""More than any ledger here needs."""
ROOMY = 2
"""Times what is reserved is without bound, and takes few of the addresses that expandable segments find here."""
SMALL_BYTES = 256 * MIB
EMPTY_SEGMENTS = 4
"""More than one failing request leaves in a pool: one for each time that it is tried."""
EXPLAINED = 8
"""Differences whose first event is looked for: each costs a replay an event."""


class Peaks(NamedTuple):
    """The highest of both numbers, in bytes."""

    allocated_bytes: int
    reserved_bytes: int


class Run(NamedTuple):
    """One ledger at one capacity; None stands for out of memory."""

    number: int
    capacity: str
    told: Peaks | None
    real: Peaks | None
    workload: dict[str, Any] | None = None
    """Where the two are not equal."""
    capacity_bytes: int = 0
    difference: str | None = None


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="", help="PyTorch's allocator options, as in PYTORCH_ALLOC_CONF")
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="share of the capacity that the process may reserve"
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capacity", choices=["none", "tight"], nargs="+", default=["none"])
    parser.add_argument(
        "--occupied", action="store_true", help="bound by what another process holds, not by the device"
    )
    parser.add_argument("--largest", type=float, default=1e13, help="skip workloads that reserve more bytes")
    parser.add_argument("--out", type=Path, help="all runs, as JSON")
    return parser.parse_args()


class RealAllocator:
    """PyTorch's own, on the stand-in device."""

    def __init__(self, conf: str, fraction: float, *, occupied: bool) -> None:
        major, minor = (int(part) for part in importlib.metadata.version("torch").split(".")[:2])
        for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            os.environ.pop(name, None)
        # Read when PyTorch is imported; the shorter name is new in 2.9.
        os.environ["PYTORCH_ALLOC_CONF" if (major, minor) >= (2, 9) else "PYTORCH_CUDA_ALLOC_CONF"] = conf
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # running out of memory is what is tried here
        import torch

        from tests.cuda_standin.device import set_capacity

        set_capacity(UNLIMITED_BYTES)  # a share of the memory is of what the device has now
        self.torch = torch
        self.fraction = fraction
        self.occupied = occupied
        torch.empty(1, device="cuda")

    def replay(
        self, events: Sequence[Any], capacity_bytes: int, watch: Callable[[int, int], None] | None = None
    ) -> Peaks | None:
        """Return the peaks over the events; ``watch`` is told allocated and reserved bytes after each."""
        self._start(capacity_bytes)
        cuda = self.torch.cuda
        tensors = {}
        try:
            for allocation, is_birth in events:
                if allocation is None:
                    cuda.empty_cache()
                elif is_birth:
                    tensors[allocation] = self.torch.empty(allocation.n_bytes, dtype=self.torch.uint8, device="cuda")
                else:
                    del tensors[allocation]
                if watch is not None:
                    watch(cuda.memory_allocated(), cuda.memory_reserved())
        except self.torch.OutOfMemoryError:
            return None
        finally:
            statistics = cuda.memory_stats()
            tensors.clear()
        return Peaks(statistics["allocated_bytes.all.peak"], statistics["reserved_bytes.all.peak"])

    def _start(self, capacity_bytes: int) -> None:
        from tests.cuda_standin.device import set_capacity

        set_capacity(SMALL_BYTES)  # should a segment begin here, it takes few addresses
        self.torch.cuda.empty_cache()
        if self.torch.cuda.memory_reserved():
            gc.collect()  # an exception's traceback may hold tensors
            self.torch.cuda.empty_cache()
        assert self.torch.cuda.memory_reserved() == 0, "the run before left memory behind"
        self._give_up_segments()
        if self.occupied:
            set_capacity(UNLIMITED_BYTES, UNLIMITED_BYTES - capacity_bytes)
        else:
            set_capacity(capacity_bytes)
        if self.fraction < 1:
            self.torch.cuda.set_per_process_memory_fraction(self.fraction * capacity_bytes / UNLIMITED_BYTES)
        self.torch.cuda.reset_peak_memory_stats()

    def _give_up_segments(self) -> None:
        """Have expandable segments without memory given up: out of memory leaves some, which only their use ends."""
        for _ in range(EMPTY_SEGMENTS):
            for n_bytes in (1, 2 * MIB):
                self.torch.empty(n_bytes, dtype=self.torch.uint8, device="cuda")
            self.torch.cuda.empty_cache()


class ToldAllocator:
    """memplan's replay."""

    def __init__(self, conf: str, fraction: float, *, occupied: bool) -> None:
        from memplan.workload.alloc_conf import AllocatorSettings

        self.settings = AllocatorSettings.parse(conf)
        self.fraction = fraction
        self.occupied = occupied

    def replay(self, events: Sequence[Any], capacity_bytes: int) -> Peaks | None:
        """Return the peaks over the events."""
        allocator = self.after(events, capacity_bytes)
        return None if allocator is None else Peaks(allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)

    def after(self, events: Sequence[Any], capacity_bytes: int) -> Any:
        """Return the allocator after the events; None: out of memory."""
        from memplan.memory.cuda import OutOfDeviceMemory, replay
        from tests.cuda_standin.addresses import addresses

        total = UNLIMITED_BYTES if self.occupied else capacity_bytes
        order = addresses(os.environ.get("STANDIN_ADDRESSES", "first"))
        settings = self.settings
        if self.fraction < 1:
            settings = settings._replace(memory_fraction=self.fraction * capacity_bytes / UNLIMITED_BYTES)
        try:
            return replay(events, settings, capacity_bytes, total, order)
        except OutOfDeviceMemory:
            return None

    def smallest_capacity(self, events: Sequence[Any], enough_bytes: int) -> int:
        """Return the least capacity that survives, by halving: a multiple of what the driver hands out at least."""
        low, high = 0, -(-enough_bytes // STEP_BYTES)
        while low < high:
            middle = (low + high) // 2
            if self.replay(events, middle * STEP_BYTES) is None:
                low = middle + 1
            else:
                high = middle
        return low * STEP_BYTES


def first_difference(events: Sequence[Any], told: ToldAllocator, real: RealAllocator, capacity_bytes: int) -> str:
    """Return where the two allocators part: the event, and what each then holds."""
    seen: list[tuple[int, int]] = []
    real.replay(events, capacity_bytes, lambda allocated, reserved: seen.append((allocated, reserved)))
    for at, held in enumerate(seen):
        allocator = told.after(events[: at + 1], capacity_bytes)
        if allocator is None:
            return f"event {at} {events[at]}: the replay is out of memory, really {held}"
        if (allocator.allocated_bytes, allocator.reserved_bytes) != held:
            expected = (allocator.allocated_bytes, allocator.reserved_bytes)
            return f"event {at} {events[at]}: replay {expected}, really {held}, before {seen[at - 1] if at else None}"
    return f"event {len(seen)} {events[len(seen)]}: really out of memory" if len(seen) < len(events) else "none"


def capacities(
    asked: Sequence[str], events: Sequence[Any], told: ToldAllocator, reserved: int
) -> Iterator[tuple[str, int]]:
    """Yield the capacities to try, by name."""
    if "none" in asked:
        yield "unlimited", UNLIMITED_BYTES if told.occupied else ROOMY * reserved
    if "tight" in asked:
        enough = math.ceil(reserved / told.fraction)
        least = told.smallest_capacity(events, enough)
        yield "predicted", enough
        yield "least", least
        yield "least - 2 MiB", least - STEP_BYTES
        yield "between", (least + enough) // 2 // STEP_BYTES * STEP_BYTES


def runs(given: argparse.Namespace) -> Iterator[Run]:
    """Replay every ledger at every capacity in both allocators."""
    occupied = given.occupied or given.fraction < 1
    real = RealAllocator(given.conf, given.fraction, occupied=occupied)
    told = ToldAllocator(given.conf, given.fraction, occupied=occupied)
    from memplan.memory.programs.step import run as tell
    from tests.cuda_standin.workloads import ledger_workloads

    explained = 0
    for number, workload in enumerate(ledger_workloads(given.count, given.seed)):
        events = tell(workload).events
        free = told.replay(events, UNLIMITED_BYTES)
        assert free is not None
        if free.reserved_bytes > given.largest:
            continue
        for name, capacity in capacities(given.capacity, events, told, free.reserved_bytes):
            found = Run(number, name, told.replay(events, capacity), real.replay(events, capacity))
            if found.told != found.real:
                found = found._replace(workload=workload.model_dump(), capacity_bytes=capacity)
                explained += 1
                if explained <= EXPLAINED:
                    found = found._replace(difference=first_difference(events, told, real, capacity))
            yield found


def outcome(run: Run) -> str:
    """Return in words how the two ended."""
    if run.told is None or run.real is None:
        who = "neither" if run.told == run.real else "memplan's replay" if run.told else "the real allocator"
        return f"where {who} survives"
    if run.told == run.real:
        return "to the byte"
    return f"unequal in {'reserved' if run.told.allocated_bytes == run.real.allocated_bytes else 'allocated'} bytes"


def report(found: Sequence[Run]) -> None:
    """Print a line for each capacity, then the first differences."""
    by_capacity = collections.defaultdict(list)
    for run in found:
        by_capacity[run.capacity].append(run)
    for name, some in by_capacity.items():
        outcomes = collections.Counter(map(outcome, some))
        told = ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
        both = [
            (run.told.reserved_bytes - run.real.reserved_bytes, run.number) for run in some if run.told and run.real
        ]
        worst = f"reserved, replay - real: {min(both)[0]:+,} to {max(both)[0]:+,} B" if both else ""
        print(f"  {name:14} {len(some)} runs, {sum(run.told == run.real for run in some)} equal: {told}; {worst}")
    for run in [run for run in found if run.difference][:4]:
        print(f"    ledger {run.number}, {run.capacity}: replay {run.told}, real {run.real}; {run.difference}")


def main() -> None:
    """Replay, print, and end with whether all runs are equal."""
    given = options()
    begin = time.monotonic()
    found = list(runs(given))
    print(
        f"conf {given.conf!r} on {os.environ.get('STANDIN_GPU', 'T4')}, addresses "
        f"{os.environ.get('STANDIN_ADDRESSES', 'first')}, {time.monotonic() - begin:.0f} s"
    )
    report(found)
    if given.out:
        given.out.write_text(json.dumps([run._asdict() for run in found]))
    sys.exit(not all(run.told == run.real for run in found))


if __name__ == "__main__":
    main()
