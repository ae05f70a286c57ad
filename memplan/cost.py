"""The cost model: operations, bytes moved and launches, turned into seconds with a device's rates.

It orders plans; it promises nothing. The two constants for the fused L1 kernel and the bytes of the plain one follow
from timings on a CPU (benchmarks/), where the fused kernel needs as long as 3 (forward) and 5 (backward) of a matrix
product's operations would, and plain PyTorch is bound by its memory traffic.
"""

from __future__ import annotations

from memplan.devices import Rates
from memplan.workload import Workload

FUSED_L1_FORWARD = 3
FUSED_L1_BACKWARD = 5
# Bytes that plain PyTorch moves for each of the b · c · d terms: 7 reads or writes of a float32 forward, 12 backward.
PLAIN_L1_FORWARD_BYTES = 28
PLAIN_L1_BACKWARD_BYTES = 48
SOFTMAX_BYTES = 24
"""Reads and writes of a score: largest, exponential, sum, probability."""
LAUNCHES_PER_CHUNK = 20
LAUNCHES_PER_MICRO_BATCH = 60
LAUNCHES_PER_STEP = 30


def seconds_per_epoch(workload: Workload, rates: Rates) -> float:
    """Return the predicted seconds of one training epoch."""
    examples = workload.n_examples
    micro_batches = workload.steps_per_epoch * workload.accumulation_steps
    chunks = -(-workload.n_entities // workload.chunk_size)
    forward, backward = _score_seconds(workload, rates)
    # With one chunk the scores are kept; with more, each chunk's are computed again in the backward. The chunked
    # scoring's backward builds its graph anew in any case; the materialized one keeps it.
    forwards = 1 if chunks == 1 else 2
    if workload.scoring == "chunked":
        forwards += 1
    scores = examples * workload.n_entities
    per_example = forwards * forward + backward
    launches = workload.steps_per_epoch * LAUNCHES_PER_STEP + micro_batches * (
        LAUNCHES_PER_MICRO_BATCH + chunks * LAUNCHES_PER_CHUNK * forwards
    )
    # Every micro-batch adds to the whole gradient table of the entities; every step reads and writes all tables.
    table_bytes = 4 * workload.width * workload.n_entities
    return (
        scores * per_example
        + scores * SOFTMAX_BYTES / rates.bytes_per_second
        + micro_batches * 2 * table_bytes / rates.bytes_per_second
        + workload.steps_per_epoch * 8 * table_bytes / rates.bytes_per_second
        + launches * rates.launch_seconds
    )


def evaluation_seconds(workload: Workload, rates: Rates) -> float:
    """Return the predicted seconds of ranking as many queries as an epoch has examples."""
    batches = -(-workload.n_examples // workload.eval_batch_size)
    chunks = -(-workload.n_entities // workload.eval_chunk_size)
    forward, _ = _score_seconds(workload, rates)
    passes = 1 if chunks == 1 else 2
    return (
        workload.n_examples * workload.n_entities * passes * (forward + SOFTMAX_BYTES / rates.bytes_per_second)
        + batches * (LAUNCHES_PER_MICRO_BATCH + chunks * LAUNCHES_PER_CHUNK * passes) * rates.launch_seconds
    )


def _score_seconds(workload: Workload, rates: Rates) -> tuple[float, float]:
    """Return the seconds of one score, forward and backward, for one query and one entity."""
    width = workload.width
    if workload.score == "dot":
        return 2 * width / rates.flops_per_second, 4 * width / rates.flops_per_second
    if workload.scoring == "fused":
        return (
            FUSED_L1_FORWARD * width / rates.flops_per_second,
            FUSED_L1_BACKWARD * width / rates.flops_per_second,
        )
    return (
        PLAIN_L1_FORWARD_BYTES * width / rates.bytes_per_second,
        PLAIN_L1_BACKWARD_BYTES * width / rates.bytes_per_second,
    )
