"""S[b, n] = −Σ_k |a[b, k] − w[b, k] · e[n, k]|: a program holds a (queries, entities) tile of sums and walks over k."""

from __future__ import annotations

import triton
import triton.language as tl

from tkbc.scoring.kernels.tile import zero_tile


@triton.jit(do_not_specialize=["n_queries", "n_entities", "rank", "query_quads", "entity_quads"])  # pragma: no cover
def forward(
    a_ptr,
    negative_w_ptr,
    e_ptr,
    out_ptr,
    n_queries,
    n_entities,
    rank,
    query_quads,
    entity_quads,
    QUERIES: tl.constexpr,
    ENTITIES: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:
    """Write the scores, (n_queries, n_entities), contiguous, float32.

    a, −w and e come transposed, (rank, columns), with ``query_quads`` and ``entity_quads`` times four columns, which
    whole tiles fill: the sums of columns beyond the queries and entities are computed from whatever stands there and
    not stored. −w and not w, since not every version compiles a negation into the multiply-add.
    """
    tiles = tl.cdiv(n_queries, QUERIES)
    program = tl.program_id(0)
    queries = (program % tiles) * QUERIES + tl.arange(0, QUERIES)
    entities = (program // tiles) * ENTITIES + tl.arange(0, ENTITIES)
    # Times four where the compiler sees it: rows then begin at whole vectors of four, and are loaded as such.
    query_stride, entity_stride = query_quads.to(tl.int64) * 4, entity_quads.to(tl.int64) * 4
    sums = zero_tile(QUERIES, ENTITIES)
    for k in tl.range(0, rank, loop_unroll_factor=UNROLL):
        a = tl.load(a_ptr + k * query_stride + queries).to(tl.float32)
        negative_w = tl.load(negative_w_ptr + k * query_stride + queries).to(tl.float32)
        e = tl.load(e_ptr + k * entity_stride + entities).to(tl.float32)
        sums -= tl.abs(tl.fma(negative_w[:, None], e[None, :], a[:, None]))
    at = queries[:, None].to(tl.int64) * n_entities + entities[None, :]
    tl.store(out_ptr + at, sums, mask=(queries[:, None] < n_queries) & (entities[None, :] < n_entities))
