"""Trace a step: the ledger that it writes on fake tensors, and what follows from that."""

from __future__ import annotations

import gc
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch

from memplan.device.target import Target, resolve
from memplan.errors import UsageError
from memplan.memory.cuda.environment import from_environment
from memplan.memory.ledger import Ledger
from memplan.plan import Peak, PhasePeak
from memplan.prediction.estimate import device_curve, replayed_peak
from memplan.trace.as_cuda import cuda_ways
from memplan.trace.known import Known
from memplan.trace.loading import FUNCTION, MakeStep, errors_told
from memplan.trace.names import Names
from memplan.trace.operators import Inside
from memplan.trace.recorder import IS_SCRATCH, Recorder, TracedTensors
from memplan.trace.result import Sources, Trace, TracedStep, TracedTensor, UnlistedOperator, Way
from memplan.trace.surface import Surface, as_for_real_tensors
from memplan.units import format_bytes
from memplan.workload.alloc_conf import AllocatorSettings

STEPS = 3
"""The first makes the optimizer's state and the gradients, the second meets them, the third repeats the second."""


class Recorded(NamedTuple):
    """A ledger with what was noticed while it was written."""

    ledger: Ledger
    first_step_events: int
    """Events of setup and the first step."""
    way: Way
    unlisted: list[UnlistedOperator]
    notes: list[str]

    def first_step(self) -> Ledger:
        """Return setup and the first step alone."""
        ledger = self.ledger.copy()
        ledger.events = ledger.events[: self.first_step_events]
        return ledger


def trace(
    make_step: MakeStep,
    sizes: dict[str, int] | None = None,
    *,
    device: str | None = None,
    budget: str | int | None = None,
    alloc_conf: str | None = None,
    steps: int = STEPS,
) -> Trace:
    """Return what a training step allocates, without running it for real.

    ``make_step(**sizes)`` builds model, optimizer and inputs and returns a function that takes one step. ``device``,
    ``budget``: as ``memplan estimate`` takes them.

        >>> def make_step(batch_size: int = 64):
        ...     model, x = nn.Linear(100, 10), torch.randn(batch_size, 100)
        ...     optimizer = torch.optim.Adam(model.parameters())
        ...     def step():
        ...         optimizer.zero_grad()
        ...         model(x).square().mean().backward()
        ...         optimizer.step()
        ...     return step
        >>> trace(make_step, {"batch_size": 256}, device="T4").peak.reserved_bytes

    Raises:
        MemplanError: the step cannot be traced; the message names file, line and what stood in the way.
    """
    target = resolve(device, None if budget is None else str(budget))
    return result_of(make_step, sizes or {}, target, alloc_conf, record(make_step, sizes, target, steps=steps))


def assert_fits(
    make_step: MakeStep, budget: str | int, sizes: dict[str, int] | None = None, *, device: str = "cpu"
) -> Trace:
    """Assert, in a test, that a step fits a budget such as ``"8GiB"``; return its trace.

    Raises:
        AssertionError: it does not; the message names the largest tensors at the peak.
        MemplanError: it cannot be traced.
    """
    found = trace(make_step, sizes, device=device, budget=budget)
    if not found.fits:
        largest = ", ".join(f"{t.name} {format_bytes(t.bytes)}" for t in found.tensors_at_peak[:3])
        raise AssertionError(
            f"the step takes {format_bytes(found.peak.device_bytes)}, {format_bytes(found.budget_bytes or 0)} are "
            f"allowed; largest at the peak: {largest}"
        )
    return found


def record(make_step: MakeStep, sizes: dict[str, int] | None, target: Target, *, steps: int = STEPS) -> Recorded:
    """Return the ledger of what ``make_step`` builds and of its first steps.

    Raises:
        MemplanError: the step cannot be traced.
    """
    check_sizes(make_step, sizes or {})
    user_file = inspect.getsourcefile(inspect.unwrap(make_step)) if inspect.isfunction(make_step) else None
    here = "cuda" if target.device == "cuda" and torch.cuda.is_available() else "cpu"
    ledger = Ledger(target.device)
    names = Names(user_file)
    mode = TracedTensors(allow_non_fake_inputs=True)
    known = Known(mode)
    surface = Surface(names, target.device, here)
    recorder = Recorder(ledger, names, Inside(target), known, here)
    names.on_gradients = recorder.claim
    first_step_events = 0
    gc.collect()  # what an earlier trace left in cycles would die, unseen, in the middle of this one
    ways = nullcontext() if here == target.device else cuda_ways(target.capability)
    with _quietly(), ways, mode, names, recorder, as_for_real_tensors(names, target.device, here), surface:
        with errors_told(user_file, FUNCTION), torch.device("cuda") if here == "cuda" else nullcontext():
            step = make_step(**(sizes or {}))
        if not callable(step):
            raise UsageError(f"{FUNCTION} returned {type(step).__name__}; it returns a function that takes one step")
        recorder.claim()
        for number in range(steps):
            names.next_step()
            with errors_told(user_file, "step"):
                step()
            recorder.claim()
            if number == 0:
                first_step_events = len(ledger.events)
    way: Way = "traced" if here == target.device else "mapped"
    return Recorded(ledger, first_step_events, way, recorder.unlisted(), _notes(way, known, surface))


