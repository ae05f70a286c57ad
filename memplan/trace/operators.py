"""What operators' kernels take inside, beside what they return: a table by device, each entry measured.

Stages are lists of (what, bytes); ``before``: one after the other, gone before the results are there; ``during``: there
until the results are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten
Scratch = tuple[str, int]
"""What it is, and its bytes."""


class Taken(NamedTuple):
    """What one call of an operator takes inside."""

    before: tuple[tuple[Scratch, ...], ...] = ()
    during: tuple[Scratch, ...] = ()


NOTHING = Taken()
Rule = Callable[[tuple[Any, ...], dict[str, Any], Any], Taken]


class Inside:
    """The table of one device."""

    def __init__(self, device_type: str = "cpu") -> None:
        self.rules = CPU if device_type == "cpu" else {}

    def of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Taken:
        """Return what a call takes inside; ``out``: what it returned."""
        rule = self.rules.get(func)
        return NOTHING if rule is None else rule(args, kwargs, out)


def n_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers, laid out densely."""
    return tensor.numel() * tensor.element_size()


# --- CPU: oneDNN copies to and from its own blocked layouts, through PyTorch's allocator ---------------------------

PLAIN_CHANNELS = 8
"""oneDNN reads an image of up to so many channels as it is."""


def _uses_onednn(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.bfloat16)


def _convolution(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
    image, weight = args[0], args[1]
    if not _uses_onednn(image):
        return NOTHING
    copies = [("blocked copy of the weight", n_bytes(weight)), ("blocked result", n_bytes(out))]
    if image.shape[1] > PLAIN_CHANNELS:
        copies.append(("blocked copy of the input", n_bytes(image)))
    return Taken((tuple(copies),), (("blocked result", n_bytes(out)),))


def _convolution_backward(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
    gradient, image, weight = args[0], args[1], args[2]
    if not _uses_onednn(image):
        return NOTHING
    of_image = 0 if out[0] is None else n_bytes(image)
    blocked_image = n_bytes(image) if image.shape[1] > PLAIN_CHANNELS else 0
    g, w = n_bytes(gradient), n_bytes(weight)
    first = (("blocked gradient", g), ("blocked weight", w), ("blocked gradient of the input", of_image))
    between = (("gradient of the input", of_image), ("blocked gradient of the input", of_image))
    second = (
        ("gradient of the input", of_image),
        ("blocked gradient", g),
        ("blocked input", blocked_image),
        ("blocked gradient of the weight", w),
    )
    return Taken((first, between, second) if of_image else (second,), (second[1:] if False else ()))


CPU: dict[Any, Rule] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
