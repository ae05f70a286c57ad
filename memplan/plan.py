"""The contract between planner and trainer: a Plan goes in, a MemoryCheck comes out, both as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError, model_validator

from memplan.errors import MemplanError
from memplan.workload import Precision, Scoring, Workload, first_problem

ByteCount = Annotated[int, Field(ge=0, lt=2**63)]


class Bytes(BaseModel, frozen=True, extra="forbid"):
    """One reading of memory, from the inside out; what a device does not report is None."""

    requested_bytes: ByteCount
    """What tensors asked for."""
    allocated_bytes: ByteCount | None = None
    """After the allocator's rounding."""
    reserved_bytes: ByteCount | None = None
    """What the caching allocator holds from the driver."""
    device_bytes: ByteCount | None = None
    """Plus what lies outside the allocator (CUDA context, library handles)."""

    def largest(self, other: Bytes | None) -> Bytes:
        """Return the larger of each number."""
        if other is None:
            return self
        return Bytes(**{name: _larger(getattr(self, name), getattr(other, name)) for name in Bytes.model_fields})


def _larger(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


class Peak(BaseModel, frozen=True, extra="forbid"):
    """The highest memory of a run, each number at its own moment. On the CPU all four are the requested bytes."""

    requested_bytes: ByteCount
    allocated_bytes: ByteCount
    reserved_bytes: ByteCount
    device_bytes: ByteCount


class PhasePeak(BaseModel, frozen=True, extra="forbid"):
    """The highest requested bytes alive during one phase."""

    name: str
    peak_bytes: ByteCount


class TensorAtPeak(BaseModel, frozen=True, extra="forbid"):
    """A tensor that is alive when the requested bytes are highest."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: ByteCount
    kind: str
    """What it is for: parameters, optimizer, gradients, data, scores or temporaries."""
    phase: str
    """The phase in which it is allocated."""


class Knob(BaseModel, frozen=True, extra="forbid"):
    """A change of one setting and what it would save."""

    change: str
    """As the command line writes it."""
    saved_bytes: ByteCount
    changes_result: bool
    """Whether another model would be trained; otherwise only memory and time change."""


class DeviceCount(BaseModel, frozen=True, extra="forbid"):
    """What a number of devices comes to, for choosing one."""

    devices: int
    shards: int
    replicas: int
    device_bytes: ByteCount
    """On each, in the fastest plan that fits, or the smallest where none does."""
    budget_bytes: ByteCount
    """Of each."""
    fits: bool
    seconds_per_epoch: float | None
    """None where nothing fits."""


class Mesh(BaseModel, frozen=True, extra="forbid"):
    """The processes that train together, one a device: all other bytes of an estimate or plan are of one of them."""

    devices: int
    shards: int
    """Processes that hold the entity table between them."""
    replicas: int
    """Groups of them, which share every batch."""
    sent_bytes_per_step: ByteCount
    """What each process sends in a full step."""
    collectives_per_step: int
    nccl_bytes: ByteCount
    """What NCCL takes on each device outside the allocator: a stated number, part of the device bytes."""
    host_bytes: ByteCount
    """Host memory of the training facts' ids and filter, all processes together; at most."""
    host_building_bytes: ByteCount
    """The same while the filter is built, by numpy's temporaries."""
    replicated_bytes: ByteCount
    """What the training facts take on every device, however many there are: part of the device bytes."""
    counts: list[DeviceCount] | None = None
    """Other numbers of devices; None where the number was not the search's to choose."""


class Estimate(BaseModel, frozen=True, extra="forbid"):
    """What one workload allocates."""

    workload: Workload
    peak: Peak
    phases: list[PhasePeak]
    tensors_at_peak: list[TensorAtPeak]
    budget_bytes: ByteCount | None = None
    fits: bool | None = None
    knobs: list[Knob] | None = None
    """What each knob would save, the largest saving first; None where it was not asked for."""
    mesh: Mesh | None = None
    """None for one device."""


class Alternative(BaseModel, frozen=True, extra="forbid"):
    """A configuration that the search looked at and did not take."""

    micro_batch_size: int
    chunk_size: int
    scoring: Scoring
    shards: int = 1
    replicas: int = 1
    device_bytes: ByteCount
    seconds_per_epoch: float
    reason: str


class Choice(BaseModel, frozen=True, extra="forbid"):
    """A training that is known to pay: what it takes here, how long, and what it was measured to reach."""

    model: str
    recipe: str
    options: list[str]
    """What ``memplan train`` is told besides what was asked; nothing for the recommended one."""
    recommended: bool
    """The default recipe of the model that was asked for."""
    rank: int
    batch_size: int
    n_parameters: int
    max_epochs: int
    device_bytes: ByteCount
    """In the fastest layout that fits; where none does, what would do."""
    fits: bool
    seconds_per_epoch: float
    training_seconds: float
    """An estimate: the epochs by the cost model's seconds, validations not counted."""
    test_mrr: float | None
    """None: not measured."""
    measured_on: str
    """The dataset of ``test_mrr``."""
    measured: str
    """Where it stands, or how it was measured."""


class Plan(BaseModel, frozen=True, extra="forbid"):
    """A training run that fits: every free number chosen, and why. ``workload`` repeats them with all the rest."""

    workload: Workload
    batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    rank: int
    chunk_size: int
    scoring: Scoring
    precision: Precision
    eval_batch_size: int
    eval_chunk_size: int
    peak: Peak
    phases: list[PhasePeak]
    budget_bytes: ByteCount
    budget_source: str
    smallest_budget_bytes: ByteCount
    """What the smallest layout would take: less will not do at this batch, rank and score."""
    rank_lowered_from: int | None = None
    """The rank that was asked for, where it was given up so that something fits."""
    fits: bool
    seconds_per_epoch: float
    """By the cost model: on the CPU an estimate, on a GPU for comparing plans alone."""
    seconds_error: float | None = None
    """Nine of ten measured steps took within this share of their estimate; None: nothing was measured."""
    reason: str
    alternatives: list[Alternative]
    recipe: str | None = None
    """The recipe under its settings, whose rate and epochs it is trained with; None: the model's default one."""
    mesh: Mesh | None = None
    """None for one device."""
    choices: list[Choice] | None = None
    """What is known to pay here, by what it reached, where rank and batch were left open; None: they were not."""

    @model_validator(mode="after")
    def _agree(self) -> Plan:
        for name in (
            "batch_size",
            "micro_batch_size",
            "accumulation_steps",
            "rank",
            "chunk_size",
            "scoring",
            "precision",
            "eval_batch_size",
            "eval_chunk_size",
        ):
            here, there = getattr(self, name), getattr(self.workload, name)
            if here != there:
                raise ValueError(f"{name}: {here} here but {there} in workload; a plan is made by memplan, not by hand")
        mesh = self.mesh
        if mesh is not None and (mesh.shards, mesh.replicas) != (self.workload.shards, self.workload.replicas):
            raise ValueError("mesh: not that of workload; a plan is made by memplan, not by hand")
        return self

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Return the plan in the JSON file ``path``.

        Raises:
            MemplanError: the file cannot be read or holds no plan; names the first field that is wrong.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise MemplanError(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MemplanError(f"{path}: cannot be read as a plan: {error}") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise MemplanError(f"{path}: no plan: {first_problem(error)}") from None


class PhaseCheck(BaseModel, frozen=True, extra="forbid"):
    """Predicted against measured in a phase; ``relative_error`` is measured / predicted − 1 of the requested bytes."""

    name: str
    predicted: Bytes
    measured: Bytes
    relative_error: float


class MemoryCheck(BaseModel, frozen=True, extra="forbid"):
    """Predicted against measured for a run: per phase and for the peak over all measured phases."""

    device: str
    phases: list[PhaseCheck]
    peak: PhaseCheck

    @classmethod
    def compare(cls, device: str, phases: list[PhasePeak], peak: Peak, measured: dict[str, Bytes]) -> MemoryCheck:
        """Return the check of the phases that were measured; a phase that was not foreseen counts as predicted 0.

        Every kind that the device reports is compared for the peak; phases are compared by requested bytes.
        """
        foreseen = {phase.name: phase.peak_bytes for phase in phases}
        names = [name for name in foreseen if name in measured] + [name for name in measured if name not in foreseen]
        checks = [_check(name, Bytes(requested_bytes=foreseen.get(name, 0)), measured[name]) for name in names]
        highest: Bytes | None = None
        for name in names:
            highest = measured[name].largest(highest)
        assert highest is not None, "nothing was measured"
        # The peak over what was measured: a run without evaluation has no evaluation to compare with.
        requested_bytes = max(foreseen.get(name, 0) for name in names)
        predicted = Bytes(requested_bytes=requested_bytes)
        if highest.reserved_bytes is not None:
            predicted = Bytes(
                requested_bytes=requested_bytes,
                allocated_bytes=peak.allocated_bytes,
                reserved_bytes=peak.reserved_bytes,
            )
        return cls(device=device, phases=checks, peak=_check("peak", predicted, highest))


def _check(name: str, predicted: Bytes, measured: Bytes) -> PhaseCheck:
    if predicted.requested_bytes:
        error = measured.requested_bytes / predicted.requested_bytes - 1
    else:
        error = float(measured.requested_bytes > 0)
    return PhaseCheck(name=name, predicted=predicted, measured=measured, relative_error=error)


def to_json(model: BaseModel) -> str:
    """Return the model as indented JSON text, numbers that the device does not report left out."""
    return model.model_dump_json(indent=2, exclude_none=True)
