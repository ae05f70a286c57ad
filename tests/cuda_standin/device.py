"""The stand-in device from inside Python: how often its functions were called, and how much memory it has."""

from __future__ import annotations

import ctypes
import os
from functools import cache

STALLS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "cudaMemcpyAsync to pageable memory",
    "cuCtxSynchronize",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuMemcpyDtoH",
    "cuMemcpyHtoD",
)
"""The calls for which the host waits until the device has done its work."""


def is_here() -> bool:
    """Return whether this process runs on the stand-in device: run.py started it."""
    return "libstandinblas.so" in os.environ.get("LD_PRELOAD", "")


def reset() -> None:
    """Set all counters to 0."""
    _driver().standin_reset_counters()


def read() -> dict[str, int]:
    """Return how often each call was made since the last ``reset``, by name; those never made stand there with 0."""
    driver = _driver()
    return {
        driver.standin_counter_name(which).decode(): driver.standin_counter(which)
        for which in range(driver.standin_counters())
    }


def stalls() -> dict[str, int]:
    """Return the calls since the last ``reset`` for which the host waited, by name; {}: there was none."""
    counts = read()
    return {name: counts[name] for name in STALLS if counts[name]}


def set_capacity(total_bytes: int, context_bytes: int = 0) -> None:
    """Let the device have this much memory from now on, of which ``context_bytes`` are gone beforehand."""
    driver = _driver()
    driver.standin_set_total_bytes(total_bytes)
    driver.standin_set_context_bytes(context_bytes)


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL("libcuda.so.1")
    driver.standin_counter_name.restype = ctypes.c_char_p
    driver.standin_counter.restype = ctypes.c_uint64
    driver.standin_set_total_bytes.argtypes = driver.standin_set_context_bytes.argtypes = [ctypes.c_uint64]
    return driver
