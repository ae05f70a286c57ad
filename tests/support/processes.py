"""Several processes that work together, as torchrun would start them: their results, or what went wrong in each."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from memplan.workload import Workload
from tkbc.sharded.connected import Connected, joined, meet


def in_processes(n: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what ``work(*arguments)`` returns in each of ``n`` processes; an exception is returned like a result.

    ``work``: a function of a module, which every process imports anew.
    """
    context = mp.get_context("spawn")
    results: Any = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=_one, args=(process, n, port, results, work, arguments)) for process in range(n)]
    for one in started:
        one.start()
    found = dict(results.get() for _ in range(n))
    for one in started:
        one.join()
    return [found[process] for process in range(n)]


def _one(process: int, n: int, port: int, results: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(process), WORLD_SIZE=str(n), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    try:
        with joined(meet(), "cpu"):
            found: Any = work(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
        error.add_note(traceback.format_exc())
        found = error
    results.put((process, found))


def here(workload: Workload) -> Connected:
    """Return this process of the workload's mesh, connected."""
    return Connected(here_as(workload))


def here_as(workload: Workload) -> Workload:
    """Return the workload of this process."""
    return workload.model_copy(update={"process": int(os.environ["RANK"])})


def checked(found: list[Any]) -> list[Any]:
    """Return the results where all are; raise the first exception among them."""
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found
