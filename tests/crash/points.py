"""Cut everything that is written at every system call, and go on from what each kind of disk may be left with.

    make crash-points

Compiles recorder.c, starts itself with it under LD_PRELOAD, and prints a table: for each thing that is written the
system calls, the states of the disk tried and those survived, and the points at which the disk was full. Why
LD_PRELOAD: the tensors are written by a library in Rust, which a layer in Python would not see; one recorded run gives
every state, so that hundreds are tried without starting PyTorch anew. Exit status 1 where a state was not survived.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.crash.disk import crash_states, read_calls, read_disk
from tests.crash.scenarios import SCENARIOS, Scenario

HERE = Path(__file__).resolve().parent


class Row(NamedTuple):
    """What became of one thing that is written."""

    what: str
    calls: int
    states: int
    survived: int
    full: int
    full_survived: int


def recorder() -> ctypes.CDLL:
    """Return the recorder that this process was started with."""
    found = ctypes.CDLL(None)
    found.recorder_stop.restype = ctypes.c_long
    return found


def survives(action: Callable[[], None], told: str) -> bool:
    """Return whether ``action`` raises nothing; print what it raises."""
    try:
        action()
    except Exception:  # noqa: BLE001 - whatever it is, it was not survived
        print(f"NOT SURVIVED: {told}\n{traceback.format_exc()}", file=sys.stderr)
        return False
    return True


def try_scenario(scenario: Scenario, scratch: Path, every: int) -> Row:
    """Record ``scenario`` once, try each state of the disk, then each point at which it is full."""
    tool, root, log = recorder(), scratch / "disk", scratch / "log"
    root.mkdir(parents=True)
    with scenario(root) as acting:
        before = read_disk(root)
        tool.recorder_start(os.fsencode(root), os.fsencode(log))
        acting.act()
        tool.recorder_stop()
        acting.check(root, done=True)
        calls = read_calls(log, root)
        states = survived = 0
        for number, (made, kind, write) in enumerate(crash_states(before, calls)):
            if number % every and made < len(calls):
                continue
            shutil.rmtree(root)
            write(root)
            states += 1
            told = f"{scenario.__name__}: after {made} of {len(calls)} calls, {kind}"
            survived += survives(lambda made=made: acting.check(root, done=made == len(calls)), told)
    full, full_survived = fill(scenario, scratch, every)
    return Row((scenario.__doc__ or "").rstrip("."), len(calls), states, survived, full, full_survived)


def fill(scenario: Scenario, scratch: Path, every: int) -> tuple[int, int]:
    """Let the disk be full at each call that needs room; return the points tried and those survived."""
    tool, at, tried, survived = recorder(), 0, 0, 0
    while True:
        root = scratch / "full"
        root.mkdir()
        with scenario(root) as acting:
            tool.recorder_refuse(os.fsencode(root), at)
            said = None
            try:
                acting.act()
            except Exception as error:  # noqa: BLE001 - judged below
                said = error
            needed = tool.recorder_stop()
            if needed <= at:
                shutil.rmtree(root)
                return tried, survived
            tried += 1

            told = f"{scenario.__name__}: full at call {at}"
            survived += survives(partial(acting.check_full, root, said), told)
        shutil.rmtree(root)
        at += every


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="try only every so many states and points")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if "recorder" not in os.environ.get("LD_PRELOAD", ""):
        sys.exit(start_with_recorder(sys.argv[1:]))
    rows = []
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(try_scenario(scenario, Path(scratch).resolve(), options.every))
    if options.json:
        print(json.dumps([row._asdict() for row in rows]))
    else:
        print("| what is written | system calls | states tried | survived | full at | survived |")
        print("|---|---:|---:|---:|---:|---:|")
        for row in rows:
            print("| " + " | ".join(str(value) for value in row) + " |")
    sys.exit(any(row.survived < row.states or row.full_survived < row.full for row in rows))


def start_with_recorder(arguments: list[str]) -> int:
    """Compile the recorder and run this program with it; return its exit status."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("no C compiler: cc, gcc or clang has to be there to build recorder.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "recorder.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "recorder.c")], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.crash.points", *arguments]
        return subprocess.run(command, env=environment, cwd=HERE.parents[1], check=False).returncode


if __name__ == "__main__":
    main()
