"""The errors that a user's own input can cause; commands print them as one line and exit, never with a traceback."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class MemplanError(Exception):
    """An input that cannot be used: the message names the thing, the value, the limit and the way out."""

    exit_code = 1


class UsageError(MemplanError):
    """An option's value is wrong in itself (exit status 2)."""

    exit_code = 2


class DoesNotFitError(MemplanError):
    """No allowed configuration fits the budget (exit status 3)."""

    exit_code = 3


class FailedElsewhereError(MemplanError):
    """Another of the processes that train together failed, and says why; this one has nothing to add."""

    def __init__(self, message: str = "another process of the training failed", exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NotFiniteError(MemplanError):
    """A loss, gradient or score became infinite or NaN: the settings are wrong for this training."""


def reason_of(error: Exception) -> str:
    """Return what an error of the disk says, whoever raised it; never nothing."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text or type(error).__name__


def is_full(error: Exception) -> bool:
    """Return whether an error of the disk says that it, or the user's share of it, is full."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        number_text = re.search(r"\(os error (\d+)\)", str(error))  # as libraries written in Rust write it
        number = int(number_text[1]) if number_text else None
    return number in (errno.ENOSPC, errno.EDQUOT)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that is not in the catalog, with the nearest known names."""
    names = sorted(known)
    by_lower_case = {candidate.lower(): candidate for candidate in names}
    near = [by_lower_case[n] for n in difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
