"""A process of a mesh that talks to the others, through PyTorch's collectives: NCCL on CUDA, gloo on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from memplan.errors import FailedElsewhereError, MemplanError
from memplan.workload import DeviceType, Workload
from tkbc.sharded.processes import Processes, Reduction

JOIN_SECONDS = 120.0
"""How long to wait for the others to start."""
SILENT_MINUTES = 30
"""After this long without an answer from another process training ends: no step, ranking or checkpoint is that slow."""


class Connected(Processes):
    """One process of the workload's mesh, inside ``joined``; all make theirs at the same time.

    Every sum is PyTorch's all-reduce, in place: PyTorch's allocator is asked for nothing more. Shards of one table have
    ranks in a row, so that on machines with several GPUs they are on the same one.

    Raises:
        FailedElsewhereError: in any method, where another process has ended.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        names = ("replica", "shard")
        mesh = init_device_mesh(workload.device, (workload.replicas, workload.shards), mesh_dim_names=names)
        self._of_replicas, self._of_shards = (mesh.get_group(name) for name in names)
        self._flags = np.zeros(2, np.float32)  # on the host, whatever the device: nobody waits for that

    def _reduce_over_shards_(self, tensor: Tensor, how: Reduction) -> None:
        _reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX, self._of_shards)

    def sum_over_replicas_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the processes that own the same rows."""
        if self.replicas > 1:
            _reduce(tensor, dist.ReduceOp.SUM, self._of_replicas)

    def agree(self, *here: bool) -> tuple[bool, ...]:
        """Return which of these hold in any process: all ask at the same point of their work."""
        flags = self._flags[: len(here)]
        flags[:] = here
        _reduce(torch.from_numpy(flags), dist.ReduceOp.MAX, None)
        return tuple((flags > 0).tolist())


def _reduce(tensor: Tensor, how: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> None:
    try:
        dist.all_reduce(tensor, how, group=group)
    except RuntimeError as error:  # gloo has no class of its own for a connection that is gone
        raise FailedElsewhereError(f"another process of the training has ended: {error}") from None


class Meeting(NamedTuple):
    """Where the processes of a training have met: by torchrun's environment, before any device is in use."""

    store: Any
    process: int
    """This one's number."""
    n: int


def meet() -> Meeting:
    """Return the meeting once every process that torchrun counts has come to it.

    Raises:
        MemplanError: some have not in time; names them. Or the first cannot be reached.
    """
    index, n = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's own agent keeps the store, of which each of its attempts has a part; otherwise the first process does.
    kept_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    wait = timedelta(seconds=JOIN_SECONDS)
    try:
        keeps = index == 0 and not kept_by_agent
        found = dist.TCPStore(host, port, n, keeps, wait, wait_for_workers=False)  # type: ignore[attr-defined]
    except RuntimeError as error:
        raise MemplanError(f"process {index} does not reach the first one at {host}:{port}: {error}") from None
    store = dist.PrefixStore(f"memplan/attempt {attempt}", found)  # type: ignore[attr-defined]
    keys = [f"here/{process}" for process in range(n)]
    store.set(keys[index], "yes")
    try:
        store.wait(keys, wait)
    except RuntimeError:
        missing = [str(process) for process, key in enumerate(keys) if not store.check([key])]
        raise MemplanError(
            f"of {n} processes, counted from 0, {', '.join(missing)} did not start within {JOIN_SECONDS:.0f} s; start "
            "all of them, or let memplan train --devices do so"
        ) from None
    return Meeting(store, index, n)


def told_by_first(meeting: Meeting, text: str | None) -> str:
    """Return the first process's ``text`` in every process; the others give None.

    Raises:
        FailedElsewhereError: the first has ended before it said anything.
    """
    if text is not None:
        meeting.store.set("told", text)
        return text
    try:
        meeting.store.wait(["told"], timedelta(minutes=SILENT_MINUTES))
        told: bytes = meeting.store.get("told")
    except RuntimeError:
        raise FailedElsewhereError("the first process of the training has ended") from None
    return told.decode()


@contextmanager
def said_once(meeting: Meeting) -> Iterator[None]:
    """Let one process alone tell of an error that several meet, such as data that have changed.

    Raises:
        FailedElsewhereError: another one tells of it; the exit status is that of the error here.
    """
    try:
        yield
    except FailedElsewhereError:
        raise
    except MemplanError as error:
        try:
            is_first = meeting.store.add("said", 1) == 1
        except RuntimeError:  # whoever kept the store is gone
            is_first = True
        if is_first:
            raise
        raise FailedElsewhereError(str(error), error.exit_code) from None


@contextmanager
def joined(meeting: Meeting, device: DeviceType) -> Iterator[None]:
    """Connect the processes of a meeting; on CUDA each has a GPU of its own, the current one from now on.

    Raises:
        MemplanError: there is no GPU for this one.
    """
    if device == "cuda":
        local, present = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= present:
            raise MemplanError(
                f"process {meeting.process} has no GPU of its own: this machine has {present}; start no more processes "
                "than it has GPUs"
            )
        torch.cuda.set_device(local)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        store=meeting.store,
        rank=meeting.process,
        world_size=meeting.n,
        timeout=timedelta(minutes=SILENT_MINUTES),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
