# Its bytes are told by memplan/memory/programs/loss.py: the log-sum-exp alone.
"""Row-wise softmax on the CPU, in place: numba kernels beside the fused L1 score's.

PyTorch's own softmax is as fast by itself. Between kernels that run in threads of ours it is not: PyTorch's OpenMP
threads keep spinning for about a millisecond after each operation and take the cores away from the next kernel.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

_FASTMATH = {"reassoc", "contract", "nsz"}

# exp(x) = 2^n · exp(r) with x = n · ln 2 + r and |r| ≤ ln 2 / 2: ln 2 in two parts, and the minimax polynomial of exp
# from Cephes' expf (Moshier, netlib.org/cephes), good to 1 unit in the last place.
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_SMALLEST = np.float32(-87.0)
_HALF, _ONE = np.float32(0.5), np.float32(1)
_C5, _C4, _C3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_C2, _C1, _C0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH, inline="always")  # pragma: no cover
def _exp(x: Any) -> Any:
    """Return exp(x) of a float32 x ≤ 0, written so that it vectorises; below −87 the result stays at exp(−87)."""
    x = _SMALLEST if x < _SMALLEST else x  # this way round, a NaN stays one
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _C0
    power = np.int32((np.int32(n) + _BIAS) << _MANTISSA_BITS).view(np.float32)
    return (p * r * r + r + _ONE) * power


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # pragma: no cover
def softmax_rows(scores: Any, log_sum_exp: Any, start: int, stop: int) -> None:
    """Turn rows ``start`` to ``stop`` of the scores into probabilities and write their log-sum-exp."""
    n = scores.shape[1]
    for b in range(start, stop):
        row = scores[b]
        largest = row[0]
        for j in range(n):
            largest = row[j] if row[j] > largest else largest
        total = np.float32(0)
        for j in range(n):
            row[j] = _exp(row[j] - largest)
            total += row[j]
        scale = _ONE / total
        for j in range(n):
            row[j] *= scale
        log_sum_exp[b] = largest + np.float32(math.log(total))


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # pragma: no cover
def log_sum_exp_rows(scores: Any, log_sum_exp: Any, start: int, stop: int) -> None:
    """Write the log-sum-exp of rows ``start`` to ``stop``; the scores stay."""
    n = scores.shape[1]
    for b in range(start, stop):
        row = scores[b]
        largest = row[0]
        for j in range(n):
            largest = row[j] if row[j] > largest else largest
        total = np.float32(0)
        for j in range(n):
            total += _exp(row[j] - largest)
        log_sum_exp[b] = largest + np.float32(math.log(total))


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # pragma: no cover
def exp_rows(scores: Any, shift: Any, start: int, stop: int) -> None:
    """Turn rows ``start`` to ``stop`` of the scores into exp(score − shift of the row)."""
    n = scores.shape[1]
    for b in range(start, stop):
        row, of_row = scores[b], shift[b]
        for j in range(n):
            row[j] = _exp(row[j] - of_row)
