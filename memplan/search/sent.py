"""What the processes of a mesh send each other: bytes and calls of an optimizer step, by kind, and their seconds.

Everything is an all-reduce. Around a ring of g processes each sends 2 (g − 1) / g of the bytes that it holds (Patarasu
and Yuan, 2009); a call costs something however small it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memplan.device.links import Link
from memplan.prediction.rehearsal import tables
from memplan.workload import Workload

NUMBER_BYTES = 4
"""Of a float32."""
TOTALS_BYTES = 2 * 8
"""Loss and penalty of a step, in float64."""


class Sent(NamedTuple):
    """The all-reduces of one kind in a full step, as the first process takes part in them."""

    what: str
    n_processes: int
    """Those that the sum is over: the shards, the replicas, or all."""
    calls: int
    n_bytes: int
    """Of what is summed, all calls together."""

    @property
    def link_bytes(self) -> int:
        """What each process sends for it around a ring."""
        return 2 * (self.n_processes - 1) * self.n_bytes // self.n_processes


def sent_per_step(workload: Workload) -> list[Sent]:
    """Return what a full optimizer step sends, kind by kind; nothing where there is one process.

    Over the shards, for the n examples of a replica in A micro-batches, rows of ``width`` numbers: the heads' rows, n ·
    width; for the softmax 3 n; the gradient of the query, n · width for each of its tensors; where the time is
    predicted the rows of head and tail again, 2 n · width; where there is N3 two penalties a micro-batch. Nothing of it
    grows with the entities. Over the replicas, once a step: the gradient of every table, the entities' own rows of it,
    and two totals. Over all, once a step: whether a number went wrong in any of them, and whether any is to save or
    to stop.
    """
    return [sent for sent in _all_of(workload) if sent.n_processes > 1 and sent.calls > 0]


def _all_of(workload: Workload) -> Iterator[Sent]:
    shards, replicas = workload.shards, workload.replicas
    n, passes = workload.replica_batch_size, workload.accumulation_steps
    rows = n * workload.width * NUMBER_BYTES
    queries = 1 if workload.score == "dot" else 2
    again = 2 * workload.predicts_time
    penalties = 2 * passes * (workload.emb_reg > 0)
    yield Sent("rows of heads", shards, passes, rows)
    yield Sent("sums of the softmax", shards, 3 * passes, 3 * n * NUMBER_BYTES)
    yield Sent("gradients of queries", shards, queries * passes, queries * rows)
    yield Sent("rows for the time", shards, again * passes, again * rows)
    yield Sent("N3 penalties", shards, penalties, penalties * NUMBER_BYTES)
    own = {**tables(workload), "entity": (len(workload.own_entities), workload.width)}
    yield Sent("gradient tables", replicas, len(own), sum(n * width for n, width in own.values()) * NUMBER_BYTES)
    yield Sent("totals", replicas, 1, TOTALS_BYTES)
    yield Sent("whether to stop", workload.n_processes, 2, 3 * NUMBER_BYTES)


def sending_seconds(workload: Workload, link: Link) -> float:
    """Return the predicted seconds that an epoch's collectives take: none of them beside the computing."""
    sent = sent_per_step(workload)
    carried = sum(kind.link_bytes for kind in sent) / link.bytes_per_second
    return workload.steps_per_epoch * (carried + sum(kind.calls for kind in sent) * link.call_seconds)
