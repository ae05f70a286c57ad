"""The run folder: plan.json, config.json, metrics.jsonl, memory_check.json and checkpoint/."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from memplan.errors import MemplanError
from memplan.plan import MemoryCheck, Plan, to_json


class RunFolder:
    """A new folder for one run; what cannot be written is one clear error.

    Raises:
        MemplanError: there is something of that name, or it cannot be written.
    """

    def __init__(self, path: Path, plan: Plan, config: dict[str, Any]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise MemplanError(f"{path}: there is a run already; choose another folder with --run-dir") from None
        except OSError as error:
            raise MemplanError(f"{path}: cannot be made ({error.strerror}); choose another with --run-dir") from None
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        with self._writing():
            (path / "plan.json").write_text(to_json(plan) + "\n", encoding="utf-8")
            (path / "config.json").write_text(
                json.dumps({**config, "versions": versions}, indent=2) + "\n", encoding="utf-8"
            )
            (path / "metrics.jsonl").touch()

    @property
    def checkpoint(self) -> Path:
        """Return where the checkpoint lies."""
        return self.path / "checkpoint"

    def append(self, line: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        with self._writing(), (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def write_check(self, check: MemoryCheck) -> None:
        """Write memory_check.json."""
        with self._writing():
            (self.path / "memory_check.json").write_text(to_json(check) + "\n", encoding="utf-8")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MemplanError(f"{self.path}: cannot be written ({error.strerror}); free some space") from None
