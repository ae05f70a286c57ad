"""Trains every model with every score, scoring and precision on the stand-in device, through the command line:

    run.py --gpu T4 python tests/cuda_standin/train_grid.py
    run.py --gpu H100 python tests/cuda_standin/train_grid.py --models TNTPairRE --scores l1 l2 --out grid.json

Each cell is ``memplan train --auto-fit-gpu --device cuda --max-epochs 1`` on the demo graph, with the checks of numbers
answered (answered.py). Prints a row a cell: the exit status, and what memory_check.json says is not exact. Ends with 1
where a cell fails or is not exact.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from memplan.plan import MemoryCheck
from memplan.workload import PRECISIONS, SCORINGS, TRAITS

TIMEOUT_SECONDS = 300


class Cell(NamedTuple):
    """What is trained."""

    model: str
    score: str
    scoring: str
    precision: str


class Trained(NamedTuple):
    """How a cell ended."""

    cell: Cell
    status: int
    differences: dict[str, int]
    """Measured less predicted requested bytes by phase, and by kind for the peak; {}: all exact."""
    last_words: str
    """The end of what it wrote, where it failed."""

    @property
    def is_exact(self) -> bool:
        """Whether it ended well and its memory check is exact."""
        return self.status == 0 and not self.differences


def cells(
    models: Sequence[str], scores: Sequence[str], scorings: Sequence[str], precisions: Sequence[str]
) -> Iterator[Cell]:
    """Yield every cell that exists."""
    for model, traits in TRAITS.items():
        for score in traits.scores:
            for scoring in SCORINGS:
                for precision in PRECISIONS:
                    cell = Cell(model, score, scoring, precision)
                    asked = (models, scores, scorings, precisions)
                    if all(value in wanted for value, wanted in zip(cell, asked, strict=True)):
                        yield cell


def trained(cell: Cell, *arguments: str) -> Trained:
    """Train one cell in a process of its own, forked from one that has imported everything and used no CUDA."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "memplan.app.cli", "memplan.app.jobs.train", "tkbc.runs.loop", "tests.cuda_standin.train_grid"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = Path(scratch) / "run", Path(scratch) / "log"
        process = context.Process(target=_train, args=(cell, folder, log, arguments))
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        status = process.exitcode
        assert status is not None
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        checked = folder / "memory_check.json"
        if status == 0 and not checked.is_file():
            status = 1
        differences = _differences(checked) if checked.is_file() else {}
    return Trained(cell, status, differences, "" if status == 0 else text[-1500:])


def _train(cell: Cell, folder: Path, log: Path, arguments: Sequence[str]) -> None:
    from memplan.app.cli import main
    from tests.cuda_standin.answered import answer

    answer()
    sys.argv = ["memplan", "train", "--auto-fit-gpu", "--device", "cuda", "--max-epochs", "1", "--run-dir", str(folder)]
    for name, value in cell._asdict().items():
        sys.argv += [f"--{name}", value]
    sys.argv += arguments
    with log.open("w", encoding="utf-8") as written, redirect_stdout(written), redirect_stderr(written):
        try:
            main()
        except Exception:  # noqa: BLE001 - what no user should see is what is looked for
            traceback.print_exc(file=written)
            sys.exit(1)


def _differences(path: Path) -> dict[str, int]:
    check = MemoryCheck.model_validate_json(path.read_text(encoding="utf-8"))
    found = {p.name: p.measured.requested_bytes - p.predicted.requested_bytes for p in check.phases}
    for name in ("requested_bytes", "allocated_bytes", "reserved_bytes"):
        found[f"peak {name}"] = (getattr(check.peak.measured, name) or 0) - (getattr(check.peak.predicted, name) or 0)
    return {name: difference for name, difference in found.items() if difference}


def main() -> None:
    """Train the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(TRAITS))
    parser.add_argument("--scores", nargs="+", default=["dot", "l1", "l2"])
    parser.add_argument("--scorings", nargs="+", default=list(SCORINGS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    begin = time.monotonic()
    for cell in cells(given.models, given.scores, given.scorings, given.precisions):
        row = trained(cell)
        rows.append(row)
        print(
            f"{' '.join(cell):40} status {row.status:3}  {row.differences or 'exact' if row.status == 0 else ''}",
            flush=True,
        )
        if row.last_words:
            print("    " + row.last_words.strip().splitlines()[-1])
    n_ended = sum(row.status == 0 for row in rows)
    n_exact = sum(row.is_exact for row in rows)
    print(f"{n_ended} of {len(rows)} ended well, {n_exact} exact, in {time.monotonic() - begin:.0f} s")
    if given.out:
        given.out.write_text(json.dumps([row._asdict() for row in rows]))
    sys.exit(n_exact < len(rows))


if __name__ == "__main__":
    main()
