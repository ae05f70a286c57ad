"""Where the host waits for the device: only inside ``waiting``, which gives each wait a name.

Everything else from a run's first step to its last starts work on the device and goes on. That is kept by
``torch.cuda.set_sync_debug_mode("error")``, which raises at every wait that it knows of outside a named one, and by
tests that count. docs/gpu.md lists the names, with how often each comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch.profiler import record_function

Wait = Literal[
    "order of an epoch",
    "check of a step",
    "loss on the terminal",
    "end of an epoch",
    "check of the tables",
    "tables to a checkpoint",
    "tables from a checkpoint",
    "unused segments to the driver",
    "ranks of a split",
    "out of memory",
]


@contextmanager
def waiting(what: Wait) -> Iterator[None]:
    """Mark code that waits for the device; a profile shows it as ``wait: …``. Does nothing where CUDA is not in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    if mode:  # setting it says on stderr that it is a prototype: never in a run that did not ask for it
        torch.cuda.set_sync_debug_mode("default")
    try:
        with record_function(f"wait: {what}"):
            yield
    finally:
        if mode:
            torch.cuda.set_sync_debug_mode(mode)


def synchronize(what: Wait) -> None:
    """Wait until everything started on the device is done. Does nothing where CUDA is not in use."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        with waiting(what):
            torch.cuda.synchronize()
