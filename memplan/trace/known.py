"""Numbers that a trace has after all: of integer and boolean tensors, which decide sizes.

Beside a fake tensor of whole numbers goes a real one, as long as all that it was computed from is whole numbers too and
it is not large: ids, edges, masks over them. So ``x[mask]``, ``.item()`` of a count and ``torch.unique`` of ids have
their true sizes. What depends on floating-point numbers is not known; a floating-point number that is asked for is 0,
and no check over such numbers finds anything: ``any`` is false, ``all`` is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
ITEM = aten._local_scalar_dense.default
EMPTY = (aten.empty.memory_format, aten.empty_strided.default, aten.new_empty.default, aten.empty_like.default)
CHECKS = {aten.any.default: False, aten.all.default: True}
SHAPED_BY_NUMBERS = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)
MOST_NUMBERS = 2**22
"""Numbers in a tensor that is kept beside its fake: 32 MiB of int64."""


class Known:
    """Runs operators on fake tensors and, where all their inputs are known whole numbers, on real ones beside them."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self.guesses = 0
        """Floating-point numbers, and checks over them, that were answered without being known."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what ``func`` returns, on fake tensors.

        Raises:
            DataDependentOutputException, DynamicOutputShapeException: it depends on numbers that are not known.
        """
        if func is ITEM:
            return self._item(func, args[0])
        if func in SHAPED_BY_NUMBERS:
            args = (args[0], [self._positions(index) for index in args[1]], *args[2:])
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        knows = all(_real_of(tensor) is not None for tensor in tensors)
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if not knows or not tensors:
                raise
            return tree_map(self._fake_of, _run_for_real(func, args, kwargs))
        fakes = [leaf for leaf in tree_leaves(out) if isinstance(leaf, FakeTensor)]
        if knows and fakes and all(_is_whole(fake) and fake.numel() <= MOST_NUMBERS for fake in fakes):
            reals = [leaf for leaf in tree_leaves(_run_for_real(func, args, kwargs)) if isinstance(leaf, Tensor)]
            if func in EMPTY:
                for real in reals:
                    real.zero_()
            for fake, real in zip(fakes, reals, strict=True):
                fake.known_numbers = real  # type: ignore[attr-defined]
        elif func._schema.is_mutable:
            for fake in fakes:
                _forget(fake)
        if func in CHECKS and not knows:
            for fake in fakes:
                fake.known_answer = CHECKS[func]  # type: ignore[attr-defined]
        return out

    def _item(self, func: Any, tensor: Tensor) -> Any:
        real = _real_of(tensor)
        if real is not None:
            return real.item()
        if getattr(tensor, "constant", None) is None:
            answer = getattr(tensor, "known_answer", 0.0 if tensor.dtype.is_floating_point else None)
            if answer is not None:
                self.guesses += 1
                return answer
        return func(tensor)

    def _positions(self, index: Any) -> Any:
        """Return a known mask as the position of its one dimension; anything else as it is."""
        if not isinstance(index, Tensor) or index.dtype not in (torch.bool, torch.uint8) or index.dim() != 1:
            return index
        real = _real_of(index)
        if real is None:
            return index
        with unset_fake_temporarily():
            positions = real.nonzero()[:, 0]
        return self._fake_of(positions, device=index.device)

    def _fake_of(self, real: Any, device: torch.device | None = None) -> Any:
        if not isinstance(real, Tensor):
            return real
        with self.mode:
            fake = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=device or real.device)
        fake.known_numbers = real  # type: ignore[attr-defined]
        return fake


def _run_for_real(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    real_args, real_kwargs = tree_map(_as_real, (args, kwargs))
    with unset_fake_temporarily(), torch.no_grad():
        return func(*real_args, **real_kwargs)


def _as_real(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _real_of(value)
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.dtype.is_floating_point and not tensor.dtype.is_complex and tensor.layout is torch.strided


def _real_of(tensor: Tensor) -> Tensor | None:
    """Return the real tensor beside a fake one, or a real tensor itself; None where it is not known."""
    if not _is_whole(tensor):
        return None
    if not isinstance(tensor, FakeTensor):
        return tensor if tensor.device.type == "cpu" else None
    real: Tensor | None = getattr(tensor, "known_numbers", None)
    if real is None or getattr(real.untyped_storage(), "is_spoilt", False):
        return None
    return real


def _forget(fake: FakeTensor) -> None:
    """Note that a tensor was overwritten by unknown numbers, for all that share its memory."""
    real: Tensor | None = getattr(fake, "known_numbers", None)
    if real is not None:
        real.untyped_storage().is_spoilt = True  # type: ignore[attr-defined]


Runner = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
