"""Where a run shall happen and what it may take there: from a number, a GPU by name, the GPU present, or free RAM."""

from __future__ import annotations

import os
from typing import NamedTuple

from memplan.catalog.gpus import GPUS, Gpu, find_gpu, recognize
from memplan.device import calibration
from memplan.device import present as machine
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


def resolve(device: str | None, budget: str | None) -> Target:
    """Return the target that ``--device`` and ``--budget`` name.

    ``device``: ``cpu``, ``cuda`` (the first GPU present), a GPU's name from the catalog, a size such as ``8GiB`` (a GPU
    of which nothing else is known), or None: the GPU present if there is one, else the CPU. ``budget``: a size, or
    None: what the device has to give. Where ``memplan calibrate`` has measured the device, its figures take the place
    of the catalog's.

    Raises:
        MemplanError: no such GPU here; or an unknown name or a budget that is no size (usage errors).
    """
    return _as_measured(_resolve(device, _parse_budget(budget)))


def _as_measured(target: Target) -> Target:
    """Return the target with the figures that were measured on that device, if any were."""
    for found in calibration.read_all():
        rates = found.rates(target.rates)
        is_ours = found.device == target.name and (target.device == "cuda" or found.threads == machine.usable_threads())
        if is_ours and rates is not None:
            return target._replace(
                rates=rates,
                outside_bytes=target.outside_bytes if found.context_bytes is None else found.context_bytes,
                workspace_bytes=target.workspace_bytes if found.workspace_bytes is None else found.workspace_bytes,
                is_calibrated=True,
            )
    return target


def _resolve(device: str | None, asked_bytes: int | None) -> Target:
    if device is None or device.lower() == "cuda":
        gpus = machine.present_gpus()
        if gpus:
            return _present_target(gpus[0], asked_bytes)
        if device is not None:
            raise MemplanError(
                "--device cuda: no NVIDIA GPU or driver was found on this machine; name a GPU to plan for it "
                "(--device T4), or use --device cpu"
            )
    if device is None or device.lower() == "cpu":
        return _cpu_target(asked_bytes)
    size = _size_of(device)
    return named_target(find_gpu(device), asked_bytes) if size is None else _sized_target(size, asked_bytes)


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
    return target._replace(total_bytes=usable, workspace_bytes=largest)


def named_target(gpu: Gpu, asked_bytes: int | None = None) -> Target:
    """Return the target of a GPU of the catalog, which need not be here."""
    usable = usable_bytes(gpu)
    source = (
        f"{gpu.name}: {format_bytes(gpu.memory_bytes)} less {NAMED_GPU_RESERVE:.0%} for driver and error correction"
    )
    budget = _asked_or(asked_bytes, usable, source)
    return _gpu_target(gpu.name, budget, gpu_rates(gpu), gpu.capability)._replace(total_bytes=usable)


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
    return target._replace(total_bytes=gpu.total_bytes)


def _cpu_target(asked_bytes: int | None) -> Target:
    free, limit = machine.free_ram_bytes()
    usable = max(0, round(free * (1 - CPU_MARGIN)) - PROCESS_BYTES)
    source = (
        f"{limit}: {format_bytes(free)}, less {CPU_MARGIN:.0%} and {format_bytes(PROCESS_BYTES)} for Python and PyTorch"
    )
    return Target("cpu", "CPU", *_asked_or(asked_bytes, usable, source), cpu_rates(), 0)
