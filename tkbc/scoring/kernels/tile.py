"""What the L1 kernels share: a tile of sums laid out for vector loads, and a sign taken by its bit."""

from __future__ import annotations

import triton
import triton.language as tl

SIGN_BIT = tl.constexpr(-(2**31))


@triton.jit  # pragma: no cover
def zero_tile(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return zeros, (ROWS, COLUMNS), 4 neighbours by 4 to a thread.

    A product of zeros computes nothing and compiles to nothing, but what it leaves has a matrix product's layout: sums
    that start from it stay 4 × 4 to a thread, which loads its operands four at a time straight to registers. The
    layout of an element-wise tile is 1 × 1: one load an operand, and a third more instructions.
    """
    left, right = tl.zeros((ROWS, 16), tl.float32), tl.zeros((16, COLUMNS), tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit  # pragma: no cover
def with_sign_of(g, difference):
    """Return g · sign(difference), broadcast: the difference's sign bit flips g's. A tie (+0) counts as +1."""
    sign = difference.to(tl.int32, bitcast=True) & SIGN_BIT
    return (g.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
