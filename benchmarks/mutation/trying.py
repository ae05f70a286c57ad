"""Try mutants: each in a process of its own, forked from one that has collected the tests or imported the libraries."""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mutation.changes import ROOT, Mutant
from mutation.knowledge import Test, Watcher, keep, read_knowledge
from mutation.placing import import_changed, put_in_place, replaced_code
from mutation.rooms import modules, tests_for

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
    """Run ``work`` in a fork of this process, in a group of its own; return what its status says.

    It hangs when it has taken ``seconds`` of the processor's time, however busy the machine is, or waits ten times as
    long.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
            if math.isfinite(seconds):
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
            status = work()
        finally:
            os._exit(status)
    deadline = time.monotonic() + 10 * seconds
    verdict = HANGS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            verdict = KILLED
            if os.WIFEXITED(status):
                verdict = _STATUS.get(os.WEXITSTATUS(status), KILLED)
            elif os.WTERMSIG(status) == signal.SIGXCPU:
                verdict = HANGS
            break
        time.sleep(0.01)
    try:
        os.killpg(child, signal.SIGKILL)  # what it has started ends with it
    except ProcessLookupError:
        return verdict
    if verdict == HANGS:
        os.waitpid(child, 0)
    return verdict


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
        self.left = [mutant.key for mutant in self.wanted]
        """Those that are to be tried by an import."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn which tests run which lines, then try the mutants that change functions alone."""
        items = {item.nodeid: item for item in session.items}
        knowledge = read_knowledge(self.file)
        if newer := [item for name, item in items.items() if name not in knowledge.tests]:
            self._learn(session, newer)
            knowledge = read_knowledge(self.file)
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
                self.left.remove(mutant.key)
            self._clean()
        (self.scratch / "left.json").write_text(json.dumps(self.left), encoding="utf-8")
        return True

    def _learn(self, session: pytest.Session, items: Sequence[pytest.Item]) -> None:
        watcher = Watcher({str(ROOT / module) for module in modules()})

        def work() -> int:
            session.config.pluginmanager.register(watcher)
            run(session, items, stop=False)
            keep(self.file, watcher.found())
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
        left = json.loads((scratch / "left.json").read_text(encoding="utf-8"))
        for mutant in wanted:
            if must_stop():
                return
            if mutant.key in left:
                note(mutant, try_import(mutant, knowledge.tests_of_import(mutant), scratch))


def try_import(mutant: Mutant, tests: Sequence[Test], scratch: Path) -> str:
    """Try a mutant that changes what runs when its module is imported."""

    def work() -> int:
        be_silent()
        import_changed(mutant)
        return int(pytest.main([*arguments(scratch), "-x", *(test.name for test in tests)]))

    return in_a_child(work, longest(tests)) if tests else SURVIVED
