"""The cost model: work that is counted, turned into seconds with a device's rates.

A CPU's work and rates are those of measured steps: its seconds are an estimate whose error is known. A GPU's are
operations, bytes moved and launches at the rates of its maker's figures: they order plans and promise nothing. There a
distance in plain PyTorch is bound by the tensors that it writes.
"""

from __future__ import annotations

from memplan.device.rates import Rates, StepRates
from memplan.search.work import Work, ranking_work, step_work
from memplan.workload import Workload

PLAIN_FORWARD_TENSORS = 3
PLAIN_BACKWARD_TENSORS = 4
"""(b, c, d) tensors that plain PyTorch writes for a distance; each is read about once."""
SOFTMAX_BYTES = 24
"""Reads and writes of a score: largest, exponential, sum, probability."""
LAUNCHES_PER_CHUNK = 20
LAUNCHES_PER_MICRO_BATCH = 60
LAUNCHES_PER_STEP = 30


def seconds_per_epoch(workload: Workload, rates: Rates | StepRates) -> float:
    """Return the predicted seconds of one training epoch: what a process computes for its rows and its examples."""
    if isinstance(rates, StepRates):
        steps, last = divmod(workload.n_examples, workload.batch_size)
        seconds = steps * _seconds(step_work(workload), rates)
        return seconds + _seconds(step_work(workload, last), rates) if last else seconds
    examples = -(-workload.n_examples // workload.replicas)
    micro_batches = workload.steps_per_epoch * workload.accumulation_steps
    candidates = workload.n_candidates
    chunks = -(-candidates // workload.chunk_size)
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
    used = len(workload.own_entities) if workload.negatives is None else workload.negatives + 2 * workload.batch_size
    table_bytes = 4 * workload.width * used
    return (
        scores * per_example
        + scores * SOFTMAX_BYTES / rates.bytes_per_second
        + micro_batches * 2 * table_bytes / rates.bytes_per_second
        + workload.steps_per_epoch * 8 * table_bytes / rates.bytes_per_second
        + launches * rates.launch_seconds
    )


def evaluation_seconds(workload: Workload, rates: Rates | StepRates) -> float:
    """Return the predicted seconds of ranking as many queries as an epoch has examples."""
    if isinstance(rates, StepRates):
        return _seconds(ranking_work(workload), rates)
    batches = -(-workload.n_examples // workload.eval_batch_size)
    n_rows = len(workload.own_entities)
    chunks = -(-n_rows // workload.eval_chunk_size)
    forward, _ = _score_seconds(workload, rates)
    passes = 1 if chunks == 1 else 2
    return (
        workload.n_examples * n_rows * passes * (forward + SOFTMAX_BYTES / rates.bytes_per_second)
        + batches * (LAUNCHES_PER_MICRO_BATCH + chunks * LAUNCHES_PER_CHUNK * passes) * rates.launch_seconds
    )


def _seconds(work: Work, rates: StepRates) -> float:
    return sum(count * rates.seconds.get(kind, 0.0) for kind, count in work.items())


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
