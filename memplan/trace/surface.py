"""What user code calls that fake tensors do not stand: numpy views, modules moved, devices that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.optim import optimizer as optimizer_module
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils as foreach_utils
from torch.utils._python_dispatch import _disable_current_modes

from memplan.errors import MemplanError
from memplan.trace.known import real_of
from memplan.trace.names import Names

TO_NUMPY = (torch.Tensor.numpy, torch.Tensor.__array__)
CHECKS = {
    torch.isfinite: True,
    torch.isnan: False,
    torch.isinf: False,
    torch.Tensor.isfinite: True,
    torch.Tensor.isnan: False,
    torch.Tensor.isinf: False,
}
"""Checks of numbers, which are taken to be sound."""
FOREACH_DEVICES = "_get_foreach_kernels_supported_devices"
"""PyTorch's function that names the devices on which an optimizer is ``foreach`` by default."""


class Surface(TorchFunctionMode):
    """Stands between user code and fake tensors; ``device_type``: of the trace, ``here``: of the tensors that it makes.

    - ``tensor.numpy()`` gives known whole numbers as they are, else zeros: host code runs on memory of its own.
    - A trace for CUDA on a machine without it lets the CPU's tensors stand for CUDA's; one for the CPU refuses CUDA.
    - ``tensor.pin_memory()`` gives the tensor itself: pinned memory is the host's.
    """

    def __init__(self, names: Names, device_type: str, here: str) -> None:
        super().__init__()
        self.names = names
        self.device_type = device_type
        self.here = here
        self.arrays = 0
        """Numpy arrays of zeros that were handed out."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.names.calls += 1
        if func in TO_NUMPY:
            if isinstance(args[0], FakeTensor):
                return self._numpy(args[0])
            with _disable_current_modes():  # a real tensor's own numbers
                return func(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.cuda:
            func, args = torch.Tensor.to, (args[0], "cuda")
        if func is torch.Tensor.to:
            args = (args[0], *(self._device(value) for value in args[1:]))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": self._device(kwargs["device"])}
        out = func(*args, **kwargs)
        if func in CHECKS and real_of(args[0]) is None:
            out.known_answer = CHECKS[func]
        return out

    def _device(self, value: Any) -> Any:
        """Return the device that stands for a device; anything else as it is."""
        if not isinstance(value, str | torch.device) or not str(value).startswith("cuda"):
            return value
        if self.device_type == "cpu":
            raise MemplanError(
                f"{self.names.line()}: asks for the device {str(value)!r}, but the trace is for the CPU; name the GPU "
                "(--device T4), or leave the device out: a trace puts tensors where it is for"
            )
        return value if self.here == "cuda" else "cpu"

    def _numpy(self, tensor: FakeTensor) -> Any:
        real = real_of(tensor)
        with unset_fake_temporarily():
            if real is not None:
                return real.numpy()
        self.arrays += 1
        return np.zeros(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Move or convert a module's tensors in place, as ``nn.Module._apply`` does for tensors that are not fake."""
    if recurse:
        for child in module.children():
            _apply(child, fn)
    for parameter in module._parameters.values():
        if parameter is None:
            continue
        with torch.no_grad():
            _become(parameter, fn(parameter))
            if parameter.grad is not None:
                _become(parameter.grad, fn(parameter.grad))
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


def _become(tensor: Tensor, other: Tensor) -> None:
    if other is not tensor:
        tensor.data = other
        if isinstance(other, FakeTensor):
            tensor.fake_device = other.fake_device  # type: ignore[attr-defined]


@contextmanager
def moving_in_place() -> Iterator[None]:
    """Let modules of fake tensors be moved: PyTorch would swap their tensors, which fails while they are held."""
    before = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


@contextmanager
def foreach_as_for(device_type: str, here: str) -> Iterator[None]:
    """Let optimizers and the clipping of gradients choose ``foreach`` as they do for real tensors of the device.

    PyTorch asks for the very type of the tensors, and where no CUDA tensor is, the CPU's stand for them.
    """
    lists = (optimizer_module._foreach_supported_types, foreach_utils._foreach_supported_types)
    devices_of = getattr(optimizer_module, FOREACH_DEVICES)
    for types in lists:
        types.append(FakeTensor)
    if device_type != here:
        setattr(optimizer_module, FOREACH_DEVICES, lambda: [*devices_of(), here])
    try:
        yield
    finally:
        for types in lists:
            types.remove(FakeTensor)
        setattr(optimizer_module, FOREACH_DEVICES, devices_of)


@contextmanager
def without_compiling(names: Names) -> Iterator[None]:
    """Refuse torch.compile: which tensors a compiled step makes is decided by its compiler, which a trace does not run.

    Raises:
        MemplanError: when the user's code calls it, with the line that does.
    """

    def refuse(*_args: object, **_settings: object) -> None:
        raise MemplanError(
            f"{names.line()}: torch.compile decides itself which tensors it makes, so a compiled step is not traced; "
            "leave it out here, or measure a step with --real"
        )

    compile_function, compile_module = torch.compile, nn.Module.compile
    torch.compile, nn.Module.compile = refuse, refuse  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.compile, nn.Module.compile = compile_function, compile_module  # type: ignore[method-assign]


@contextmanager
def as_for_real_tensors(names: Names, device_type: str, here: str) -> Iterator[None]:
    """Let PyTorch's Python code do with fake tensors what it does with real ones on ``device_type``."""
    with moving_in_place(), without_compiling(names), foreach_as_for(device_type, here):
        yield
