"""What one call of an operator takes inside, as the tables by device tell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memplan.trace.known import mask_positions

aten = torch.ops.aten
Scratch = tuple[str, int]
"""What it is, and its bytes."""

GONE = -1
"""In place of bytes: what has this name is freed here, before the operator ends."""


class Taken(NamedTuple):
    """What one call of an operator takes inside, in the order in which it does."""

    before: tuple[tuple[Scratch, ...], ...] = ()
    """Stages, one after the other, each gone before the results are there."""
    during: tuple[Scratch, ...] = ()
    """There before the results, and until the end."""
    order: tuple[int, ...] = ()
    """Positions of the results as they are made; in order where it is empty."""
    lasting: tuple[Scratch, ...] = ()
    """There from the results on, for good."""
    after: tuple[Scratch, ...] = ()
    """Made once the results are there; what is not ``GONE`` by the end is freed then, the last first."""
    results: tuple[tuple[int, int], ...] = ()
    """Position and bytes of results whose fake has another size; 0: the result is not on the device."""


NOTHING = Taken()
Rule = Callable[[tuple[Any, ...], dict[str, Any], Any], Taken]


def n_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers, laid out densely."""
    return tensor.numel() * tensor.element_size()


def short(func: Any) -> str:
    """Return an operator's name without namespace and overload."""
    return str(func._schema.name).rpartition("::")[2]


def contiguous_copies(*operands: Any) -> tuple[Scratch, ...]:
    """Return the copies of those operands that are not contiguous."""
    copied = [some for some in operands if isinstance(some, Tensor) and not some.is_contiguous()]
    return tuple(("contiguous copy", n_bytes(tensor)) for tensor in copied)


def index(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    """A mask is made positions first."""
    found = [positions for some in args[1] if (positions := mask_positions(some)) is not None]
    return Taken(during=tuple(("positions of the mask", 8 * len(p) * len(p[0])) for p in found))
