# Its bytes are told by memplan/programs/scoring.py: none.
"""The weighted L1 score on CUDA, fused: Triton kernels that write nothing but scores and gradients.

Three kernels share one idea: a program holds a block of (queries, entities, dimensions) differences a − w·e in
registers and sums it over the axis that its result lacks. Scores sum over dimensions; the query's gradient over
entities; the entities' gradient over queries. Every result has one owner, so no atomics are needed and equal inputs
give equal bits. Outputs are contiguous.

Sums are float32 whatever the inputs' type, offsets are 64-bit, and any shape will do. The kernels use nothing newer
than Turing. They are tested through Triton's interpreter (TRITON_INTERPRET=1), not yet on a GPU.

Writing the log-sum-exp instead of the scores was considered: it would save the (b, C) buffer, which chunks bound
already, at the price of a second forward and of a softmax that no other score shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from memplan.errors import MemplanError
from tkbc.scoring.reference import weighted_l1
from tkbc.scoring.softmax_torch import TorchSoftmax
from tkbc.scoring.tuning import DEFAULT, Blocks, Timer, choose, size_class


@triton.jit  # pragma: no cover
def _differences(
    a_ptr,
    w_ptr,
    e_ptr,
    queries,
    entities,
    dimensions,
    n_queries,
    n_entities,
    rank,
):
    """Return a − w·e, (queries, entities, dimensions), with w and e; 0 outside the tensors."""
    in_rank = dimensions[None, :] < rank
    at_query = queries[:, None].to(tl.int64) * rank + dimensions[None, :]
    at_entity = entities[:, None].to(tl.int64) * rank + dimensions[None, :]
    of_queries = (queries[:, None] < n_queries) & in_rank
    a = tl.load(a_ptr + at_query, mask=of_queries, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + at_query, mask=of_queries, other=0.0).to(tl.float32)
    e = tl.load(e_ptr + at_entity, mask=(entities[:, None] < n_entities) & in_rank, other=0.0).to(tl.float32)
    return a[:, None, :] - w[:, None, :] * e[None, :, :], w, e


@triton.jit  # pragma: no cover
def _forward(
    a_ptr,
    w_ptr,
    e_ptr,
    out_ptr,
    n_queries,
    n_entities,
    rank,
    B: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    queries = tl.program_id(1) * B + tl.arange(0, B)
    entities = tl.program_id(0) * N + tl.arange(0, N)
    total = tl.zeros((B, N), dtype=tl.float32)
    for first in range(0, rank, K):
        difference, _w, _e = _differences(
            a_ptr, w_ptr, e_ptr, queries, entities, first + tl.arange(0, K), n_queries, n_entities, rank
        )
        total -= tl.sum(tl.abs(difference), axis=2)
    at = queries[:, None].to(tl.int64) * n_entities + entities[None, :]
    tl.store(out_ptr + at, total, mask=(queries[:, None] < n_queries) & (entities[None, :] < n_entities))


@triton.jit  # pragma: no cover
def _signed(difference, g_ptr, queries, entities, n_queries, n_entities):
    """Return G · sign(a − w·e); a tie counts as +1, as on the CPU. 0 outside the tensors."""
    at = queries[:, None].to(tl.int64) * n_entities + entities[None, :]
    inside = (queries[:, None] < n_queries) & (entities[None, :] < n_entities)
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
    return tl.where(difference >= 0, g[:, :, None], -g[:, :, None])


@triton.jit  # pragma: no cover
def _backward_query(
    a_ptr,
    w_ptr,
    e_ptr,
    g_ptr,
    grad_a_ptr,
    grad_w_ptr,
    n_queries,
    n_entities,
    rank,
    B: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    queries = tl.program_id(1) * B + tl.arange(0, B)
    dimensions = tl.program_id(0) * K + tl.arange(0, K)
    grad_a = tl.zeros((B, K), dtype=tl.float32)
    grad_w = tl.zeros((B, K), dtype=tl.float32)
    for first in range(0, n_entities, N):
        entities = first + tl.arange(0, N)
        difference, _w, e = _differences(
            a_ptr, w_ptr, e_ptr, queries, entities, dimensions, n_queries, n_entities, rank
        )
        signed = _signed(difference, g_ptr, queries, entities, n_queries, n_entities)
        grad_a -= tl.sum(signed, axis=1)
        grad_w += tl.sum(signed * e[None, :, :], axis=1)
    at = queries[:, None].to(tl.int64) * rank + dimensions[None, :]
    inside = (queries[:, None] < n_queries) & (dimensions[None, :] < rank)
    tl.store(grad_a_ptr + at, tl.load(grad_a_ptr + at, mask=inside, other=0.0) + grad_a, mask=inside)
    tl.store(grad_w_ptr + at, tl.load(grad_w_ptr + at, mask=inside, other=0.0) + grad_w, mask=inside)


@triton.jit  # pragma: no cover
def _backward_entities(
    a_ptr,
    w_ptr,
    e_ptr,
    g_ptr,
    grad_e_ptr,
    n_queries,
    n_entities,
    rank,
    B: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
) -> None:
    entities = tl.program_id(0) * N + tl.arange(0, N)
    dimensions = tl.program_id(1) * K + tl.arange(0, K)
    grad_e = tl.zeros((N, K), dtype=tl.float32)
    for first in range(0, n_queries, B):
        queries = first + tl.arange(0, B)
        difference, w, _e = _differences(
            a_ptr, w_ptr, e_ptr, queries, entities, dimensions, n_queries, n_entities, rank
        )
        signed = _signed(difference, g_ptr, queries, entities, n_queries, n_entities)
        grad_e += tl.sum(signed * w[:, None, :], axis=0)
    at = entities[:, None].to(tl.int64) * rank + dimensions[None, :]
    inside = (entities[:, None] < n_entities) & (dimensions[None, :] < rank)
    tl.store(grad_e_ptr + at, tl.load(grad_e_ptr + at, mask=inside, other=0.0) + grad_e, mask=inside)


def _constants(blocks: Blocks) -> dict[str, int]:
    return {"B": blocks.queries, "N": blocks.entities, "K": blocks.dimensions, "num_warps": blocks.warps}


class TritonL1(TorchSoftmax):
    """−Σ_k |a_k − w_k e_k| and its gradients on CUDA. Inputs float32, bfloat16 or float16; results float32."""

    needs_buffer = True

    def __init__(self) -> None:
        self.blocks = dict.fromkeys(("forward", "backward to queries", "backward to entities"), DEFAULT)
        """The block sizes of each kernel; ``tune`` replaces the stated ones by the fastest."""

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        assert out is not None
        a, w = (tensor.contiguous() for tensor in query)
        n_queries, n_entities, rank = len(a), *entities.shape
        self._forward(self.blocks["forward"], a, w, entities.contiguous(), out, (n_queries, n_entities, rank))
        return out

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores to ``grad_query`` and ``grad_entities``."""
        a, w = (tensor.contiguous() for tensor in query)
        entities, grad_scores = entities.contiguous(), grad_scores.contiguous()
        sizes = (len(a), *entities.shape)
        inputs = (a, w, entities, grad_scores)
        self._backward_query(self.blocks["backward to queries"], *inputs, *grad_query, sizes)
        self._backward_entities(self.blocks["backward to entities"], *inputs, grad_entities, sizes)

    def _forward(self, blocks: Blocks, *arguments: Any) -> None:
        *tensors, (n_queries, n_entities, rank) = arguments
        # The entities go along the grid's first axis, which alone may have more than 65,535 programs.
        grid = (triton.cdiv(n_entities, blocks.entities), triton.cdiv(n_queries, blocks.queries))
        _forward[grid](*tensors, n_queries, n_entities, rank, **_constants(blocks))

    def _backward_query(self, blocks: Blocks, *arguments: Any) -> None:
        *tensors, (n_queries, n_entities, rank) = arguments
        grid = (triton.cdiv(rank, blocks.dimensions), triton.cdiv(n_queries, blocks.queries))
        _backward_query[grid](*tensors, n_queries, n_entities, rank, **_constants(blocks))

    def _backward_entities(self, blocks: Blocks, *arguments: Any) -> None:
        *tensors, (n_queries, n_entities, rank) = arguments
        grid = (triton.cdiv(n_entities, blocks.entities), triton.cdiv(rank, blocks.dimensions))
        _backward_entities[grid](*tensors, n_queries, n_entities, rank, **_constants(blocks))

    def tune(self, n_queries: int, n_entities: int, rank: int, *, device: str, timer: Timer, versions: str) -> None:
        """Take for each kernel the fastest of the stated block sizes at a shape, timed once and kept on disk.

        Allocates and frees the tensors of one forward and backward at that shape.
        """
        sizes = (n_queries, n_entities, rank)
        generator = torch.Generator(device).manual_seed(0)
        a, w, e, grad_a, grad_w, grad_e = (
            torch.randn((rows, rank), generator=generator, device=device)
            for rows in (n_queries, n_queries, n_entities, n_queries, n_queries, n_entities)
        )
        scores = torch.randn((n_queries, n_entities), generator=generator, device=device)
        kernels: dict[str, Callable[[Blocks], None]] = {
            "forward": lambda blocks: self._forward(blocks, a, w, e, scores, sizes),
            "backward to queries": lambda blocks: self._backward_query(blocks, a, w, e, scores, grad_a, grad_w, sizes),
            "backward to entities": lambda blocks: self._backward_entities(blocks, a, w, e, scores, grad_e, sizes),
        }
        shape = " × ".join(str(size_class(n)) for n in sizes)
        for name, run in kernels.items():
            self.blocks[name] = choose(f"{versions}, {name}, {shape}", run, timer)

    def compile(self, device: str) -> None:
        """Compile the kernels and check them once against the formula, at a shape that fills no block.

        Raises:
            MemplanError: they compute something else on this device.
        """
        generator = torch.Generator(device).manual_seed(0)
        a, w, e, g = (
            torch.randn(shape, generator=generator, device=device) for shape in ((3, 5), (3, 5), (41, 5), (3, 41))
        )
        leaves = [tensor.clone().requires_grad_() for tensor in (a, w, e)]
        with torch.enable_grad():
            scores = weighted_l1((leaves[0], leaves[1]), leaves[2])
        expected = (scores.detach(), *torch.autograd.grad(scores, leaves, g))
        grad_a, grad_w, grad_e = (torch.zeros_like(tensor) for tensor in (a, w, e))
        found = self.forward((a, w), e, torch.full_like(g, torch.nan), grad=True)
        self.backward((a, w), e, g, (grad_a, grad_w), grad_e)
        for one, other in zip((found, grad_a, grad_w, grad_e), expected, strict=True):
            if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
                raise MemplanError(
                    "the fused L1 kernels do not compute the formula on this device; use --scoring chunked, and please "
                    "report the GPU and the versions of PyTorch and Triton"
                )
