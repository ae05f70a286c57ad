"""Where a run shall happen and what it may take there: from a number, a GPU by name, the GPU present, or free RAM."""

from __future__ import annotations

import os
from typing import NamedTuple

from memplan.catalog.gpus import GPUS, Gpu, find_gpu, recognize
from memplan.device import calibration
from memplan.device import present as machine
from memplan.device.asked import parse_devices
from memplan.device.links import GLOO, Link, gpu_link
from memplan.device.present import PresentGpu
from memplan.device.rates import Rates, StepRates, cpu_rates, gpu_rates
from memplan.device.workspace import WORKSPACE_VARIABLE, workspace_bytes
from memplan.errors import MemplanError, UsageError
from memplan.units import format_bytes, parse_bytes
from memplan.workload import DEFAULT_WORKSPACE_BYTES, DeviceType
from memplan.workload.rules import OLDEST_FOR_TRITON

MIB = 2**20
CUDA_CONTEXT_BYTES = 450 * MIB
"""A CUDA context with PyTorch's modules loaded: 300 to 600 MiB by GPU and driver; the middle, not a measurement."""
NAMED_GPU_RESERVE = 0.08
"""Share of a GPU's nominal memory kept by driver, display and error correction: a T4 of 16 GiB offers 14.7."""
GPU_MARGIN = 0.02
"""Share of a present GPU's free memory left alone."""
CPU_MARGIN = 0.10
PROCESS_BYTES = 600 * MIB
"""Python with PyTorch, numba and the dataset's names, outside PyTorch's allocator."""
NCCL_BYTES = 1024 * MIB
"""What NCCL keeps on a GPU for all-reduces, outside PyTorch's allocator: stated, not measured. Users report 110 MB to
1.6 GB for a communicator, by the number of its channels (github.com/NVIDIA/nccl, issues 34 and 864)."""


MOST_NAMED = 64
"""GPUs of a kind that are planned for where nobody says how many."""


class Target(NamedTuple):
    """Where a run shall happen, and how much memory it may take there.

    ``budget_bytes`` bounds a run's device bytes: on CUDA reserved memory and context, on the CPU PyTorch's tensors.
    """

    device: DeviceType
    name: str
    budget_bytes: int
    budget_source: str
    rates: Rates | StepRates
    outside_bytes: int
    """What a run takes on the device outside the allocator."""
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    """What cuBLAS takes inside the allocator at the first product."""
    capability: tuple[int, int] | None = None
    """CUDA compute capability, where known."""
    is_calibrated: bool = False
    """Rates and bytes were measured on this very device by ``memplan calibrate``."""
    total_bytes: int | None = None
    """A GPU's memory, free or not: of a named one what it has to give."""
    n_devices: int | None = None
    """How many of them train together, each with memory and rates as above; None: one, and nothing was said of more."""
    link: Link = GLOO
    """Between them."""


def resolve(device: str | None, budget: str | None, devices: str | None = None) -> Target:
    """Return the target that ``--device``, ``--budget`` and ``--devices`` name.

    ``device``: ``cpu``, ``cuda`` (the first GPU present), a GPU's name from the catalog, a size such as ``8GiB`` (a GPU
    of which nothing else is known), or None: the GPU present if there is one, else the CPU. ``budget``: a size, or
    None: what the device has to give. Where ``memplan calibrate`` has measured the device, its figures take the place
    of the catalog's. ``devices``: a number of them, ``2``, or ``2xT4``, which names the device too; the target is then
    one of them, and on the CPU one of as many processes with equal shares of memory and threads.

    Raises:
        MemplanError: no such GPU here, or not as many; or an unknown name or a budget that is no size (usage errors).
    """
    if devices is None:
        return _as_measured(_resolve(device, _parse_budget(budget), 1), 1)
    asked = parse_devices(devices)
    if asked.device is not None and device is not None:
        one, other = (_resolve(name, None, 1).name for name in (device, asked.device))
        if one != other:
            raise UsageError(
                f"--device {device} and --devices {devices} name two kinds, {one} and {other}; leave one out"
            )
    found = _as_measured(_resolve(asked.device or device, _parse_budget(budget), asked.n), asked.n)
    several = asked.n > 1
    return found._replace(
        name=f"{asked.n} × {found.name}" if several else found.name,
        outside_bytes=found.outside_bytes + (NCCL_BYTES if several and found.device == "cuda" else 0),
        n_devices=asked.n,
    )


def numbers_to_try(device: str | None) -> list[int]:
    """Return how many of ``--device`` may be the answer to how many there should be: 1, 2, 4, … and all there are.

    Of a GPU that need not be here as many as ``MOST_NAMED``; CPU processes no more than threads.
    """
    most = MOST_NAMED
    if device is None or device.lower() in ("cpu", "cuda"):
        most = 0 if device is not None and device.lower() == "cpu" else len(machine.present_gpus())
        most = most or machine.usable_threads()
    return sorted({most, *(2**power for power in range(most.bit_length()))})


