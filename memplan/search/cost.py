"""The cost model: operations, bytes moved and launches, turned into seconds with a device's rates.

It orders plans; it promises nothing. A distance in plain PyTorch is bound by the tensors that it writes.
"""

from __future__ import annotations

from memplan.device.rates import Rates
from memplan.workload import Workload

PLAIN_FORWARD_TENSORS = 3
PLAIN_BACKWARD_TENSORS = 4
"""(b, c, d) tensors that plain PyTorch writes for a distance; each is read about once."""
SOFTMAX_BYTES = 24
"""Reads and writes of a score: largest, exponential, sum, probability."""
LAUNCHES_PER_CHUNK = 20
LAUNCHES_PER_MICRO_BATCH = 60
LAUNCHES_PER_STEP = 30


def seconds_per_epoch(workload: Workload, rates: Rates) -> float:
    """Return the predicted seconds of one training epoch."""
    examples = workload.n_examples
    micro_batches = workload.steps_per_epoch * workload.accumulation_steps
    chunks = -(-workload.n_candidates // workload.chunk_size)
    candidates = workload.n_candidates
    if workload.predicts_time:
        chunks += -(-workload.n_timestamps // workload.time_chunk_size)
        candidates += workload.n_timestamps
    forward, backward = _score_seconds(workload, rates)
    # With one chunk the scores are kept; with more, each chunk's are computed again in the backward. The chunked
    # scoring's backward builds its graph anew in any case; the materialized one keeps it.
    forwards = 1 if workload.chunk_size >= workload.n_candidates else 2
    if workload.scoring == "chunked":
        forwards += 1
    scores = examples * candidates
    per_example = forwards * forward + backward
    launches = workload.steps_per_epoch * LAUNCHES_PER_STEP + micro_batches * (
        LAUNCHES_PER_MICRO_BATCH + chunks * LAUNCHES_PER_CHUNK * forwards
    )
    # Every micro-batch adds to the whole gradient table of the entities; every step reads and writes all tables.
    # With negatives both are of the rows that a step uses.
    used = workload.n_entities if workload.negatives is None else workload.negatives + 2 * workload.batch_size
    table_bytes = 4 * workload.width * used
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
    if workload.scoring == "fused" and workload.score == "l2":  # two products forward, four backward
        return 4 * width / rates.flops_per_second, 8 * width / rates.flops_per_second
    if workload.scoring == "fused":
        return width / rates.l1_terms_per_second, width / rates.l1_gradient_terms_per_second
    # Half precision halves what the large tensors move; PyTorch's CPU sum converts them back first and gains nothing.
    item_bytes = 2 if workload.precision != "fp32" and workload.device == "cuda" else 4
    per_tensor = item_bytes * width * (1 / rates.fresh_bytes_per_second + 1 / rates.bytes_per_second)
    return PLAIN_FORWARD_TENSORS * per_tensor, PLAIN_BACKWARD_TENSORS * per_tensor
