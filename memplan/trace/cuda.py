"""What CUDA's operators take inside: measured with PyTorch's CUDA build (2.14.1) on the stand-in device as T4.

The allocator's events, in order and with requested sizes, of steps in benchmarks/trace_workloads.py and of the
operators alone on operands that are contiguous and that are not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from memplan.trace.attention import efficient_backward_on, efficient_forward
from memplan.trace.reductions import WARP, Processor, sum_scratch_bytes
from memplan.trace.taken import GONE, Rule, Scratch, Taken, contiguous_copies, index

aten = torch.ops.aten
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "dot", "mv", "addmv", "vdot", "addbmm", "_scaled_mm"})
"""Operators that run on cuBLAS, which takes a workspace with a thread's first product and keeps it."""
SHARED = {
    aten.sum.default: 1,
    aten.sum.dim_IntList: 1,
    aten.mean.default: 1,
    aten.mean.dim: 1,
    aten.amax.default: 1,
    aten.amin.default: 1,
    aten.linalg_vector_norm.default: 2,
}
"""Reductions that several blocks share, and the position of the dimensions among their arguments.

Sums, means, maxima, minima and norms of 141 random shapes, layouts and choices of dimensions are all as in
reductions.py.
"""
NORM_ROWS = 64 * 1024
"""Rows above which derivatives of a norm's weights are summed in two stages where rows are short."""
MOST_NORM_BLOCKS = 32 * 1024


def cuda_rules(processor: Processor, capability: tuple[int, int] | None) -> dict[Any, Rule]:
    """Return the table of a GPU; one whose compute capability is not known is taken for the oldest measured."""
    backward = efficient_backward_on(capability or (7, 5))
    return {
        **CUDA,
        **{operator: _shared_on(processor, position) for operator, position in SHARED.items()},
        aten.native_layer_norm_backward.default: _layer_norm_backward_on(processor),
        aten._scaled_dot_product_efficient_attention_backward.default: backward,
    }


def _partial_sums(tensor: Tensor, dims: list[int] | None, item: int, processor: Processor) -> tuple[Scratch, ...]:
    partial, counters = sum_scratch_bytes(tensor.shape, tensor.stride(), dims, item, processor)
    return (("partial sums", partial), ("counters", counters)) if partial else ()


def _shared_on(processor: Processor, position: int) -> Rule:
    def rule(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
        item = 8 if out.dtype in (torch.float64, torch.int64) else 4
        return Taken(after=_partial_sums(args[0], args[position] if len(args) > position else None, item, processor))

    return rule


def _layer_norm_backward_on(processor: Processor) -> Rule:
    """Rows that are many and short: the weights' derivatives are summed by blocks of rows, and then over blocks.

    The configuration is that of aten/src/ATen/native/cuda/layer_norm_kernel.cu; both sums' results are counted as they
    take the place of those made first.
    """

    def rule(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
        gradient, inputs, weight = args[0], args[1], args[5]
        copies = contiguous_copies(gradient)
        width = math.prod(args[2])
        rows = inputs.numel() // max(1, width)
        wanted = [out[i] for i in (1, 2) if isinstance(out[i], Tensor)]
        if rows <= NORM_ROWS or width // WARP >= processor.multiprocessors // 2 or not wanted:
            return Taken(during=contiguous_copies(inputs), after=copies)
        blocks = min(MOST_NORM_BLOCKS // -(-width // WARP), -(-rows // WARP))
        item = weight.element_size() if isinstance(weight, Tensor) else 4
        after = [*copies, *((f"sums by blocks {i}", item * blocks * width) for i, _ in enumerate(wanted))]
        partial, counters = sum_scratch_bytes((blocks, width), (width, 1), [0], 4, processor)
        for _ in wanted:
            after.append(("sum", item * width))
            if partial:
                after += [("partial sums", partial), ("counters", counters), ("counters", GONE), ("partial sums", GONE)]
            after.append(("sum", GONE))
        return Taken(during=contiguous_copies(inputs), after=tuple(after))

    return rule


def _mask_first(_args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    return Taken(order=(1, 0))


def _softmax(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    return Taken(after=contiguous_copies(args[0]))


def _safe_softmax(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> Taken:
    """Rows of which all is -inf are looked for afterwards, and filled with zeros."""
    rows = out.numel() // max(1, out.shape[args[1]])
    looked_for = (("is -inf", out.numel()), ("rows", rows), ("zero", out.element_size()))
    copies = tuple(scratch for copy in contiguous_copies(args[0]) for scratch in (copy, (copy[0], GONE)))
    return Taken(after=(*copies, *looked_for))


def _softmax_backward(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    """The product of gradient and result is made first, as they are laid out."""
    gradient, result = args[0], args[1]
    product = ("product", gradient.numel() * torch.promote_types(gradient.dtype, result.dtype).itemsize)
    as_laid_out = gradient if gradient.stride() == result.stride() else result
    return Taken(after=(product, *contiguous_copies(as_laid_out, result)))


def _log_softmax_backward(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    return Taken(after=contiguous_copies(args[0], args[1]))


def _layer_norm(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> Taken:
    return Taken(during=contiguous_copies(args[0]))


CUDA: dict[Any, Rule] = {
    aten.native_dropout.default: _mask_first,
    aten.native_layer_norm.default: _layer_norm,
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _softmax,
    aten._safe_softmax.default: _safe_softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten._scaled_dot_product_efficient_attention.default: efficient_forward,
    aten.index.Tensor: index,
    aten.index_put.default: index,
    aten.index_put_.default: index,
}
