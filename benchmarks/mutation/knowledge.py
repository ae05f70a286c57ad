"""Which test runs which line: only those can notice a change of it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

from mutation.changes import ROOT, Mutant
from mutation.rooms import tests_for

QUICK_SECONDS = 0.3
MOST_SECONDS = 60.0
"""Of tests for a mutant, as long as they take where nothing is changed: what they do not notice has survived."""


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
        runners = [[str(Path(file).relative_to(ROOT)), line, names] for (file, line), names in self.runners.items()]
        return {"tests": self.tests, "runners": runners}


class Knowledge:
    """Which tests run which line, how long they take, and which do not pass as it is."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.tests = {test.name: test for test in (Test(*row) for row in found["tests"])}
        self.runners: dict[tuple[str, int], list[str]] = defaultdict(list)
        for file, line, names in found["runners"]:
            self.runners[file, line] += names

    def tests_of(self, mutant: Mutant, pairs: dict[CodeType, CodeType]) -> list[Test]:
        """Return the tests that run the changed line, or else its function, the quick ones first."""
        around = {line for _, _, line in list(pairs)[-1].co_lines() if line is not None}
        inside = set(self.runners.get((mutant.module, mutant.line), ()))
        inside = inside or {name for line in around for name in self.runners.get((mutant.module, line), ())}
        return self._in_order(tests_for(mutant.module), inside)

    def tests_of_import(self, mutant: Mutant) -> list[Test]:
        """Return all tests that run a line of the module, the quick ones first."""
        inside = {name for (ran, _), names in self.runners.items() if ran == mutant.module for name in names}
        return self._in_order(tests_for(mutant.module), inside)

    def _in_order(self, files: list[str], inside: set[str]) -> list[Test]:
        """Return what may notice, the quick ones first; of them as many as take ``MOST_SECONDS``."""
        tests = [test for test in self.tests.values() if test.passes and test.name in inside]
        ordered = sorted(
            (test for test in tests if test.name.split("::")[0] in files),
            key=lambda test: (test.seconds > QUICK_SECONDS, files.index(test.name.split("::")[0]), test.seconds),
        )
        until = accumulate(test.seconds for test in ordered)
        return [test for test, seconds in zip(ordered, until, strict=True) if seconds <= MOST_SECONDS]


def read_knowledge(file: Path) -> Knowledge:
    """Return what was learned of the tests."""
    return Knowledge(_kept(file))


def keep(file: Path, found: dict[str, Any]) -> None:
    """Add what was learned of some tests to the file."""
    kept = _kept(file)
    file.write_text(json.dumps({name: [*kept[name], *found[name]] for name in kept}), encoding="utf-8")


def _kept(file: Path) -> dict[str, Any]:
    nothing: dict[str, Any] = {"tests": [], "runners": []}
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else nothing
