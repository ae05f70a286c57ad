"""Output streams that cannot hold every character: what stands for those that they lack."""

from __future__ import annotations

import codecs
import io
import sys

_PLAIN = {
    "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "’": "'", "·": ".", "→": "->", "µ": "u", "≤": "<=", "≥": ">=",
    "█": "#", "▁": "_", "▂": ".", "▃": "-", "▄": "=", "▅": "+", "▆": "*", "▇": "%",
}  # fmt: skip
_HANDLER = "memplan.plain"


def lose_no_output() -> None:
    """Make stdout and stderr write something like it, else ``?``, for a character that their encoding lacks.

    Under ``PYTHONIOENCODING=ascii`` or ``LC_ALL=C`` a table's bar is otherwise a traceback. UTF-8 is left as it is.
    """
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=_HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end
