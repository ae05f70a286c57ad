"""Budgets: how much memory a run may take, from a number, a GPU by name, the GPU present, or this machine's RAM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from memplan.catalog import Gpu, find_gpu
from memplan.errors import MemplanError
from memplan.units import format_bytes, parse_bytes
from memplan.workload import MAX_THREADS, DeviceType

MIB = 2**20
CUDA_CONTEXT_BYTES = 450 * MIB
"""A CUDA context with PyTorch's modules loaded: 300 to 600 MiB by GPU and driver; the middle, not a measurement."""
CUBLAS_WORKSPACE_BYTES = 8_519_680
"""PyTorch's default cuBLAS workspace before Hopper, allocated inside the caching allocator at the first product."""
NAMED_GPU_RESERVE = 0.08
"""Share of a GPU's nominal memory kept by driver, display and error correction: a T4 of 16 GiB offers 14.7."""
GPU_MARGIN = 0.02
"""Share of a present GPU's free memory left alone."""
CPU_MARGIN = 0.10
PROCESS_BYTES = 600 * MIB
"""Python with PyTorch, numba and the dataset's names, outside PyTorch's allocator."""


class Rates(NamedTuple):
    """What the cost model needs to know of a device."""

    flops_per_second: float
    bytes_per_second: float
    launch_seconds: float


class Target(NamedTuple):
    """Where a run shall happen, and how much memory it may take there.

    ``budget_bytes`` bounds a run's device bytes: on CUDA reserved memory and context, on the CPU PyTorch's tensors.
    """

    device: DeviceType
    name: str
    budget_bytes: int
    budget_source: str
    rates: Rates
    outside_bytes: int
    """What a run takes on the device outside the allocator."""


class PresentGpu(NamedTuple):
    """A GPU of this machine as NVML sees it."""

    name: str
    total_bytes: int
    free_bytes: int


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
            found.append(PresentGpu(text, int(memory.total), int(memory.free)))
        return found
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


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


def cpu_rates(threads: int) -> Rates:
    """Return rates of a core times ``threads``: what kernels reach (benchmarks/), not a datasheet's peak."""
    return Rates(45e9 * threads, 4e9 * threads, 8e-6)


def gpu_rates(gpu: Gpu) -> Rates:
    """Return a GPU's rates for the cost model."""
    return Rates(gpu.flops_per_second, gpu.bytes_per_second, 6e-6)


def resolve(device: str | None, budget: str | None) -> Target:
    """Return the target that ``--device`` and ``--budget`` name.

    ``device``: ``cpu``, ``cuda`` (the first GPU present), a GPU's name from the catalog, or None: the GPU present if
    there is one, else the CPU. ``budget``: a size, or None: what the device has to give.

    Raises:
        MemplanError: no such GPU here; or an unknown name or a budget that is no size (usage errors).
    """
    asked_bytes = _parse_budget(budget)
    if device is None or device.lower() == "cuda":
        gpus = present_gpus()
        if gpus:
            return _present_target(gpus[0], asked_bytes)
        if device is not None:
            raise MemplanError(
                "--device cuda: no NVIDIA GPU or driver was found on this machine; name a GPU to plan for it "
                "(--device T4), or use --device cpu"
            )
    if device is None or device.lower() == "cpu":
        return _cpu_target(asked_bytes)
    gpu = find_gpu(device)
    nominal = round(gpu.memory_bytes * (1 - NAMED_GPU_RESERVE))
    source = (
        f"{gpu.name}: {format_bytes(gpu.memory_bytes)} less {NAMED_GPU_RESERVE:.0%} for driver and error correction"
    )
    return Target("cuda", gpu.name, *_asked_or(asked_bytes, nominal, source), gpu_rates(gpu), CUDA_CONTEXT_BYTES)


def _parse_budget(budget: str | None) -> int | None:
    from memplan.errors import UsageError

    if budget is None:
        return None
    try:
        return parse_bytes(budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from None


def _asked_or(asked_bytes: int | None, found_bytes: int, source: str) -> tuple[int, str]:
    return (found_bytes, source) if asked_bytes is None else (asked_bytes, "--budget")


def _present_target(gpu: PresentGpu, asked_bytes: int | None) -> Target:
    try:
        rates = gpu_rates(find_gpu(gpu.name))
    except MemplanError:
        rates = Rates(8e12, 300e9, 6e-6)  # as a T4: only the order of plans depends on it
    usable = round(gpu.free_bytes * (1 - GPU_MARGIN))
    source = (
        f"{gpu.name}: {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}, less {GPU_MARGIN:.0%}"
    )
    return Target("cuda", gpu.name, *_asked_or(asked_bytes, usable, source), rates, CUDA_CONTEXT_BYTES)


def _cpu_target(asked_bytes: int | None) -> Target:
    free, limit = free_ram_bytes()
    usable = max(0, round(free * (1 - CPU_MARGIN)) - PROCESS_BYTES)
    source = (
        f"{limit}: {format_bytes(free)}, less {CPU_MARGIN:.0%} and {format_bytes(PROCESS_BYTES)} for Python and PyTorch"
    )
    return Target("cpu", "CPU", *_asked_or(asked_bytes, usable, source), cpu_rates(usable_threads()), 0)
