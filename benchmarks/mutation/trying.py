"""Try mutants: each in a process of its own, forked from one that has collected the tests or imported the libraries."""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

import pytest

from mutation.changes import ROOT, Mutant
from mutation.placing import import_changed, put_in_place, replaced_code
from mutation.rooms import modules, tests_for
from mutation.watching import Test, Watcher

QUICK_SECONDS = 0.3
MOST_SECONDS = 45.0
"""Of tests for a mutant, as long as they take where nothing is changed: what they do not notice has survived."""
MOST_MEMORY_BYTES = 24 * 2**30
"""Of addresses: a mutant that asks for all there is shall fail, not the machine."""
SURVIVED, KILLED, HANGS, NOT_PLACED = "survived", "killed", "killed (hangs)", "not placed"
_STATUS = {0: SURVIVED, 3: NOT_PLACED}
Note = Callable[[Mutant, str], None]


def import_libraries() -> None:
    """Import what every child needs and no mutant changes."""
    for name in ("hypothesis", "numba", "numpy", "pydantic", "safetensors.torch", "torch", "torch.profiler", "typer"):
        importlib.import_module(name)


def in_a_child(work: Callable[[], int], seconds: float) -> str:
    """Run ``work`` in a fork of this process, in a group of its own; return what its status says."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
            status = work()
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    verdict = HANGS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            verdict = _STATUS.get(os.WEXITSTATUS(status), KILLED) if os.WIFEXITED(status) else KILLED
            break
        time.sleep(0.01)
    try:
        os.killpg(child, signal.SIGKILL)  # what it has started ends with it
    except ProcessLookupError:
        return verdict
    if verdict == HANGS:
        os.waitpid(child, 0)
    return verdict


class Knowledge:
    """Which tests run which line, how long they take, and which do not pass as it is."""

    def __init__(self, found: dict[str, Any]) -> None:
        """Of the tests that were watched; one that is newer is taken to run every line."""
        self.tests = {test.name: test for test in (Test(*row) for row in found["tests"])}
        self.runners = {(file, line): names for file, line, names in found["runners"]}

    def meet(self, names: Iterable[str]) -> None:
        """Take up the tests that are newer."""
        for name in names:
            self.tests.setdefault(name, Test(name, 0.0, True))

    def tests_of(self, mutant: Mutant, pairs: dict[CodeType, CodeType]) -> list[Test]:
        """Return the tests that run the changed line, or else its function , the quick ones first."""
        file, files = str(ROOT / mutant.module), tests_for(mutant.module)
        around = {line for _, _, line in list(pairs)[-1].co_lines() if line is not None}
        inside = set(self.runners.get((file, mutant.line), ()))
        inside = inside or {name for line in around for name in self.runners.get((file, line), ())}
        return self._in_order(files, inside)

    def tests_of_import(self, mutant: Mutant) -> list[Test]:
        """Return all tests that run a line of the module, the quick ones first."""
        file, files = str(ROOT / mutant.module), tests_for(mutant.module)
        inside = {name for (ran, _), names in self.runners.items() if ran == file for name in names}
        return self._in_order(files, inside)

    def _in_order(self, files: list[str], inside: set[str]) -> list[Test]:
        tests = [test for test in self.tests.values() if test.name.split("::")[0] in files]
        ordered = sorted(
            (test for test in tests if test.passes and (test.name in inside or test.seconds == 0)),
            key=lambda test: (test.seconds > QUICK_SECONDS, files.index(test.name.split("::")[0]), test.seconds),
        )
        until = accumulate(test.seconds for test in ordered)
        return [test for test, seconds in zip(ordered, until, strict=True) if seconds <= MOST_SECONDS]


def read_knowledge(file: Path) -> Knowledge:
    """Return what was learned of the tests."""
    return Knowledge(json.loads(file.read_text(encoding="utf-8")))


def longest(tests: Iterable[Test]) -> float:
    """Return the seconds after which a mutant hangs: it is noticed."""
    return 20 + 3 * sum(test.seconds for test in tests)


class Trier:
    """A plugin of pytest that, once the tests are collected, forks for each mutant instead of running them."""

    def __init__(
        self, scratch: Path, lines: Path, wanted: Iterable[Mutant], note: Note, must_stop: Callable[[], bool]
    ) -> None:
        self.scratch, self.wanted, self.note, self.must_stop = scratch, list(wanted), note, must_stop
        self.file = lines

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn which tests run which lines, then try the mutants that change functions alone."""
        items = {item.nodeid: item for item in session.items}
        if not self.file.exists():
            self._learn(session)
        knowledge = read_knowledge(self.file)
        knowledge.meet(items)
        for mutant in self.wanted:
            if self.must_stop():
                break
            pairs = replaced_code(mutant)
            if not pairs:
                continue
            tests = [test for test in knowledge.tests_of(mutant, pairs) if test.name in items]
            chosen = [items[test.name] for test in tests]

            def work(pairs: Any = pairs, chosen: Any = chosen) -> int:
                return run(session, chosen) if put_in_place(pairs) else 3

            verdict = in_a_child(work, longest(tests)) if chosen else SURVIVED
            if verdict != NOT_PLACED:
                self.note(mutant, verdict)
            self._clean()
        return True

    def _learn(self, session: pytest.Session) -> None:
        watcher = Watcher({str(ROOT / module) for module in modules()})

        def work() -> int:
            session.config.pluginmanager.register(watcher)
            run(session, session.items, stop=False)
            self.file.write_text(json.dumps(watcher.found()), encoding="utf-8")
            return 0

        if in_a_child(work, 3600) != SURVIVED:
            raise SystemExit("the tests do not come to their end without a mutant")
        self._clean()

    def _clean(self) -> None:
        for left in (self.scratch / "t").glob("*"):
            shutil.rmtree(left, ignore_errors=True)


