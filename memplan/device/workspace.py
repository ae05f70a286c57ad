"""The workspace that cuBLAS takes inside PyTorch's caching allocator: how large, by device and environment."""

from __future__ import annotations

import re

KIB = 2**10
TURING_WORKSPACE = ":4096:2:16:8"
HOPPER_WORKSPACE = ":4096:8"
"""PyTorch's cuBLAS workspaces before and from compute capability 9.0 on, written as CUBLAS_WORKSPACE_CONFIG is."""
WORKSPACE_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACE = ":4096:8"
"""What ``--deterministic`` sets where the user has set nothing: cuBLAS repeats itself with it."""


def workspace_bytes(capability: tuple[int, int] | None, config: str | None) -> int:
    """Return the workspace that cuBLAS takes inside the caching allocator with a thread's first product.

    ``capability``: of the device; None counts as older than Hopper. ``config``: CUBLAS_WORKSPACE_CONFIG, if it is set:
    pairs ``:KiB:count``, added up; where there is no pair in it PyTorch takes its own default. One workspace for each
    thread and stream that multiplies; a run multiplies on one.

    Measured with PyTorch 2.14 for 7.0 to 12.1: 8,519,680 bytes below 9.0, 33,554,432 from there on.
    """
    default = HOPPER_WORKSPACE if capability is not None and capability >= (9, 0) else TURING_WORKSPACE
    pairs = re.findall(r":(\d+):(\d+)", config or "") or re.findall(r":(\d+):(\d+)", default)
    return sum(int(size) * KIB * int(count) for size, count in pairs)
