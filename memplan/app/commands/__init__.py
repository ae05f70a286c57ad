"""The commands, by topic: each parses, calls one function and prints. ``memplan.app.cli`` puts them together."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from pydantic import BaseModel

from memplan.app.options import JobOptions
from memplan.device.target import Target
from memplan.memory.cuda.environment import notice


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    text = value.model_dump_json(indent=2) if isinstance(value, BaseModel) else json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def tell_what_is_not_modelled(given: JobOptions, target: Target) -> None:
    """Say on stderr which of the environment's allocator options a prediction for CUDA leaves out of account."""
    text = notice() if target.device == "cuda" and given.alloc_conf is None else None
    if text is not None:
        typer.echo(f"{text}; --alloc-conf '' plans without any", err=True)
