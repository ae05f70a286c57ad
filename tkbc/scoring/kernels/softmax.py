"""Row-wise softmax of float32 scores, (rows, n), one program a row: each kernel reads a score as seldom as can be."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4e38)
"""Stands for the largest of no score: finite, so that a difference to it is a number even where a score is −inf."""


@triton.jit  # pragma: no cover
def _largest_and_sum(row_ptr, n, BLOCK: tl.constexpr):
    """Return max_j s_j and Σ_j exp(s_j − max), in one pass: each lane keeps its own largest score and sum."""
    largest = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n, BLOCK):
        j = first + tl.arange(0, BLOCK)
        score = tl.load(row_ptr + j, mask=j < n, other=float("-inf"))
        above = tl.maximum(largest, score)
        total = total * tl.exp(largest - above) + tl.exp(score - above)
        largest = above
    of_row = tl.max(largest, axis=0)
    return of_row, tl.sum(total * tl.exp(largest - of_row), axis=0)


@triton.jit(do_not_specialize=["n"])  # pragma: no cover
def softmax_rows(scores_ptr, log_sum_exp_ptr, n, BLOCK: tl.constexpr) -> None:
    """Turn each row into probabilities and write its log-sum-exp: two reads and one write a score."""
    row_ptr = scores_ptr + tl.program_id(0).to(tl.int64) * n
    largest, total = _largest_and_sum(row_ptr, n, BLOCK)
    tl.store(log_sum_exp_ptr + tl.program_id(0), largest + tl.log(total))
    scale = 1.0 / total
    for first in range(0, n, BLOCK):
        j = first + tl.arange(0, BLOCK)
        score = tl.load(row_ptr + j, mask=j < n)
        tl.store(row_ptr + j, tl.exp(score - largest) * scale, mask=j < n)


@triton.jit(do_not_specialize=["n"])  # pragma: no cover
def log_sum_exp_rows(scores_ptr, log_sum_exp_ptr, n, BLOCK: tl.constexpr) -> None:
    """Write the log-sum-exp of each row; the scores stay: one read a score."""
    row_ptr = scores_ptr + tl.program_id(0).to(tl.int64) * n
    largest, total = _largest_and_sum(row_ptr, n, BLOCK)
    tl.store(log_sum_exp_ptr + tl.program_id(0), largest + tl.log(total))


@triton.jit(do_not_specialize=["n"])  # pragma: no cover
def exp_rows(scores_ptr, shift_ptr, n, BLOCK: tl.constexpr) -> None:
    """Turn each row into exp(score − shift of the row): one read and one write a score."""
    row_ptr = scores_ptr + tl.program_id(0).to(tl.int64) * n
    shift = tl.load(shift_ptr + tl.program_id(0))
    for first in range(0, n, BLOCK):
        j = first + tl.arange(0, BLOCK)
        score = tl.load(row_ptr + j, mask=j < n)
        tl.store(row_ptr + j, tl.exp(score - shift), mask=j < n)
