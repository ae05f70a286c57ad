"""Cases of which a few stand for all where time is short: ``pytest -m "not slow"``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Return the cases, all but the first ``quick`` marked slow; a tuple holds the values of several arguments."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.slow] if i >= quick else [])
        for i, case in enumerate(cases)
    ]
