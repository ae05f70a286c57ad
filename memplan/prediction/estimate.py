"""From a workload to bytes: the ledger of its run, and on CUDA the allocator's replay of it."""

from __future__ import annotations

from memplan.memory.cuda import OutOfDeviceMemory, replay, reserved_over
from memplan.memory.ledger import Ledger
from memplan.plan import Estimate, Peak, PhasePeak, Plan, TensorAtPeak
from memplan.prediction.rehearsal import run
from memplan.workload import Workload
from memplan.workload.alloc_conf import AllocatorSettings


def estimate(workload: Workload, *, outside_bytes: int = 0, budget_bytes: int | None = None) -> Estimate:
    """Return what ``workload`` will allocate, and whether it fits ``budget_bytes``.

    ``outside_bytes``: what the device loses to a run besides the allocator, such as a CUDA context.
    """
    ledger = run(workload)
    peak = peak_of(ledger, workload, outside_bytes)
    return Estimate(
        workload=workload,
        peak=peak,
        phases=[PhasePeak(name=name, peak_bytes=n_bytes) for name, n_bytes in ledger.phase_peaks.items()],
        tensors_at_peak=[
            TensorAtPeak(name=t.name, shape=t.shape, dtype=t.dtype, bytes=t.n_bytes, kind=t.kind, phase=t.phase)
            for t in ledger.alive_at_peak()
        ],
        budget_bytes=budget_bytes,
        fits=None if budget_bytes is None else peak.device_bytes <= budget_bytes,
    )


def plan_of_process(plan: Plan, process: int) -> Plan:
    """Return the plan as one of the processes that train together carries it out: its rows, its bytes."""
    if process == plan.workload.process:
        return plan
    workload = plan.workload.model_copy(update={"process": process})
    found = estimate(workload, outside_bytes=plan.peak.device_bytes - plan.peak.reserved_bytes)
    return plan.model_copy(update={"workload": workload, "peak": found.peak, "phases": found.phases})


def bytes_follow(plan: Plan) -> bool:
    """Return whether a plan's bytes are those of its workload, and not edited or of another version."""
    found = estimate(plan.workload)
    return (found.phases, found.peak.requested_bytes) == (plan.phases, plan.peak.requested_bytes)


def peak_of(ledger: Ledger, workload: Workload, outside_bytes: int) -> Peak:
    """Return the peak of a ledger as each layer of memory sees it.

    PyTorch's CPU allocator hands every request to the C library and takes nothing in reserve, so on the CPU all four
    numbers are the requested bytes.
    """
    if workload.device == "cpu":
        requested = ledger.peak_bytes
        return Peak(
            requested_bytes=requested, allocated_bytes=requested, reserved_bytes=requested, device_bytes=requested
        )
    settings = AllocatorSettings.parse(workload.alloc_conf)
    return replayed_peak(ledger, settings, workload.device_total_bytes, outside_bytes)


def device_curve(ledger: Ledger, settings: AllocatorSettings, total_bytes: int | None, outside_bytes: int) -> list[int]:
    """Return the bytes of a CUDA device that are taken after each birth or death: reserved, and those outside."""
    try:
        reserved = reserved_over(ledger.events, settings, total_bytes)
    except OutOfDeviceMemory:  # beyond the share of the device that the process may take: what it would need
        reserved = reserved_over(ledger.events, settings._replace(memory_fraction=1.0), total_bytes)
    return [n_bytes + outside_bytes for n_bytes in reserved]


def replayed_peak(ledger: Ledger, settings: AllocatorSettings, total_bytes: int | None, outside_bytes: int) -> Peak:
    """Return the peak of a ledger as CUDA's caching allocator makes it; ``total_bytes``: the device's memory."""
    try:
        allocator = replay(ledger.events, settings, total_bytes=total_bytes)
        reserved = allocator.peak_reserved_bytes
    except OutOfDeviceMemory:  # beyond the share of the device that the process may take: what it would need
        allocator = replay(ledger.events, settings._replace(memory_fraction=1.0), total_bytes=total_bytes)
        reserved = max(allocator.peak_reserved_bytes, 1 + (settings.allowed_bytes(total_bytes) or 0))
    return Peak(
        requested_bytes=ledger.peak_bytes,
        allocated_bytes=allocator.peak_allocated_bytes,
        reserved_bytes=reserved,
        device_bytes=reserved + outside_bytes,
    )