def threads_of(n_processes: int) -> int:
    """Return the CPU threads of each of so many processes: an equal share of those that a run may use."""
    return max(1, machine.usable_threads() // n_processes)


def _as_measured(target: Target, n: int) -> Target:
    """Return the target with the figures that were measured on that device, if any were."""
    for found in calibration.read_all():
        rates = found.rates(target.rates)
        is_ours = found.device == target.name and (target.device == "cuda" or found.threads == threads_of(n))
        if is_ours and rates is not None:
            return target._replace(
                rates=rates,
                outside_bytes=target.outside_bytes if found.context_bytes is None else found.context_bytes,
                workspace_bytes=target.workspace_bytes if found.workspace_bytes is None else found.workspace_bytes,
                is_calibrated=True,
            )
    return target


def _resolve(device: str | None, asked_bytes: int | None, n: int) -> Target:
    """Return the target of one of ``n`` devices; of GPUs that are here the one that has least to give."""
    if device is None or device.lower() == "cuda":
        gpus = machine.present_gpus()
        if len(gpus) >= n:
            here = [_present_target(gpu, asked_bytes) for gpu in gpus[:n]]
            return min(here, key=lambda target: target.budget_bytes)
        if gpus:
            raise MemplanError(
                f"--devices {n}: {_how_many(len(gpus))} here, {', '.join(gpu.name for gpu in gpus)}; use that many, or "
                f"name what to plan for (--devices {n}xT4)"
            )
        if device is not None:
            raise MemplanError(
                "--device cuda: no NVIDIA GPU or driver was found on this machine; name a GPU to plan for it "
                "(--device T4), or use --device cpu"
            )
    if device is None or device.lower() == "cpu":
        return _cpu_target(asked_bytes, n)
    size = _size_of(device)
    return named_target(find_gpu(device), asked_bytes) if size is None else _sized_target(size, asked_bytes)


def _how_many(n_gpus: int) -> str:
    return "there is 1 GPU" if n_gpus == 1 else f"there are {n_gpus} GPUs"


def _size_of(device: str) -> int | None:
    """Return the bytes where ``--device`` is a size such as 8GiB, None where it is a name ("3060" is)."""
    text = device.strip()
    try:
        return None if text.isdigit() else parse_bytes(text)
    except ValueError:
        return None


def _sized_target(memory_bytes: int, asked_bytes: int | None) -> Target:
    """Return the target of a GPU of which nothing but its memory is known: whatever it is, the plan holds for it.

    The slowest rates of the catalog, the oldest capability that has the fused kernel, the largest cuBLAS workspace.
    """
    slowest = min(
        (gpu for gpu in GPUS.values() if gpu.capability >= OLDEST_FOR_TRITON), key=lambda gpu: gpu.bytes_per_second
    )
    unknown = slowest._replace(memory_bytes=memory_bytes, capability=OLDEST_FOR_TRITON)
    usable = usable_bytes(unknown)
    size = format_bytes(memory_bytes)
    source = (
        f"a GPU of {size} less {NAMED_GPU_RESERVE:.0%} for driver and error correction; unknown otherwise: taken to be "
        f"as slow as a {slowest.name} and of compute capability {'.'.join(map(str, OLDEST_FOR_TRITON))}"
    )
    budget = _asked_or(asked_bytes, usable, source)
    target = _gpu_target(f"a GPU of {size}", budget, gpu_rates(unknown), unknown.capability)
    largest = max(workspace_bytes(capability, os.environ.get(WORKSPACE_VARIABLE)) for capability in ((7, 0), (9, 0)))
    return target._replace(total_bytes=usable, workspace_bytes=largest, link=gpu_link(unknown))


def named_target(gpu: Gpu, asked_bytes: int | None = None) -> Target:
    """Return the target of a GPU of the catalog, which need not be here."""
    usable = usable_bytes(gpu)
    source = (
        f"{gpu.name}: {format_bytes(gpu.memory_bytes)} less {NAMED_GPU_RESERVE:.0%} for driver and error correction"
    )
    budget = _asked_or(asked_bytes, usable, source)
    return _gpu_target(gpu.name, budget, gpu_rates(gpu), gpu.capability)._replace(
        total_bytes=usable, link=gpu_link(gpu)
    )


def usable_bytes(gpu: Gpu) -> int:
    """Return what a GPU of the catalog has to give: its nominal memory less what is never free."""
    return round(gpu.memory_bytes * (1 - NAMED_GPU_RESERVE))


def _parse_budget(budget: str | None) -> int | None:
    if budget is None:
        return None
    try:
        return parse_bytes(budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from None


def _asked_or(asked_bytes: int | None, found_bytes: int, source: str) -> tuple[int, str]:
    return (found_bytes, source) if asked_bytes is None else (asked_bytes, "--budget")


def _gpu_target(name: str, budget: tuple[int, str], rates: Rates, capability: tuple[int, int] | None) -> Target:
    workspace = workspace_bytes(capability, os.environ.get(WORKSPACE_VARIABLE))
    return Target("cuda", name, *budget, rates, CUDA_CONTEXT_BYTES, workspace, capability)


def _present_target(gpu: PresentGpu, asked_bytes: int | None) -> Target:
    known = recognize(gpu.name, gpu.total_bytes) or find_gpu("T4")  # only the order of plans depends on the rates
    usable = round(gpu.free_bytes * (1 - GPU_MARGIN))
    source = (
        f"{gpu.name}: {format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}, less {GPU_MARGIN:.0%}"
    )
    budget = _asked_or(asked_bytes, usable, source)
    target = _gpu_target(gpu.name, budget, gpu_rates(known), gpu.capability or known.capability)
    return target._replace(total_bytes=gpu.total_bytes, link=gpu_link(known))


def _cpu_target(asked_bytes: int | None, n: int) -> Target:
    free, limit = machine.free_ram_bytes()
    usable = max(0, round(free * (1 - CPU_MARGIN)) // n - PROCESS_BYTES)
    share = f" by {n} processes" if n > 1 else ""
    source = (
        f"{limit}: {format_bytes(free)}, less {CPU_MARGIN:.0%}{share} and {format_bytes(PROCESS_BYTES)} for Python and "
        "PyTorch"
    )
    return Target("cpu", "CPU", *_asked_or(asked_bytes, usable, source), cpu_rates(), 0)
