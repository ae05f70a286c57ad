"""Which test runs which line: only those can notice a change of it."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from types import FrameType
from typing import Any, NamedTuple

import pytest


class Test(NamedTuple):
    """A test, how long it takes, and whether it passes where nothing is changed."""

    name: str
    seconds: float
    passes: bool


class Watcher:
    """A plugin of pytest: collects the lines of the given files that each test runs, its fixtures included."""

    def __init__(self, files: set[str]) -> None:
        self.files = files
        self.lines: dict[str, set[int]] = defaultdict(set)
        self.tests: list[Test] = []
        self.runners: dict[tuple[str, int], list[str]] = defaultdict(list)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        del event, argument
        file = frame.f_code.co_filename
        if file not in self.files:
            return None
        seen = self.lines[file]

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            del argument
            if event == "line":
                seen.add(frame.f_lineno)
            return line

        return line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Trace one test; what a fixture of many tests runs counts for the first of them."""
        self.lines.clear()
        self.passes = True
        begin = time.perf_counter()
        threading.settrace(self._call)
        sys.settrace(self._call)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type] - so it is undone
            self.tests.append(Test(item.nodeid, time.perf_counter() - begin, self.passes))
            for file, lines in self.lines.items():
                for number in lines:
                    self.runners[file, number].append(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that does not pass."""
        self.passes = self.passes and not report.failed

    def found(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        runners = [[file, number, names] for (file, number), names in self.runners.items()]
        return {"tests": self.tests, "runners": runners}
