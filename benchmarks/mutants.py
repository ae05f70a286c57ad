"""Mutation testing: change the code in one small place, run the tests that should notice, count those that do.

    make mutants
    python benchmarks/mutants.py --sample 250 --seed 0 --results mutants.jsonl --seconds 300

A seeded sample of all mutants of the rooms (mutation/rooms.py) is tried; with ``--results`` each verdict is a line of
that file, and what has a verdict there is not tried again, so that a run may be cut into slices of ``--seconds``. The
score printed at the end counts every verdict in the file that belongs to the sample.

One process collects the tests and learns, by running each once, which of them run which line. For each mutant it forks;
the child gives the living function its changed code and runs the tests of that line, the quick ones first, to the first
that fails. What runs when a module is imported is changed in a child that has imported the libraries alone. Nothing on
the disk is changed. Tests that start a process of their own know nothing of the mutant, and do not count, nor do those
that are marked as slow. ``--lines`` keeps what was learned; delete it after a change of the modules.

Why not a library: mutmut 3 passes over every decorated function, here the optimizer's step, the ranking loop and the
writing of a checkpoint; cosmic-ray starts Python and PyTorch anew for each mutant, seconds each; and neither takes a
statement out, which is what "no fsync" is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# A process that has started threads is not to be forked, and small tensors only wait for each other's.
os.environ.update(OMP_NUM_THREADS="1", KINETO_LOG_LEVEL="99", TRITON_INTERPRET="1")

from mutation.changes import ROOT, Mutant, mutants_of
from mutation.rooms import modules
from mutation.trying import SURVIVED, import_libraries, try_all


def sample(size: int, seed: int) -> list[Mutant]:
    """Return a sample of all mutants, in an order that is the same for every size."""
    everything = [mutant for module in modules() for mutant in mutants_of(module)]
    # By a digest each, so that a change in one module leaves the others' places in the sample alone.
    everything.sort(key=lambda m: hashlib.sha256(f"{seed} {m.module} {m.number} {m.what}".encode()).digest())
    n_tried = min(size, len(everything))
    print(f"{len(everything):,} mutants of {len(modules())} modules, of which {n_tried:,} are tried")
    return everything[:size]


def read(results: Path) -> dict[str, str]:
    """Return the verdicts that are known, the last one of each mutant."""
    if not results.exists():
        return {}
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {line["mutant"]: line["verdict"] for line in lines}


def main() -> None:
    """Try the sample's mutants that have no verdict yet; print those that survive, and the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose path matches this regular expression")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    parser.add_argument("--results", type=Path, default=Path("mutants.jsonl"), help="a file of verdicts, a line each")
    parser.add_argument(
        "--lines", type=Path, default=Path("mutants_lines.json"), help="where it is kept which tests run which lines"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after this time")
    options = parser.parse_args()
    results, lines = options.results.resolve(), options.lines.resolve()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    chosen = [mutant for mutant in sample(options.sample, options.seed) if re.search(options.only, mutant.module)]
    known = read(results)
    begin = time.monotonic()
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)  # the tests' own output goes nowhere

    def note(mutant: Mutant, verdict: str) -> None:
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"mutant": mutant.key, "verdict": verdict}) + "\n")
        print(f"{verdict:<15} {mutant.key}", file=told)

    wanted = [m for m in chosen if m.key not in known or (options.again and known[m.key] == SURVIVED)]
    if wanted:
        import_libraries()
        try_all(wanted, lines, note, lambda: time.monotonic() - begin > options.seconds)
    report(chosen, read(results))


def report(chosen: Sequence[Mutant], known: dict[str, str]) -> None:
    """Print the score by module and the survivors."""
    tried = [mutant for mutant in chosen if mutant.key in known]
    for module in sorted({mutant.module for mutant in tried}):
        verdicts = [known[mutant.key] for mutant in tried if mutant.module == module]
        killed = sum(verdict != SURVIVED for verdict in verdicts)
        print(f"{module:<40} {killed:>4} of {len(verdicts):>4} killed")
    survivors = [mutant for mutant in tried if known[mutant.key] == SURVIVED]
    if tried:
        killed = len(tried) - len(survivors)
        print(f"{killed} of {len(tried)} killed, {killed / len(tried):.1%}; {len(chosen) - len(tried)} not tried yet")
    for mutant in survivors:
        print(f"  survived: {mutant.key}")


if __name__ == "__main__":
    main()
