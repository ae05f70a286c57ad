# Its bytes are told by memplan/memory/programs/l1_cuda.py, whose sizes it takes.
"""The weighted L1 score on CUDA, fused: Triton kernels that build no (b, ·, d) tensor.

Each kernel keeps a tile of its results in registers and walks over the axis that they lack: scores over dimensions,
the query's gradient over entities, the entities' gradient over queries. So nothing is summed over lanes. Every sum has
one owner and one order, so no atomics are needed and equal inputs give equal bits. benchmarks/sass.py counts what a
term takes: 2.6 instructions forward, 5.1 to 5.5 and 4.8 to 5.8 in the backward, where 2, 4 and 3 do the arithmetic.

The forward loads along queries and entities, hence from transposed copies; without them each load would touch as many
cache lines as it has rows. The backward loads along dimensions, from the inputs as they are where their rows are whole
vectors, and from copies with such rows otherwise. Sums are float32 whatever the inputs' type, offsets are 64-bit, any
shape will do, and sizes are never compiled in: a ragged last chunk runs the same code. The kernels use nothing newer
than Volta. They compile for each architecture from there on and are right in Triton's interpreter; none has run on a
GPU. Block sizes are stated, not tuned: they change no byte, and what a size takes in registers and instructions can be
counted. Triton's own tuner would compile and time kernels in a user's first step.

Writing the log-sum-exp instead of the scores was considered: it would save the (b, C) buffer, which chunks bound
already, at the price of a second forward and of a softmax that no other score shares.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from memplan.errors import MemplanError
from memplan.memory.programs.l1_cuda import DIMENSIONS, SPAN, TILE, VECTOR, columns, parts_of, row_width
from tkbc.scoring.kernels.forward import forward
from tkbc.scoring.kernels.to_entities import to_entities
from tkbc.scoring.kernels.to_queries import add_others, to_queries
from tkbc.scoring.softmax_triton import TritonSoftmax

UNROLL = 2
"""Turns of an inner loop written out: of 1, 2 and 4 the one with the fewest instructions and registers."""
WARPS = 4
"""Of 32 threads: a tile of 64 × 64 scores is 32 a thread, one of 64 × 32 gradients 16."""
ADD_BLOCK = 1024


class TritonL1(TritonSoftmax):
    """−Σ_k |a_k − w_k e_k| and its gradients on CUDA: inputs rounded to ``dtype``, results and sums float32."""

    needs_buffer = True

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype

    def forward(self, query: tuple[Tensor, ...], entities: Tensor, out: Tensor | None, *, grad: bool) -> Tensor:
        """Write the (b, c) scores into ``out`` and return it (``grad`` changes nothing: no graph is kept)."""
        del grad
        assert out is not None
        a, w = query
        n_queries, n_entities, rank = len(a), *entities.shape
        packed_a, negative_w, packed_e = (
            self._transposed(a),
            self._transposed(w, negative=True),
            self._transposed(entities),
        )
        forward[(triton.cdiv(n_queries, TILE) * triton.cdiv(n_entities, TILE),)](
            packed_a, negative_w, packed_e, out, n_queries, n_entities, rank,
            packed_a.shape[1] // VECTOR, packed_e.shape[1] // VECTOR,
            QUERIES=TILE, ENTITIES=TILE, UNROLL=UNROLL, num_warps=WARPS,
        )  # fmt: skip
        return out

    def backward(
        self,
        query: tuple[Tensor, ...],
        entities: Tensor,
        grad_scores: Tensor,
        grad_query: tuple[Tensor, ...],
        grad_entities: Tensor,
    ) -> None:
        """Add the gradients of Σ grad_scores · scores at the rounded inputs to ``grad_query`` and ``grad_entities``."""
        rows = tuple(self._rows(tensor) for tensor in (*query, entities))
        grad_scores = grad_scores.contiguous()
        sizes = (len(grad_scores), *entities.shape, row_width(entities.shape[1]) // VECTOR)
        self._to_queries(rows, grad_scores, grad_query, sizes)
        self._to_entities(rows, grad_scores, grad_entities, sizes)

    def _to_queries(
        self, rows: tuple[Tensor, ...], grad_scores: Tensor, grad_query: tuple[Tensor, ...], sizes: tuple[int, ...]
    ) -> None:
        n_queries, n_entities, rank, _ = sizes
        parts = parts_of(n_queries, n_entities, rank)
        others = grad_scores.new_empty((parts - 1, 2, n_queries, rank)) if parts > 1 else None
        to_queries[(triton.cdiv(rank, DIMENSIONS) * triton.cdiv(n_queries, TILE) * parts,)](
            *rows, grad_scores, *grad_query, grad_query[0] if others is None else others,
            *sizes, triton.cdiv(n_entities, parts),
            QUERIES=TILE, DIMENSIONS=DIMENSIONS, UNROLL=UNROLL, num_warps=WARPS,
        )  # fmt: skip
        if others is not None:
            elements = n_queries * rank
            add_others[(triton.cdiv(elements, ADD_BLOCK),)](
                *grad_query, others, elements, parts - 1, BLOCK=ADD_BLOCK, num_warps=WARPS
            )

    def _to_entities(
        self, rows: tuple[Tensor, ...], grad_scores: Tensor, grad_entities: Tensor, sizes: tuple[int, ...]
    ) -> None:
        _, n_entities, rank, _ = sizes
        to_entities[(triton.cdiv(rank, DIMENSIONS) * triton.cdiv(n_entities, TILE),)](
            *rows, grad_scores, grad_entities, *sizes,
            ENTITIES=TILE, DIMENSIONS=DIMENSIONS, UNROLL=UNROLL, num_warps=WARPS,
        )  # fmt: skip

    def _transposed(self, tensor: Tensor, *, negative: bool = False) -> Tensor:
        """Return a copy, (rank, columns), rounded; what stands in columns beyond the rows is left as it comes."""
        packed = tensor.new_empty((tensor.shape[1], columns(len(tensor))), dtype=self.dtype)
        used = packed[:, : len(tensor)]
        if negative:
            torch.mul(tensor.T, -1, out=used)
        else:
            used.copy_(tensor.T)
        return packed

    def _rows(self, tensor: Tensor) -> Tensor:
        """Return the tensor, rounded, with rows that begin at whole vectors: itself where it is so already."""
        rank = tensor.shape[1]
        if tensor.dtype == self.dtype and rank % VECTOR == 0:
            return tensor.contiguous()
        rows = tensor.new_empty((len(tensor), row_width(rank)), dtype=self.dtype)
        rows[:, :rank].copy_(tensor)
        return rows

    def compile(self, device: str) -> None:
        """Compile the kernels and check them once against the formula: a shape that fills no tile, in two parts.

        Raises:
            MemplanError: they compute something else on this device.
        """
        generator = torch.Generator(device).manual_seed(0)
        n = 2 * SPAN + 17
        a, w, e, g = (
            torch.randn(shape, generator=generator, device=device).to(self.dtype).float()
            for shape in ((3, 5), (3, 5), (n, 5), (3, n))
        )
        difference = a[:, None] - w[:, None] * e
        signed = torch.where(difference >= 0, 1.0, -1.0) * g[:, :, None]
        scores = -difference.abs().sum(2)
        expected = (
            *(scores, -signed.sum(1), (signed * e).sum(1), (signed * w[:, None]).sum(0)),
            *(scores.logsumexp(1), scores.softmax(1), scores.softmax(1)),
        )
        grad_a, grad_w, grad_e = (torch.zeros_like(tensor) for tensor in (a, w, e))
        found = self.forward((a, w), e, torch.full_like(g, torch.nan), grad=True)
        self.backward((a, w), e, g, (grad_a, grad_w), grad_e)
        log_sum_exp = self.log_sum_exp_(found)
        probabilities, shifted = found.clone(), found.clone()
        self.softmax_(probabilities)
        self.exp_(shifted, log_sum_exp)
        results = (found, grad_a, grad_w, grad_e, log_sum_exp, probabilities, shifted)
        for one, other in zip(results, expected, strict=True):
            if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
                raise MemplanError(
                    "the fused L1 kernels do not compute the formula on this device; use --scoring chunked, and please "
                    "report the GPU and the versions of PyTorch and Triton"
                )
