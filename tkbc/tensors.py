"""The step's tensors: PyTorch's, where it trains, or ghosts, where a ledger records what it would allocate.

Code that is written over them imports its ``torch`` from here. It reads and is checked as PyTorch, and needs PyTorch
only once it is given PyTorch's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from memplan.memory.ghost import Ghost, named
from memplan.memory.ledger import DType

__all__ = ["each", "in_any_order", "named", "of_type", "positions_in", "torch"]

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class _Torch:
        """``torch.…(tensor, …)``, taken from the library that made the first tensor."""

        def __init__(self, *path: str) -> None:
            self._path = path

        def __getattr__(self, name: str) -> Any:
            if name in {"linalg", "nn", "utils"}:
                found: Any = _Torch(*self._path, name)
            else:
                found = partial(_call, attrgetter(".".join((*self._path, name))))
            setattr(self, name, found)
            return found

    def _call(function_of: Callable[[Any], Any], first: Any, *others: Any, **options: Any) -> Any:
        library = library_of(first[0] if isinstance(first, list) else first)
        return function_of(library)(first, *others, **options)

    torch = _Torch()


def library_of(tensor: Any) -> Any:
    """Return what makes tensors like ``tensor``: ``torch``, or the ghost's own library."""
    if isinstance(tensor, Ghost):
        return tensor.library
    import torch as found

    return found


def of_type(tensor: Tensor, dtype: DType) -> torch.dtype:
    """Return the type of that name as the tensor's library has it."""
    found: torch.dtype = getattr(library_of(tensor), dtype)
    return found


def each(starts: range, tensor: Tensor) -> Sequence[int]:
    """Return where the parts of a loop over ``tensor`` begin, all of one size but the last.

    Of ghosts, the first, and the last where it is shorter: others allocate what the first does.
    """
    if not isinstance(tensor, Ghost) or not starts:
        return starts
    is_ragged = len(starts) > 1 and starts.stop - starts[-1] < starts.step
    return [starts[0], starts[-1]] if is_ragged else [starts[0]]


@contextmanager
def in_any_order(tensor: Tensor) -> Iterator[None]:
    """Let writes by index into ``tensor`` come in any order inside, also where only deterministic algorithms run.

    For writes that give the same in every order: PyTorch would sort their indices all the same, which takes memory in
    the middle of an update.
    """
    if isinstance(tensor, Ghost):
        ghosts = tensor.library
        before, ghosts.deterministic = ghosts.deterministic, False
        yield
        ghosts.deterministic = before
        return
    found = library_of(tensor)
    if not found.are_deterministic_algorithms_enabled():
        yield
        return
    warn_only = found.is_deterministic_algorithms_warn_only_enabled()
    found.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        found.use_deterministic_algorithms(True, warn_only=warn_only)


def positions_in(ids: Tensor, start: int, n: int) -> tuple[Tensor, Tensor]:
    """Return where ids stand in the ``n`` rows or columns from ``start`` on, and whether they stand there.

    Shapes:
        ids: (b,) of whole numbers; returns positions clamped to the piece, (b,) of the ids' type, and (b,) bool.
    """
    position = named("positions of ids in a piece", ids - start)
    not_before = named("ids at or after the start", position >= 0)
    inside = named("ids inside the piece", not_before & named("ids before the end", position < n))
    return position.clamp_(0, n - 1), inside
