"""What operators' kernels take inside, beside what they return: a table by device, each entry measured.

Stages are lists of (what, bytes); ``before``: one after the other, gone before the results are there; ``during``: there
until the results are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memplan.device.target import Target
from memplan.trace.known import mask_positions
from memplan.trace.quiet import QUIET
from memplan.trace.reductions import Processor, sum_scratch_bytes

aten = torch.ops.aten
Scratch = tuple[str, int]
"""What it is, and its bytes."""


class Taken(NamedTuple):
    """What one call of an operator takes inside."""

    before: tuple[tuple[Scratch, ...], ...] = ()
    during: tuple[Scratch, ...] = ()
    after: tuple[Scratch, ...] = ()
    """There and gone once the results are there."""
    lasting: tuple[Scratch, ...] = ()
    """There from now on."""
    results: tuple[tuple[int, int], ...] = ()
    """Position and bytes of results that the device makes larger than their fake."""


NOTHING = Taken()
Rule = Callable[[tuple[Any, ...], dict[str, Any], Any], Taken]


class Inside:
    """The table for a target's device."""

    def __init__(self, target: Target) -> None:
        self.is_cpu = target.device == "cpu"
        self.rules = CPU if self.is_cpu else _cuda(Processor.of(target))
        self.workspace_bytes = 0 if self.is_cpu else target.workspace_bytes
        self._threads: set[bool] = set()
        """Whether the backward, which has a thread of its own, and the rest have a cuBLAS workspace already."""
        self.quiet = QUIET

    def of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Taken | None:
        """Return what a call takes inside; ``out``: what it returned. None where nothing was measured of it."""
        if self.workspace_bytes and short(func) in PRODUCTS:
            in_backward = torch._C._current_graph_task_id() != -1
            if in_backward not in self._threads:
                self._threads.add(in_backward)
                return Taken(lasting=(("cuBLAS workspace", self.workspace_bytes),))
        rule = self.rules.get(func)
        if rule is not None:
            return rule(args, kwargs, out)
        if torch.Tag.pointwise in func.tags:
            return _pointwise(func, args) if self.is_cpu else NOTHING
        return NOTHING if func.is_view or short(func) in self.quiet else None


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
    between: tuple[Scratch, ...] = (("gradient of the input", of_image), ("blocked gradient of the input", of_image))
    second = (
        ("gradient of the input", of_image),
        ("blocked gradient", g),
        ("blocked input", blocked_image),
        ("blocked gradient of the weight", w),
    )
    if weight.shape[2:].numel() == 1 and any(step > 1 for step in args[4]):
        between = (*between, ("gradient of the input, in order", of_image))
    return Taken((first, between, second) if of_image else (second,))