def check_sizes(make_step: MakeStep, sizes: dict[str, int]) -> None:
    """Check that ``make_step`` takes the sizes.

    Raises:
        UsageError: it has no such argument, or wants one that is not given.
    """
    signature = inspect.signature(make_step)
    try:
        signature.bind(**sizes)
    except TypeError as error:
        raise UsageError(f"{FUNCTION}{signature}: {error}; give sizes as --size NAME=NUMBER") from None


def result_of(
    make_step: MakeStep, sizes: dict[str, int], target: Target, alloc_conf: str | None, recorded: Recorded
) -> Trace:
    """Return what a ledger says for a target."""
    ledger = recorded.ledger
    peak = peak_of(ledger, target, alloc_conf)
    alive = ledger.alive_at_peak()
    in_table = sum(a.n_bytes for a in alive if getattr(a, "line", "") == IS_SCRATCH)
    return Trace(
        workload=TracedStep(
            file=inspect.getsourcefile(make_step) if inspect.isfunction(make_step) else None,
            function=getattr(make_step, "__name__", type(make_step).__name__),
            sizes=sizes,
            device=target.name,
            way=recorded.way,
            torch=torch.__version__,
        ),
        peak=peak,
        phases=[PhasePeak(name=name, peak_bytes=n_bytes) for name, n_bytes in ledger.phase_peaks.items()],
        tensors_at_peak=[
            TracedTensor(
                name=a.name, shape=a.shape, dtype=a.dtype, bytes=a.n_bytes, kind=a.kind, phase=a.phase,
                line=getattr(a, "line", ""),
            )
            for a in alive
        ],
        budget_bytes=target.budget_bytes,
        fits=peak.device_bytes <= target.budget_bytes,
        sources=Sources(
            recorded_bytes=ledger.peak_bytes - in_table,
            table_bytes=in_table,
            unlisted=recorded.unlisted,
            notes=recorded.notes,
        ),
    )  # fmt: skip


def peak_of(ledger: Ledger, target: Target, alloc_conf: str | None = None) -> Peak:
    """Return the peak of a ledger as each layer of memory sees it."""
    requested = ledger.peak_bytes
    if target.device == "cpu":
        return Peak(
            requested_bytes=requested, allocated_bytes=requested, reserved_bytes=requested, device_bytes=requested
        )
    return replayed_peak(ledger, *_allocator(target, alloc_conf), target.outside_bytes)


def taken_of_device(ledger: Ledger, target: Target, alloc_conf: str | None = None) -> list[int]:
    """Return the device's bytes that are taken after each birth or death of a ledger; none on the CPU."""
    if target.device == "cpu":
        return []
    return device_curve(ledger, *_allocator(target, alloc_conf), target.outside_bytes)


def _allocator(target: Target, alloc_conf: str | None) -> tuple[AllocatorSettings, int | None]:
    """Return the allocator's settings, and the device's memory where they go by it."""
    try:
        settings = AllocatorSettings.parse(from_environment() if alloc_conf is None else alloc_conf)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return settings, target.total_bytes if settings.go_by_total else None


def _notes(way: Way, known: Known, surface: Surface) -> list[str]:
    notes = []
    if way == "mapped":
        notes.append(
            "no CUDA device here, so tensors of the CPU stood for CUDA's: dropout, attention, autocast's casts and "
            "foreach were CUDA's; convolutions, recurrent layers and code that asks for its tensors' device were not"
        )
    if known.guesses:
        notes.append(
            f"{known.guesses} numbers or checks over numbers were asked for and not known: 0, and nothing found"
        )
    if surface.arrays:
        notes.append(
            f"{surface.arrays} numpy arrays were handed out as zeros; what host code makes of them is not seen"
        )
    return notes


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep warnings about fake tensors and inner details from the user, who cannot change them."""
    log = logging.getLogger("torch._subclasses.fake_tensor")  # tells an operator's error with its traceback, too
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