def run(session: pytest.Session, items: Sequence[pytest.Item], *, stop: bool = True) -> int:
    """Run the tests as pytest does; 1 as soon as one fails."""
    if stop:
        session.config.pluginmanager.register(EndAtOnce())
    for at, item in enumerate(items):
        following = items[at + 1] if at + 1 < len(items) else None
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    return 0


class EndAtOnce:
    """A plugin of pytest: this process ends with the first test that fails."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End where a test failed."""
        if report.failed:
            os._exit(1)


def arguments(scratch: Path) -> list[str]:
    """Return what pytest is told in every process."""
    return ["-q", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={scratch / 't'}", f"--rootdir={ROOT}"]


def be_silent() -> None:
    """Let nothing of the tests' output through."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def try_all(wanted: Sequence[Mutant], lines: Path, note: Note, must_stop: Callable[[], bool]) -> None:
    """Try mutants and note each verdict: changed functions in one process after another, changed imports after them.

    ``lines``: where it is kept which tests run which lines. ``note`` has to write where other processes read.
    """
    asked = wanted if lines.exists() else [Mutant(module, 0, 0, "") for module in modules()]
    files = sorted({file for mutant in asked for file in tests_for(mutant.module)})
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        trier = Trier(scratch, lines, wanted, note, must_stop)

        def work() -> NoReturn:
            be_silent()
            status = pytest.main([*arguments(scratch), *files], plugins=[trier])
            os._exit(int(status))

        if in_a_child(work, float("inf")) != SURVIVED:
            raise SystemExit("the tests could not be collected")
        knowledge = read_knowledge(lines)
        for mutant in wanted:
            if must_stop():
                return
            if not replaced_code(mutant):
                note(mutant, try_import(mutant, knowledge.tests_of_import(mutant), scratch))


def try_import(mutant: Mutant, tests: Sequence[Test], scratch: Path) -> str:
    """Try a mutant that changes what runs when its module is imported."""

    def work() -> int:
        be_silent()
        import_changed(mutant)
        return int(pytest.main([*arguments(scratch), "-x", *(test.name for test in tests)]))

    return in_a_child(work, longest(tests)) if tests else SURVIVED
