"""What CUDA's memory-efficient attention takes inside.

Measured on PyTorch's CUDA build (2.14.1) on the stand-in device as T4, RTX 3060, A100 and H100, in float32 and float16,
for 13 head sizes from 8 to 256, 4 pairs of lengths, 3 of batch and heads, with and without dropout: all 1,664 backward
workspaces are as here. The formula is that of aten/src/ATen/native/transformers/cuda/mem_eff_attention
(kernel_backward.h: workspace_size) and of its heuristic for splits (attention_backward.cu). Other compute capabilities
are taken as the one before them; bfloat16 as float16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memplan.trace.taken import GONE, Rule, Scratch, Taken, n_bytes

Capability = tuple[int, int]
LITTLE_SHARED_MEMORY = ((8, 6), (8, 9), (12, 0), (12, 1))
"""A multiprocessor's 100 KiB: too few for some kernels that compute capability 8.0 has (CUDA programming guide)."""
AMPERE: Capability = (8, 0)
ROWS, WIDE_ROWS = 64, 128
"""Queries that a block works on."""
COLUMNS = 64
"""Keys that a block works on, and numbers of a gradient's row that it makes at once."""
LOCK = 4
"""Numbers beside each block of the queries' gradient: a lock, a counter and padding."""
MOST_SPLIT = 200
"""Blocks of keys over all batches and heads, above which keys are not split where that takes memory."""
PARALLEL_ENOUGH = 256
IN_REGISTERS = 128
"""Numbers of an output's row that half precision sums in registers; longer ones take a float32 copy."""


def efficient_forward(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Taken:
    """Dropout's seed and offset are the CPU's; without dropout they are on the device, before all else."""
    query, value = args[0], args[2]
    dropout = args[5] if len(args) > 5 else kwargs.get("dropout_p", 0.0)
    after: tuple[Scratch, ...] = ()
    if query.dtype is not torch.float32 and value.shape[-1] > IN_REGISTERS:
        after = (("result in float32", 4 * out[0].numel()),)
    if dropout:
        return Taken(after=after, results=((2, 0), (3, 0)))
    return Taken(order=(2, 3, 0, 1), after=after)


def efficient_backward_on(capability: Capability) -> Rule:
    """Return the rule of the backward on a GPU of some compute capability."""

    def rule(args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any) -> Taken:
        gradient, query, key, out = args[0], args[1], args[2], args[5]
        batch, heads, queries, width = query.shape
        dropout = args[9] if len(args) > 9 else kwargs.get("dropout_p", 0.0)
        is_half = query.dtype is not torch.float32
        numbers = workspace_numbers(
            capability, is_half, bool(dropout), width, batch * heads, queries, key.shape[2],
        )  # fmt: skip
        copied = gradient.transpose(1, 2)
        return Taken(
            during=() if copied.is_contiguous() else (("contiguous copy", n_bytes(gradient)),),
            after=(
                *_deltas(out, is_half),
                ("workspace", 4 * batch * heads * numbers),
                ("delta", GONE),
            ),
        )

    return rule


def _deltas(out: Tensor, is_half: bool) -> tuple[Scratch, ...]:
    """Return what makes the sums of result times gradient, one a query: a kernel in half precision, else ATen."""
    sums = 4 * out.shape[:3].numel()
    if is_half:
        return (("delta", sums),)
    if min(out.shape[1:3]) == 1:  # queries by heads are heads by queries then
        return ("product", 4 * out.numel()), ("delta", sums), ("product", GONE)
    return ("product", 4 * out.numel()), ("sums", sums), ("delta", sums), ("sums", GONE), ("product", GONE)


def workspace_numbers(
    capability: Capability, is_half: bool, dropout: bool, width: int, batch_heads: int, queries: int, keys: int
) -> int:
    """Return the float32 numbers of the backward's workspace for one batch and head; ``width``: of a head."""
    is_small = capability < AMPERE or capability in LITTLE_SHARED_MEMORY
    rows, columns, keeps_sums = ROWS, COLUMNS, False
    if width > COLUMNS and is_half:
        rows, keeps_sums = WIDE_ROWS, width > IN_REGISTERS
        if capability in LITTLE_SHARED_MEMORY and width <= IN_REGISTERS and (width > 96 or dropout):
            rows, keeps_sums = ROWS, True
        elif not is_small and width <= IN_REGISTERS:
            columns = WIDE_ROWS
    elif width > COLUMNS and not is_small:
        rows = WIDE_ROWS
    numbers = -(-queries // rows) * -(-width // columns) * (rows * columns + LOCK)
    if keeps_sums:  # of the gradients of keys and values, by splits of the keys
        splits = -(-keys // COLUMNS)
        if batch_heads >= PARALLEL_ENOUGH and keys <= 2 * COLUMNS:
            splits = 1
        splits = max(1, min(splits, MOST_SPLIT // batch_heads))
        numbers += 2 * splits * COLUMNS * -(-width // rows) * rows
    return numbers
