"""What this machine has to give: its GPUs as NVML sees them, its free memory, its cores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from memplan.workload import MAX_THREADS


class PresentGpu(NamedTuple):
    """A GPU of this machine as NVML sees it."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None = None
    processes: tuple[tuple[int, int], ...] = ()
    """Process id and bytes of who computes there now; 0 bytes where the driver does not tell."""


def usable_threads() -> int:
    """Return the CPU threads that a run may use: ``OMP_NUM_THREADS`` where it is set, else the cores given to us."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdigit() and int(asked) > 0:
        return min(int(asked), MAX_THREADS)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def present_gpus() -> list[PresentGpu]:
    """Return this machine's NVIDIA GPUs in NVML's order; none where there is no driver.

    ``CUDA_VISIBLE_DEVICES`` counts: only the GPUs that it names, by number or UUID, in its order.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for handle in _visible_handles(pynvml):
            name = pynvml.nvmlDeviceGetName(handle)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            text = name.decode() if isinstance(name, bytes) else str(name)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            found.append(
                PresentGpu(text, int(memory.total), int(memory.free), (major, minor), _processes(pynvml, handle))
            )
        return found
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _processes(nvml: Any, handle: Any) -> tuple[tuple[int, int], ...]:
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return ()  # inside a container, or not permitted
    return tuple((process.pid, int(process.usedGpuMemory or 0)) for process in running)


def _visible_handles(nvml: Any) -> list[Any]:
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    names = [name.strip() for name in wanted.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
        for name in names
    ]


def free_ram_bytes() -> tuple[int, str]:
    """Return the memory that this process may still take, and what sets the limit: free RAM or a cgroup."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limits = [(available, "free RAM")]
    limits += [(left, f"cgroup limit ({path})") for path, left in cgroup_rooms()]
    return min(limits)


def cgroup_rooms(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> list[tuple[Path, int]]:
    """Return what is left under each memory limit of our cgroup and its parents (v2), or of v1's memory controller."""
    rooms = []
    try:
        own = next(
            line.split("::", 1)[1].strip().lstrip("/")
            for line in membership.read_text().splitlines()
            if line.startswith("0::")
        )
        folder = root / own
        folders = [folder, *folder.parents]
        for candidate in folders[: folders.index(root) + 1]:
            room = _room(candidate / "memory.max", candidate / "memory.current")
            if room is not None:
                rooms.append((candidate / "memory.max", room))
    except (OSError, StopIteration, ValueError):
        pass  # not Linux, or no unified hierarchy
    old = root / "memory"
    room = _room(old / "memory.limit_in_bytes", old / "memory.usage_in_bytes")
    if room is not None:
        rooms.append((old / "memory.limit_in_bytes", room))
    return rooms


def _room(limit: Path, usage: Path) -> int | None:
    try:
        return max(0, int(limit.read_text()) - int(usage.read_text()))
    except (OSError, ValueError):
        return None  # no such file, or "max": no limit
