"""What PyTorch really allocates, phase by phase: on the CPU from its profiler, on CUDA from its allocator's statistics.

CPU: ``torch.profiler`` with ``profile_memory=True`` reports every allocation and free of PyTorch's CPU allocator in
bytes, temporaries inside operators included. CUDA: ``torch.cuda.memory_stats``; "requested" is what tensors asked for,
"allocated" after rounding to 512 bytes, "reserved" what the caching allocator holds from the driver.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from memplan.device.profiler import without_log_lines
from memplan.plan import Bytes

_MARK = "memplan phase: "


class Meter:
    """Records the peak of each phase while ``recording``; costs nothing otherwise."""

    def __init__(self) -> None:
        self.peaks: dict[str, Bytes] = {}
        """The highest reading of each phase, over every time that it ran while recorded."""
        self.curve: list[tuple[str, int]] = []
        """Phase and live bytes after every allocation and free, recording after recording; CPU only."""
        self.earlier_reserved_bytes = 0
        """The highest reserved bytes before the device's statistics were last reset; CUDA only."""
        self._active = False

    @contextmanager
    def recording(self, base: Iterable[Tensor] = ()) -> Iterator[None]:
        """Record the phases inside; ``base`` are the tensors that live already and keep living."""
        self._active = True
        try:
            with self._record(tensor_bytes(base)):
                yield
        finally:
            self._active = False

    def phase(self, name: str) -> AbstractContextManager[object]:
        """Mark a phase of the run."""
        return self._mark(name) if self._active else nullcontext()

    def _record(self, base_bytes: int) -> AbstractContextManager[object]:
        raise NotImplementedError

    def _mark(self, name: str) -> AbstractContextManager[object]:
        raise NotImplementedError

    def _note(self, name: str, reading: Bytes) -> None:
        self.peaks[name] = reading.largest(self.peaks.get(name))


class CpuMeter(Meter):
    """Requested bytes of PyTorch's CPU allocator."""

    @contextmanager
    def _record(self, base_bytes: int) -> Iterator[None]:
        with without_log_lines(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            yield
        assert profiler.profiler is not None
        results = profiler.profiler.kineto_results
        # At equal times a phase's start comes before the allocations inside it, and its end after them.
        timeline: list[tuple[int, int, str, int]] = []
        for event in results.events():
            if event.name() == "[memory]":
                timeline.append((event.start_ns(), 1, "", event.nbytes()))
            elif event.name().startswith(_MARK):
                name = event.name().removeprefix(_MARK)
                timeline.append((event.start_ns(), 0, name, 0))
                timeline.append((event.start_ns() + event.duration_ns(), 2, name, 0))
        live = base_bytes
        open_phases: list[str] = []
        phase_of_birth = ""
        peaks: dict[str, int] = {}
        for _, kind, name, n_bytes in sorted(timeline, key=lambda item: item[:2]):
            if kind == 0:
                open_phases.append(name)
            live += n_bytes
            for phase in open_phases:
                peaks[phase] = max(peaks.get(phase, 0), live)
            if n_bytes > 0 and open_phases:
                phase_of_birth = open_phases[-1]
            if kind == 1 and phase_of_birth:  # as the ledger has it: a free belongs to the phase of the last birth
                self.curve.append((phase_of_birth, live))
            if kind == 2:
                open_phases.remove(name)
        for phase, peak in peaks.items():
            self._note(phase, Bytes(requested_bytes=peak))

    def _mark(self, name: str) -> AbstractContextManager[object]:
        return record_function(_MARK + name)


class CudaMeter(Meter):
    """Requested, allocated and reserved bytes of PyTorch's CUDA caching allocator."""

    def __init__(self) -> None:
        super().__init__()
        torch.cuda.reset_peak_memory_stats()  # what came before, in the same process, is not this meter's

    @contextmanager
    def _record(self, base_bytes: int) -> Iterator[None]:
        del base_bytes  # the allocator counts what lives already
        yield

    @contextmanager
    def _mark(self, name: str) -> Iterator[None]:
        self.earlier_reserved_bytes = max(self.earlier_reserved_bytes, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()
        yield
        statistics = torch.cuda.memory_stats()
        self._note(
            name,
            Bytes(
                requested_bytes=statistics["requested_bytes.all.peak"],
                allocated_bytes=statistics["allocated_bytes.all.peak"],
                reserved_bytes=statistics["reserved_bytes.all.peak"],
            ),
        )


def make_meter(device: str) -> Meter:
    """Return the meter for ``device``, ``"cpu"`` or ``"cuda"``."""
    return CudaMeter() if device == "cuda" else CpuMeter()


def start_clean(device: str) -> None:
    """Give back what earlier work of this process left in the CUDA allocator: unused segments, cuBLAS's workspaces.

    A plan counts a workspace where its own work takes one, and none that was there already.
    """
    if device == "cuda":
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
