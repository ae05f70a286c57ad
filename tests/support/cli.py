"""What tests of cli share with others."""

from __future__ import annotations

import json
import re
from typing import Any

from typer.testing import CliRunner, Result

from memplan.app.cli import app


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def read_json(*arguments: str) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def fails(status: int, message: str, *arguments: str) -> None:
    """The command ends with ``status`` and one line that matches ``message``; nothing on stdout, no traceback."""
    result = invoke(*arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert re.search(message, lines[0]), lines[0]
    assert isinstance(result.exception, SystemExit)
