"""The gradients of a and w: a program holds a (queries, dimensions) tile of both and walks over its part of entities.

With G the scores' gradient and s = sign(a − w·e): grad_a = −Σ_n G·s and grad_w = Σ_n G·s·e.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tkbc.scoring.kernels.tile import with_sign_of, zero_tile


@triton.jit(
    do_not_specialize=["n_queries", "n_entities", "rank", "row_quads", "span"],
    do_not_specialize_on_alignment=["grad_a_ptr", "grad_w_ptr"],
)  # pragma: no cover
def to_queries(
    a_ptr,
    w_ptr,
    e_ptr,
    g_ptr,
    grad_a_ptr,
    grad_w_ptr,
    others_ptr,
    n_queries,
    n_entities,
    rank,
    row_quads,
    span,
    QUERIES: tl.constexpr,
    DIMENSIONS: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:
    """Add the sums of the first part's ``span`` entities to the gradients; write the other parts' to ``others``.

    Shapes:
        a, w, e: rows of ``row_quads`` times four, the last of which may lie beyond the rank; g: (n_queries,
        n_entities); grad_a, grad_w: (n_queries, rank); others: (parts − 1, 2, n_queries, rank).
    """
    tiles_of_rank, tiles_of_queries = tl.cdiv(rank, DIMENSIONS), tl.cdiv(n_queries, QUERIES)
    program = tl.program_id(0)
    dimensions = (program % tiles_of_rank) * DIMENSIONS + tl.arange(0, DIMENSIONS)
    first_query = (program // tiles_of_rank % tiles_of_queries) * QUERIES
    queries = first_query + tl.arange(0, QUERIES)
    part = program // tiles_of_rank // tiles_of_queries
    stride = row_quads.to(tl.int64) * 4
    in_row = dimensions // 4 < row_quads  # alike for four neighbours, so that they are loaded at once
    row = tl.minimum(queries, n_queries - 1).to(tl.int64)
    at = row[:, None] * stride + dimensions[None, :]
    zeros = zero_tile(QUERIES, DIMENSIONS)
    a = tl.load(a_ptr + at, mask=in_row[None, :], other=0.0).to(tl.float32) + zeros
    negative_w = zeros - tl.load(w_ptr + at, mask=in_row[None, :], other=0.0).to(tl.float32)
    negative_grad_a, grad_w = zeros, zeros
    g_row = g_ptr + row * n_entities
    for n in tl.range(part * span, tl.minimum(part * span + span, n_entities), loop_unroll_factor=UNROLL):
        e = tl.load(e_ptr + n * stride + dimensions, mask=in_row).to(tl.float32)
        g = tl.load(g_row + n)
        signed = with_sign_of(g[:, None], tl.fma(negative_w, e[None, :], a))
        negative_grad_a += signed
        grad_w = tl.fma(signed, e[None, :], grad_w)
    # The first part's sums go to the gradients, which hold something already. One way of storing for all parts, one
    # gradient after the other and 32-bit offsets within a tile: else registers run out here, not in the loop.
    elements = n_queries.to(tl.int64) * rank
    if part == 0:
        into_a_ptr, into_w_ptr, queries_held = grad_a_ptr, grad_w_ptr, n_queries
    else:
        queries_held = n_queries * 0
        into_a_ptr = others_ptr + (part - 1) * 2 * elements
        into_w_ptr = into_a_ptr + elements
    inside = (queries[:, None] < n_queries) & (dimensions[None, :] < rank)
    is_held = inside & (queries[:, None] < queries_held)
    tile_at = first_query.to(tl.int64) * rank
    at = tl.arange(0, QUERIES)[:, None] * rank + dimensions[None, :]
    held = tl.load(into_a_ptr + tile_at + at, mask=is_held, other=0.0)
    tl.store(into_a_ptr + tile_at + at, held - negative_grad_a, mask=inside)
    held = tl.load(into_w_ptr + tile_at + at, mask=is_held, other=0.0)
    tl.store(into_w_ptr + tile_at + at, held + grad_w, mask=inside)


@triton.jit(
    do_not_specialize=["elements", "others"],
    do_not_specialize_on_alignment=["grad_a_ptr", "grad_w_ptr"],
)  # pragma: no cover
def add_others(grad_a_ptr, grad_w_ptr, others_ptr, elements, others, BLOCK: tl.constexpr) -> None:
    """Add the sums of the other parts, (others, 2, elements), to the gradients, one part after another."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    grad_a, grad_w = tl.load(grad_a_ptr + at, mask=inside), tl.load(grad_w_ptr + at, mask=inside)
    stride = elements.to(tl.int64)
    for other in range(others):
        grad_a += tl.load(others_ptr + other * 2 * stride + at, mask=inside)
        grad_w += tl.load(others_ptr + (other * 2 + 1) * stride + at, mask=inside)
    tl.store(grad_a_ptr + at, grad_a, mask=inside)
    tl.store(grad_w_ptr + at, grad_w, mask=inside)