def _leading(n: int) -> int:
    """Return the row length, in float32, that oneDNN stores n numbers in: whole cache lines, off multiples of 1 KiB."""
    rounded = -(-n // 16) * 16
    return rounded + 16 if rounded % 256 == 0 else rounded


LSTM_GRADIENT = 10
"""Position of the result's gradient among the operands of ``mkldnn_rnn_layer_backward``."""


def _lstm_sizes(args: tuple[Any, ...]) -> tuple[int, int, tuple[Scratch, ...]]:
    """Return bytes of the workspace, bytes of scratch, and the reordered weights of one oneDNN LSTM layer.

    Fitted to nine shapes; the workspace is up to 1.5% too large where hidden sizes are no multiple of 16.
    """
    inputs, weight_input, weight_hidden = args[0], args[1], args[2]
    steps, batch, width = inputs.shape
    hidden = weight_hidden.shape[1]
    gates = 4 * steps * batch * _leading(4 * hidden)
    row = 8 * (steps + 1) * batch
    states = row * (3 * _leading(max(width, hidden)) + 2 * _leading(hidden))
    workspace = gates + states + 4 * steps * batch * hidden
    line = 4 * _leading(4 * hidden)
    weights = (("bias", 16 * hidden), ("input weight", weight_input.shape[1] * line), ("hidden weight", hidden * line))
    return workspace, gates + 8 * batch * _leading(hidden) + 8192, weights


def _lstm(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    workspace, scratch, weights = _lstm_sizes(args)
    return Taken(during=(*weights, ("scratch", scratch)), results=((3, workspace),))


def _lstm_backward(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    _, scratch, weights = _lstm_sizes(args)
    gradient = args[LSTM_GRADIENT]
    copied = [] if gradient is None or gradient.is_contiguous() else [("contiguous copy", n_bytes(gradient))]
    return Taken(during=(*copied, *weights, *weights[:1], ("scratch", scratch)))


# --- CPU: what ATen's own kernels make ------------------------------------------------------------------------------

WRAPPED = ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "remainder", "fmod")
"""Operators whose overload with a number makes a tensor of it, and runs as the one with two tensors."""
NUMBER_BYTES = {bool: 1, int: 8, float: 8, complex: 16}


def _pointwise(func: Any, args: tuple[Any, ...]) -> Taken:
    """Kernels of one type: an operand of another is cast first, a Python number is made a tensor first."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not tensors:
        return NOTHING
    common = _common_type([t for t in tensors if t.dtype is not torch.bool or short(func) != "where"])
    taken: list[Scratch] = []
    number = _wrapped_number(func, args)
    if number is not None:
        taken.append(("Python number", NUMBER_BYTES[type(number)]))
        if isinstance(number, float) and not common.is_floating_point:
            common = torch.get_default_dtype()
        of_number = {bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128}[type(number)]
        if of_number is not common:
            taken.append(("Python number, cast", common.itemsize))
    chooses = short(func) == "where"
    cast = [t for t in tensors if t.dtype is not common and not (chooses and t.dtype is torch.bool)]
    taken += [("operand, cast", tensor.numel() * common.itemsize) for tensor in cast]
    return Taken(during=tuple(taken))


def _wrapped_number(func: Any, args: tuple[Any, ...]) -> Any:
    """Return the Python number in a tensor's place, or None."""
    for argument, value in zip(func._schema.arguments, args, strict=False):
        in_a_tensor_s_place = isinstance(argument.type, torch.TensorType)
        in_a_number_s = func._overloadname == "Scalar" and short(func).rstrip("_") in WRAPPED
        if type(value) in NUMBER_BYTES and (in_a_tensor_s_place or (in_a_number_s and argument.name == "other")):
            return value
    return None


def _common_type(tensors: list[Tensor]) -> torch.dtype:
    """Return the type that a pointwise operator computes in: of its tensors with dimensions, where there are any."""
    some = [t for t in tensors if t.dim() > 0] or tensors
    common = some[0].dtype
    for tensor in some[1:]:
        common = torch.promote_types(common, tensor.dtype)
    for tensor in tensors:  # a lone float beside whole numbers still makes floats
        if tensor.dtype.is_floating_point and not common.is_floating_point:
            common = torch.promote_types(common, tensor.dtype)
    return common


def short(func: Any) -> str:
    """Return an operator's name without namespace and overload."""
    return str(func._schema.name).rpartition("::")[2]


def _reduction(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Taken:
    """A sum in another type casts its operand first."""
    del kwargs
    if args[0].dtype is out.dtype:
        return NOTHING
    return Taken(during=(("operand, cast", args[0].numel() * out.element_size()),))


def _contiguous_copies(*positions: int) -> Rule:
    """Return the rule of an operator that copies the operands at ``positions`` where they are not contiguous."""

    def rule(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
        copied = [args[i] for i in positions if isinstance(args[i], Tensor) and not args[i].is_contiguous()]
        return Taken(during=tuple(("contiguous copy", n_bytes(tensor)) for tensor in copied))

    return rule


def _index(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    """A mask is made positions first."""
    found = [positions for index in args[1] if (positions := mask_positions(index)) is not None]
    return Taken(during=tuple(("positions of the mask", 8 * len(p) * len(p[0])) for p in found))


def _layer_norm(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
    """Half precision with float32 weights: mean and deviation are float32."""
    copied = _contiguous_copies(0)(args, {}, out)
    weight = args[2]
    if weight is None or weight.dtype is args[0].dtype:
        return copied
    return copied._replace(results=tuple((i, out[i].numel() * weight.element_size()) for i in (1, 2)))


CPU: dict[Any, Rule] = {
    aten.mkldnn_rnn_layer.default: _lstm,
    aten.mkldnn_rnn_layer_backward.default: _lstm_backward,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _contiguous_copies(0, 1),
    aten.index.Tensor: _index,
    aten.index_put.default: _index,
    aten.index_put_.default: _index,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.sum.default: _reduction,
    aten.sum.dim_IntList: _reduction,
    aten.mean.default: _reduction,
    aten.mean.dim: _reduction,
    aten._softmax.default: _contiguous_copies(0),
    aten._log_softmax.default: _contiguous_copies(0),
    aten._softmax_backward_data.default: _contiguous_copies(0, 1),
    aten._log_softmax_backward_data.default: _contiguous_copies(0, 1),
    aten.native_batch_norm_backward.default: _contiguous_copies(0),
}


# --- CUDA: measured with PyTorch's CUDA build on the stand-in device ------------------------------------------------

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "dot", "mv", "addmv", "vdot", "addbmm", "_scaled_mm"})
"""Operators that run on cuBLAS, which takes a workspace with a thread's first product and keeps it."""


def _sum_on(processor: Processor) -> Rule:
    def rule(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
        dims = args[1] if len(args) > 1 else None
        item = 8 if out.dtype in (torch.float64, torch.int64) else 4
        scratch = sum_scratch_bytes(args[0], dims, item, processor)
        return Taken(after=(("partial sums", scratch),)) if scratch else NOTHING

    return rule


def _cuda(processor: Processor) -> dict[Any, Rule]:
    return {**CUDA, **dict.fromkeys(SUMS, _sum_on(processor))}


SUMS = (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim)
CUDA: dict[Any, Rule] = {
    aten._softmax.default: _contiguous_copies(0),
    aten._log_softmax.default: _contiguous_copies(0),
    aten._softmax_backward_data.default: _contiguous_copies(0, 1),
    aten._log_softmax_backward_data.default: _contiguous_copies(0, 1),
    aten.index.Tensor: _index,
    aten.index_put.default: _index,
    aten.index_put_.default: _index,
}
