"""Numbers that a trace has after all: those of data, which decide sizes.

Beside a fake tensor goes a real one where its numbers come from data, from Python or numpy, or are whole numbers made
by arange, randint and their kin, and it is not large: ids, edges, labels, masks over them. So ``x[mask]``, ``.item()``
of a count and ``torch.unique`` of ids have their true sizes. What depends on parameters or other random numbers is not
known; a floating-point number that is asked for is 0, and no check over such numbers finds anything: ``any`` is false,
``all`` and ``isfinite`` are true.
"""

from __future__ import annotations

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
FILLED = (aten.zeros.default, aten.ones.default, aten.full.default)
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
            args = (args[0], [position for index in args[1] for position in self._positions(index)], *args[2:])
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        knows = all(real_of(tensor) is not None for tensor in tensors)
        try:
            out = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if not knows or not tensors:
                raise
            return tree_map(self._fake_of, _run_for_real(func, args, kwargs))
        fakes = [leaf for leaf in tree_leaves(out) if isinstance(leaf, FakeTensor)]
        is_data = bool(tensors) or func in FILLED
        if knows and fakes and all((is_data or _is_whole(f)) and f.numel() <= MOST_NUMBERS for f in fakes):
            reals = [leaf for leaf in tree_leaves(_run_for_real(func, args, kwargs)) if isinstance(leaf, Tensor)]
            if func in EMPTY:
                for real in reals:
                    real.zero_()
            for fake, real in zip(fakes, reals, strict=True):
                fake.known_numbers = real  # type: ignore[attr-defined]
        elif func._schema.is_mutable:
            written = _written(func, args, kwargs)
            if knows and not fakes and all(real_of(tensor) is not None for tensor in written):
                _run_for_real(func, args, kwargs)
            else:
                for tensor in written:
                    _forget(tensor)
        if func in CHECKS and not knows:
            for fake in fakes:
                fake.known_answer = CHECKS[func]  # type: ignore[attr-defined]
        return out

    def _item(self, func: Any, tensor: Tensor) -> Any:
        real = real_of(tensor)
        if real is not None:
            with unset_fake_temporarily():
                return real.item()
        if getattr(tensor, "constant", None) is None:
            answer = getattr(tensor, "known_answer", 0.0 if tensor.dtype.is_floating_point else None)
            if answer is not None:
                self.guesses += 1
                return answer
        return func(tensor)

    def _positions(self, index: Any) -> list[Any]:
        """Return a known mask as the positions of its dimensions; anything else as it is."""
        positions = mask_positions(index)
        return [index] if positions is None else [self._fake_of(some, device=index.device) for some in positions]

    def _fake_of(self, real: Any, device: torch.device | None = None) -> Any:
        if not isinstance(real, Tensor):
            return real
        with self.mode:
            fake = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=device or real.device)
        fake.known_numbers = real  # type: ignore[attr-defined]
        return fake


def mask_positions(index: Any) -> tuple[Tensor, ...] | None:
    """Return the positions that a mask selects, one tensor a dimension; None where it is no mask or is not known."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.bool, torch.uint8):
        return None
    real = real_of(index)
    if real is None:
        return None
    with unset_fake_temporarily():
        return tuple(real.nonzero().unbind(1))


def _run_for_real(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    real_args, real_kwargs = tree_map(_as_real, (args, kwargs))
    with unset_fake_temporarily(), torch.no_grad():
        return func(*real_args, **real_kwargs)


def _as_real(value: Any) -> Any:
    if isinstance(value, Tensor):
        return real_of(value)
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _is_whole(tensor: Tensor) -> bool:
    return not tensor.dtype.is_floating_point and not tensor.dtype.is_complex


def real_of(tensor: Tensor) -> Tensor | None:
    """Return the real tensor beside a fake one, or a real tensor itself; None where it is not known."""
    if tensor.layout is not torch.strided or tensor.requires_grad:
        return None
    if not isinstance(tensor, FakeTensor):
        return tensor if tensor.device.type == "cpu" else None
    real: Tensor | None = getattr(tensor, "known_numbers", None)
    if real is None or getattr(real.untyped_storage(), "is_spoilt", False):
        return None
    return real


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors that an operator writes to, by its schema."""
    arguments = func._schema.arguments
    values = [args[i] if i < len(args) else kwargs.get(argument.name) for i, argument in enumerate(arguments)]
    written = [v for a, v in zip(arguments, values, strict=True) if a.alias_info is not None and a.alias_info.is_write]
    return [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]


def _forget(fake: Tensor) -> None:
    """Note that a tensor was overwritten by unknown numbers, for all that share its memory."""
    real: Tensor | None = getattr(fake, "known_numbers", None)
    if real is not None:
        real.untyped_storage().is_spoilt = True  # type: ignore[attr-defined]
