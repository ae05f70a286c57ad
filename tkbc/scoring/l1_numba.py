"""The weighted L1 score on the CPU, fused: numba kernels that never build a (b, ·, d) tensor.

The entities are cut into one span a thread and each span into tiles. A tile's rows are copied transposed, (d, tile), so
that the inner loops run over neighbouring entities and vectorise without horizontal sums. The backward recomputes each
difference once for all three gradients and takes four queries a pass, so that the tile's gradient is loaded and stored
once for the four. A thread owns its span of entities, hence writes their gradient alone; the gradient of the queries is
summed over threads in a fixed order, so that equal threads give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from tkbc.scoring.l1_cpu import L1OnCpu
from tkbc.scoring.softmax_numba import exp_rows, log_sum_exp_rows, softmax_rows
from tkbc.scoring.softmax_torch import TorchSoftmax

# Reordering sums and contracting multiply-adds is safe here; assuming that no NaN occurs is not, since a diverged run
# must show its NaN.
_FASTMATH = {"reassoc", "contract", "nsz"}
SCORES_A_THREAD = 2**18
"""Scores whose softmax takes a fraction of a millisecond: fewer stay with the thread that has them."""
_SIGN_BIT = np.int32(-(2**31))


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # pragma: no cover
def _forward(a: Any, w: Any, e: Any, out: Any, start: int, stop: int, packed: Any) -> None:
    n_queries, rank = a.shape
    tile = packed.shape[1]
    whole = rank - rank % 4
    zero = np.float32(0)
    for first in range(start, stop, tile):
        last = min(stop, first + tile)
        width = last - first
        for k in range(rank):
            row = packed[k]
            for j in range(width):
                row[j] = e[first + j, k]
        # Two queries and four terms a pass: eight terms for two loads and two stores of scores, four loads of entities.
        for b in range(0, n_queries - 1, 2):
            o, o_ = out[b, first:last], out[b + 1, first:last]
            for j in range(width):
                o[j] = zero
                o_[j] = zero
            for k in range(0, whole, 4):
                a0, a1, a2, a3 = a[b, k], a[b, k + 1], a[b, k + 2], a[b, k + 3]
                w0, w1, w2, w3 = w[b, k], w[b, k + 1], w[b, k + 2], w[b, k + 3]
                a0_, a1_, a2_, a3_ = a[b + 1, k], a[b + 1, k + 1], a[b + 1, k + 2], a[b + 1, k + 3]
                w0_, w1_, w2_, w3_ = w[b + 1, k], w[b + 1, k + 1], w[b + 1, k + 2], w[b + 1, k + 3]
                p0, p1, p2, p3 = packed[k], packed[k + 1], packed[k + 2], packed[k + 3]
                for j in range(width):
                    x0, x1, x2, x3 = p0[j], p1[j], p2[j], p3[j]
                    o[j] -= (abs(a0 - w0 * x0) + abs(a1 - w1 * x1)) + (abs(a2 - w2 * x2) + abs(a3 - w3 * x3))
                    o_[j] -= (abs(a0_ - w0_ * x0) + abs(a1_ - w1_ * x1)) + (abs(a2_ - w2_ * x2) + abs(a3_ - w3_ * x3))
            for k in range(whole, rank):
                a0, w0, a0_, w0_, p0 = a[b, k], w[b, k], a[b + 1, k], w[b + 1, k], packed[k]
                for j in range(width):
                    o[j] -= abs(a0 - w0 * p0[j])
                    o_[j] -= abs(a0_ - w0_ * p0[j])
        if n_queries % 2:
            b = n_queries - 1
            o = out[b, first:last]
            for j in range(width):
                o[j] = zero
            for k in range(rank):
                a0, w0, p0 = a[b, k], w[b, k], packed[k]
                for j in range(width):
                    o[j] -= abs(a0 - w0 * p0[j])


def _signed(g: Any, difference: Any) -> Any:
    """Return g · sign(difference). A tie (a difference of +0) counts as +1, one of the valid subgradients.

    PyTorch's abs takes 0 there.
    """
    return math.copysign(1.0, difference) * g


@overload(_signed, inline="always")  # pragma: no cover
def _overload_signed(g: Any, difference: Any) -> Callable[[Any, Any], Any]:  # noqa: ARG001 - numba hands over types
    if g == numba.float32:
        # The difference's sign bit flips g's: one instruction instead of two, and a sixth less time in all.
        def flip(g: Any, difference: Any) -> Any:
            sign = np.float32(difference).view(np.int32) & _SIGN_BIT
            return np.int32(np.float32(g).view(np.int32) ^ sign).view(np.float32)

        return flip

    def multiply(g: Any, difference: Any) -> Any:
        return math.copysign(1.0, difference) * g

    return multiply


@numba.njit(nogil=True, cache=True, fastmath=_FASTMATH)  # pragma: no cover
def _backward(
    a: Any,
    w: Any,
    e: Any,
    g: Any,
    grad_a: Any,
    grad_w: Any,
    grad_e: Any,
    start: int,
    stop: int,
    packed: Any,
    grads: Any,
) -> None:
    n_queries, rank = a.shape
    tile = packed.shape[1]
    whole = n_queries - n_queries % 4
    zero = np.float32(0)
    for first in range(start, stop, tile):
        last = min(stop, first + tile)
        width = last - first
        for k in range(rank):
            row = packed[k]
            grad_row = grads[k]
            for j in range(width):
                row[j] = e[first + j, k]
                grad_row[j] = zero
        for b in range(0, whole, 4):
            g0, g1, g2, g3 = g[b, first:last], g[b + 1, first:last], g[b + 2, first:last], g[b + 3, first:last]
            for k in range(rank):
                a0, a1, a2, a3 = a[b, k], a[b + 1, k], a[b + 2, k], a[b + 3, k]
                w0, w1, w2, w3 = w[b, k], w[b + 1, k], w[b + 2, k], w[b + 3, k]
                p, q = packed[k], grads[k]
                sa0, sa1, sa2, sa3 = zero, zero, zero, zero
                sw0, sw1, sw2, sw3 = zero, zero, zero, zero
                for j in range(width):
                    x = p[j]
                    t0 = _signed(g0[j], a0 - w0 * x)
                    t1 = _signed(g1[j], a1 - w1 * x)
                    t2 = _signed(g2[j], a2 - w2 * x)
                    t3 = _signed(g3[j], a3 - w3 * x)
                    sa0 += t0
                    sa1 += t1
                    sa2 += t2
                    sa3 += t3
                    sw0 += t0 * x
                    sw1 += t1 * x
                    sw2 += t2 * x
                    sw3 += t3 * x
                    q[j] += (t0 * w0 + t1 * w1) + (t2 * w2 + t3 * w3)
                grad_a[b, k] -= sa0
                grad_a[b + 1, k] -= sa1
                grad_a[b + 2, k] -= sa2
                grad_a[b + 3, k] -= sa3
                grad_w[b, k] += sw0
                grad_w[b + 1, k] += sw1
                grad_w[b + 2, k] += sw2
                grad_w[b + 3, k] += sw3
        for b in range(whole, n_queries):
            g0 = g[b, first:last]
            for k in range(rank):
                a0, w0 = a[b, k], w[b, k]
                p, q = packed[k], grads[k]
                sa0, sw0 = zero, zero
                for j in range(width):
                    x = p[j]
                    t0 = _signed(g0[j], a0 - w0 * x)
                    sa0 += t0
                    sw0 += t0 * x
                    q[j] += t0 * w0
                grad_a[b, k] -= sa0
                grad_w[b, k] += sw0
        for j in range(width):
            for k in range(rank):
                grad_e[first + j, k] += grads[k, j]


class NumbaL1(L1OnCpu):
    """−Σ_k |a_k − w_k e_k| and its gradients on the CPU, ``threads`` spans of entities at a time."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # Kernels release the GIL; plain threads avoid numba's threading layers and their start-up and fork rules.
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="l1") if threads > 1 else None

    def _forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor, packed: Tensor) -> None:
        a_, w_, e_, out_, packed_ = (t.detach().numpy() for t in (*query, entities, out, packed))

        def work(part: int, start: int, stop: int) -> None:
            _forward(a_, w_, e_, out_, start, stop, packed_[part])

        self._run(work, len(entities), len(packed))

    def _backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
        scratch: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        a_, w_, e_, g_, grad_e_ = (t.detach().numpy() for t in (*query, entities, grad_scores, grad_entities))
        packed_, packed_grads_, others_ = (t.numpy() for t in scratch)
        grad_a_, grad_w_ = (t.numpy() for t in grad_query)
        parts = len(packed_)

        def work(part: int, start: int, stop: int) -> None:
            if part == 0:
                to_a, to_w = grad_a_, grad_w_
            else:
                to_a, to_w = others_[0, part - 1], others_[1, part - 1]
                to_a.fill(0)
                to_w.fill(0)
            _backward(a_, w_, e_, g_, to_a, to_w, grad_e_, start, stop, packed_[part], packed_grads_[part])

        self._run(work, len(entities), parts)
        # In numpy, not PyTorch, whose threads would go on spinning into the kernel's time (softmax_numba says more).
        for part in range(parts - 1):
            np.add(grad_a_, others_[0, part], out=grad_a_)
            np.add(grad_w_, others_[1, part], out=grad_w_)

    def softmax_(self, scores: Tensor) -> Tensor:
        """Turn each row of the scores into probabilities, in place; return its log-sum-exp, (b,)."""
        if scores.dtype != torch.float32:
            return TorchSoftmax().softmax_(scores)
        log_sum_exp = super().softmax_(scores)
        scores_, log_sum_exp_ = scores.numpy(), log_sum_exp.numpy()
        self._rows(lambda _, start, stop: softmax_rows(scores_, log_sum_exp_, start, stop), scores)
        return log_sum_exp

    def log_sum_exp_(self, scores: Tensor) -> Tensor:
        """Return each row's log-sum-exp, (b,); the scores stay (in float32)."""
        if scores.dtype != torch.float32:
            return scores.logsumexp(1)
        log_sum_exp = super().log_sum_exp_(scores)
        scores_, log_sum_exp_ = scores.numpy(), log_sum_exp.numpy()
        self._rows(lambda _, start, stop: log_sum_exp_rows(scores_, log_sum_exp_, start, stop), scores)
        return log_sum_exp

    def exp_(self, scores: Tensor, shift: Tensor) -> None:
        """Turn the scores into exp(score − shift of its row), in place."""
        if scores.dtype != torch.float32:
            TorchSoftmax().exp_(scores, shift)
            return
        scores_, shift_ = scores.numpy(), shift.numpy()
        self._rows(lambda _, start, stop: exp_rows(scores_, shift_, start, stop), scores)

    def _rows(self, work: Callable[[int, int, int], None], scores: Tensor) -> None:
        """Call ``work`` for spans of the rows of scores; few scores are not worth waking another thread for."""
        parts = min(self.threads, len(scores), max(1, scores.numel() // SCORES_A_THREAD))
        self._run(work, len(scores), parts)

    def _run(self, work: Callable[[int, int, int], None], n_items: int, parts: int) -> None:
        """Call ``work(part, start, stop)`` for spans of ``n_items``, one a thread, the first in the thread that calls.

        Beside other work a thread that sleeps may wait milliseconds for a core; the one that calls has one.
        """
        span = -(-n_items // parts)
        first, *others = [(part, part * span, min(n_items, (part + 1) * span)) for part in range(parts)]
        waiting = [self._pool.submit(work, *bounds) for bounds in others] if self._pool is not None else []
        try:
            work(*first)
        finally:
            wait(waiting)
        for done in waiting:
            done.result()

    def compile(self) -> None:
        """Compile all kernels (a few seconds the first time on a machine; kept in numba's cache on disk)."""
        one = np.ones((1, 1), np.float32)
        _forward(one, one, one, one.copy(), 0, 1, one.copy())
        _backward(one, one, one, one, one.copy(), one.copy(), one.copy(), 0, 1, one.copy(), one.copy())
        softmax_rows(one.copy(), one[0].copy(), 0, 1)
        log_sum_exp_rows(one, one[0].copy(), 0, 1)
        exp_rows(one.copy(), one[0].copy(), 0, 1)
