"""What ends a run from outside: a signal, several at once, a terminal that is gone."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memplan.app.views import progress
from memplan.app.views.progress import stop_on_signal
from memplan.app.views.terminal import make_console
from tests.support.training import newest_checkpoint

TRAIN = [sys.executable, "-m", "memplan.app.cli", "train", "--auto-fit-gpu", "--device", "cpu", "--rank", "8"]
TRAIN += ["--max-epochs", "5000"]

LONGEST_SECONDS = 600
"""Where a process hangs the test ends after this; no run comes near it, however slow the machine."""


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def wait_for_run(folder: Path, process: subprocess.Popen[str]) -> None:
    """Return when the run is under way."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (folder / "progress.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_a_signal_ends_the_command_with_a_checkpoint(tmp_path: Path, number: int) -> None:
    process = subprocess.Popen(
        [*TRAIN, "--run-dir", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # the tests themselves may run under nohup
    )
    wait_for_run(tmp_path / "run", process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 128 + number, errors
    assert "stopping after this micro-batch" in output
    assert f"memplan train --resume {tmp_path / 'run'}" in output
    assert "Traceback" not in errors
    assert (newest_checkpoint(tmp_path / "run") / "model.safetensors").is_file()


def take_the_terminal() -> None:
    """Make the terminal the session leader's own: that is how the hang-up finds it, and not where nohup has begun."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.close(os.open(os.ttyname(1), os.O_RDWR))


@pytest.mark.slow
def test_a_lost_terminal_ends_the_command_with_a_checkpoint(tmp_path: Path) -> None:
    """As a lost ssh does: SIGHUP comes, and what is printed after it goes nowhere, with an error."""
    mine, its = pty.openpty()
    errors = (tmp_path / "errors").open("wb")
    process = subprocess.Popen(
        [*TRAIN, "--run-dir", str(tmp_path / "run")],
        stdin=its,
        stdout=its,
        stderr=errors,
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=take_the_terminal,
        text=True,
    )
    os.close(its)
    wait_for_run(tmp_path / "run", process)
    os.close(mine)
    process.wait(timeout=LONGEST_SECONDS)
    errors.close()
    assert process.returncode == 128 + signal.SIGHUP, (tmp_path / "errors").read_text()
    assert (newest_checkpoint(tmp_path / "run") / "model.safetensors").is_file()


def test_under_nohup_a_lost_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal(make_console()) as came:
            signal.raise_signal(signal.SIGHUP)
            assert came() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_signals_within_a_second_are_one_wish_and_a_later_one_ends_at_once(clock: Clock) -> None:
    """A wrapper sends INT and TERM one after the other; a person waits and presses again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with stop_on_signal(make_console()) as came:
        assert came() is None
        signal.raise_signal(signal.SIGTERM)
        for later in (0.0, 0.5, 0.4):
            clock.now += later
            signal.raise_signal(signal.SIGINT)
            assert came() == signal.SIGTERM
        clock.now += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before
