"""PyTorch's profiler without the lines that its library Kineto writes to stderr wherever it starts and stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

LOG_LEVEL = "KINETO_LOG_LEVEL"


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Have Kineto log nothing, unless the user has set its level; for around a profile.

    It reads the level at a process's first profile, wherever PyTorch was loaded: after one of the user's own, which
    wrote its lines, these come too.
    """
    if LOG_LEVEL in os.environ:
        yield
        return
    os.environ[LOG_LEVEL] = "99"
    try:
        yield
    finally:
        os.environ.pop(LOG_LEVEL, None)
