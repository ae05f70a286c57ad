"""What a trace finds: the same numbers as an estimate, and how far each is to be believed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from memplan.plan import ByteCount, Peak, PhasePeak, TensorAtPeak

Way = Literal["traced", "mapped", "measured"]
"""On fake tensors of the very device; on the CPU's, which stand for CUDA's; measured over a real step on the CPU."""


class TracedStep(BaseModel, frozen=True, extra="forbid"):
    """What was traced."""

    file: str | None
    function: str
    sizes: dict[str, int]
    device: str
    way: Way
    torch: str
    """PyTorch's version."""


class TracedTensor(TensorAtPeak):
    """A tensor alive at the peak, and the line that made it."""

    line: str


class UnlistedOperator(BaseModel, frozen=True, extra="forbid"):
    """An operator of which no measurement says what its kernel takes inside."""

    name: str
    calls: int
    bound_bytes: ByteCount
    """How much higher the peak would be if each call took inside as much as its operands and results together."""


class Sources(BaseModel, frozen=True, extra="forbid"):
    """Where the bytes at the peak are from."""

    recorded_bytes: ByteCount
    """Of tensors that the trace saw."""
    table_bytes: ByteCount
    """Of what the table says that operators take inside."""
    unlisted: list[UnlistedOperator]
    """The largest bound first."""
    notes: list[str]
    """What was assumed, in words."""


class Trace(BaseModel, frozen=True, extra="forbid"):
    """What one training step allocates, with what builds it."""

    workload: TracedStep
    peak: Peak
    phases: list[PhasePeak]
    tensors_at_peak: list[TracedTensor]
    budget_bytes: ByteCount | None = None
    fits: bool | None = None
    sources: Sources


class Fit(BaseModel, frozen=True, extra="forbid"):
    """The largest size that fits, checked by a trace of it and of its neighbour."""

    name: str
    value: int
    lowest: int
    highest: int
    device_bytes: ByteCount
    next_device_bytes: ByteCount | None
    """At the next larger size, which does not fit; None where the highest size asked for fits."""
    traces: int
    effective: int | None = None
    """The size over all accumulation steps, where one was asked for."""
    accumulation_steps: int | None = None
    trace: Trace

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes as ``make_step`` takes them."""
        return {**self.trace.workload.sizes}
