"""The commands, by topic: each parses, calls one function and prints. ``memplan.cli`` puts them together."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")
