"""The gradient of the entities: a program holds an (entities, dimensions) tile of it and walks over the queries.

With G the scores' gradient and s = sign(a − w·e): grad_e = Σ_b G·s·w.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tkbc.scoring.kernels.tile import with_sign_of, zero_tile


@triton.jit(
    do_not_specialize=["n_queries", "n_entities", "rank", "row_quads"],
    do_not_specialize_on_alignment=["grad_e_ptr"],
)  # pragma: no cover
def to_entities(
    a_ptr,
    w_ptr,
    e_ptr,
    g_ptr,
    grad_e_ptr,
    n_queries,
    n_entities,
    rank,
    row_quads,
    ENTITIES: tl.constexpr,
    DIMENSIONS: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:
    """Add the sums over all queries to ``grad_e``, (n_entities, rank). Other shapes as in ``to_queries``."""
    tiles_of_rank = tl.cdiv(rank, DIMENSIONS)
    program = tl.program_id(0)
    dimensions = (program % tiles_of_rank) * DIMENSIONS + tl.arange(0, DIMENSIONS)
    first_entity = (program // tiles_of_rank) * ENTITIES
    entities = first_entity + tl.arange(0, ENTITIES)
    stride = row_quads.to(tl.int64) * 4
    in_row = dimensions // 4 < row_quads  # alike for four neighbours, so that they are loaded at once
    row = tl.minimum(entities, n_entities - 1).to(tl.int64)
    at = row[:, None] * stride + dimensions[None, :]
    zeros = zero_tile(ENTITIES, DIMENSIONS)
    negative_e = zeros - tl.load(e_ptr + at, mask=in_row[None, :], other=0.0).to(tl.float32)
    grad_e = zeros
    for q in tl.range(0, n_queries, loop_unroll_factor=UNROLL):
        a = tl.load(a_ptr + q * stride + dimensions, mask=in_row).to(tl.float32)
        w = tl.load(w_ptr + q * stride + dimensions, mask=in_row).to(tl.float32)
        g = tl.load(g_ptr + q * n_entities.to(tl.int64) + row)
        signed = with_sign_of(g[:, None], tl.fma(negative_e, w[None, :], a[None, :]))
        grad_e = tl.fma(signed, w[None, :], grad_e)
    inside = (entities[:, None] < n_entities) & (dimensions[None, :] < rank)
    grad_e_ptr += first_entity.to(tl.int64) * rank
    at = tl.arange(0, ENTITIES)[:, None] * rank + dimensions[None, :]
    tl.store(grad_e_ptr + at, tl.load(grad_e_ptr + at, mask=inside) + grad_e, mask=inside)
