"""Copies between host and device that nobody waits for: on CUDA through page-locked memory, in the order of the work.

PyTorch keeps the page-locked blocks and gives one out again only when the copies from it are done. On the CPU nothing
is allocated: arrays and tensors share their memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def on_host(array: npt.NDArray[Any], device: str) -> Tensor:
    """Return ``array`` as a tensor on the host that a copy to ``device`` need not wait for."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device == "cuda" else tensor


def send(array: npt.NDArray[Any], to: Tensor) -> None:
    """Start copying ``array`` to the tensor ``to``, of the same shape and type."""
    to.copy_(on_host(array, to.device.type), non_blocking=True)


def host_room(n: int, device: str) -> Tensor:
    """Return room for ``n`` float64 numbers on the host that ``device`` can write to while the host goes on."""
    if device == "cuda":
        return torch.empty(n, dtype=torch.float64, pin_memory=True)
    return torch.from_numpy(np.empty(n))
