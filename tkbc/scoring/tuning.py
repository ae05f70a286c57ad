"""Choosing a kernel's block sizes by timing a few stated ones, once a device and shape; the choice is kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path


class Blocks(NamedTuple):
    """What one program of a kernel holds at once, and its warps of 32 threads."""

    queries: int
    entities: int
    dimensions: int
    warps: int


DEFAULT = Blocks(8, 32, 16, 4)
"""Taken where nothing is timed. Its differences are 8 × 32 × 16 floats: 32 registers a thread."""
CANDIDATES: tuple[Blocks, ...] = (
    DEFAULT,
    Blocks(16, 32, 8, 4),
    Blocks(8, 64, 8, 4),
    Blocks(16, 64, 4, 4),
    Blocks(16, 64, 8, 8),
    Blocks(4, 64, 16, 4),
)
"""16 to 32 registers of differences a thread, flat to deep: what else a kernel needs still fits a Turing GPU's 255."""

Timer = Callable[[Callable[[], None]], float]
"""Returns what a call takes on the device, in seconds."""


def choose(key: str, run: Callable[[Blocks], None], timer: Timer, candidates: Sequence[Blocks] = CANDIDATES) -> Blocks:
    """Return the fastest of ``candidates`` for ``run``, from the cache where ``key`` was timed before.

    ``key`` names all that the times depend on: device, versions, kernel and shape. A file that is damaged, or from
    other candidates, counts as none.
    """
    path = user_cache_path("tkbc") / "kernel-blocks.json"
    known = _read(path)
    found = known.get(key)
    if found is not None and Blocks(*found) in candidates:
        return Blocks(*found)
    best = min(candidates, key=lambda blocks: timer(lambda: run(blocks)))
    _write(path, {**known, key: list(best)})
    return best


def cuda_seconds(work: Callable[[], None]) -> float:
    """Return the least of a few calls' seconds on the current CUDA device, after calls that compile and warm up."""
    import torch

    for _ in range(2):
        work()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(min(times))


def size_class(n: int) -> int:
    """Return the power of two at or above n: shapes of one class share a choice."""
    return 1 << max(0, n - 1).bit_length()


def _read(path: Path) -> dict[str, list[int]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, list) and len(value) == len(DEFAULT)}


def _write(path: Path, known: dict[str, list[int]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        pass  # no place to keep it: it will be timed again
