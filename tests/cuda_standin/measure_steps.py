"""Takes some steps and ranks one batch of random workloads on the stand-in device: measured against predicted bytes.

    run.py --gpu T4 python tests/cuda_standin/measure_steps.py --count 300 --seed 7
    run.py --gpu H100 python tests/cuda_standin/measure_steps.py --count 300 --seed 7 --large-share 1 --out steps.json

Prints what share is exact, then what is not, by cause: an operator that allocates what the ledger does not know, or a
tensor of the ledger that is never allocated. A quarter of the workloads has ICEWS14's shape, the others are small.
--settle waits after every autograd.grad, whose thread lets go of its last tensors some milliseconds late.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memplan.memory.ledger import Ledger
from memplan.memory.operators import DETERMINISTIC_WORKSPACE, WORKSPACE_VARIABLE, workspace_bytes
from memplan.memory.programs.step import run
from memplan.plan import Bytes, MemoryCheck
from memplan.workload import Workload
from tests.cuda_standin.answered import answer
from tests.cuda_standin.device import is_here, set_capacity
from tests.cuda_standin.workloads import step_workloads
from tkbc.verify import measure, verify

SETTLE_SECONDS = 0.02
NAMES_OPERATORS = hasattr(torch._C, "_cuda_setMemoryMetadata")
"""Whether this PyTorch's allocator can note what each allocation is for; 2.14 can, 2.8 cannot."""
PLENTY_BYTES = 10**12
"""The stand-in's memory while steps are measured: none runs out of it, and nothing is computed in it."""


class Cause(NamedTuple):
    """Why measured and predicted may differ, and the bytes of the largest tensor concerned."""

    what: str
    n_bytes: int


class Measured(NamedTuple):
    """A workload's check, and what it differs by."""

    workload: Workload
    check: MemoryCheck
    causes: tuple[Cause, ...] = ()
    """Where it is not exact: what is allocated and not in the ledger, or in the ledger and not allocated."""

    @property
    def differences(self) -> dict[str, int]:
        """Measured less predicted requested bytes of each phase that differs."""
        phases = {p.name: p.measured.requested_bytes - p.predicted.requested_bytes for p in self.check.phases}
        return {name: difference for name, difference in phases.items() if difference}

    @property
    def is_exact(self) -> bool:
        """Whether every phase requested what was predicted, and the whole what was predicted to be allocated."""
        return not self.differences and not self.off("requested_bytes") and not self.off("allocated_bytes")

    def off(self, name: str) -> float:
        """Return measured / predicted − 1 of the peak's number of that name."""
        predicted, measured = (
            getattr(reading, name) for reading in (self.check.peak.predicted, self.check.peak.measured)
        )
        return measured / predicted - 1 if predicted else float(measured > 0)


def measured(workload: Workload) -> Measured:
    """Return the check of one workload, from an empty cache; where it is not exact, with its causes."""
    found = Measured(workload, verify(workload).check)
    return found if found.is_exact else found._replace(causes=tuple(causes(workload)))


def causes(workload: Workload) -> list[Cause]:
    """Return where allocations and ledger differ in the sizes that occur: each cause once, with its largest size."""
    told = _names_by_size(run(workload))
    # The last queries of the evaluation are few, and take less than is told: known, if not told.
    few = 2 * (workload.eval_batch_size // 2 + 1) % workload.eval_batch_size or workload.eval_batch_size
    known = {*told, *_names_by_size(run(workload.model_copy(update={"eval_batch_size": few}), training=False))}
    really = allocations_by_operator(workload)
    found: dict[str, int] = {}
    for operator, n_bytes in really:
        if n_bytes not in known:
            what = f"{operator} allocates what the ledger does not know"
            found[what] = max(n_bytes, found.get(what, 0))
    sizes = {n_bytes for _, n_bytes in really}
    for n_bytes, names in told.items():
        if n_bytes not in sizes:
            found |= {f"{name!r} of the ledger is never allocated": n_bytes for name in names}
    workspace = workload.workspace_bytes
    takers = [operator for operator, n_bytes in really if n_bytes == workspace]
    if len(takers) != len(told.get(workspace, ())):
        told_workspaces = f"cuBLAS workspaces: {len(told.get(workspace, ()))} told"
        found[f"{told_workspaces}, {len(takers)} taken by {', '.join(sorted(set(takers)))}"] = workspace
    return [Cause(*item) for item in found.items()] or [Cause("other lives of the ledger's own tensors", 0)]


def _names_by_size(ledger: Ledger) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for allocation, is_birth in ledger.events:
        if allocation is not None and is_birth and allocation.n_bytes:
            found.setdefault(allocation.n_bytes, []).append(allocation.name)
    return found


def allocations_by_operator(workload: Workload) -> list[tuple[str, int]]:
    """Return every allocation of the measured work: the operator that asked, and the requested bytes."""
    torch.cuda.memory._record_memory_history(max_entries=1_000_000, stacks="python", clear_history=True)
    try:
        with _NamesOperators():
            measure(workload)
        (trace,) = torch.cuda.memory._snapshot()["device_traces"]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return [(e.get("user_metadata") or "(no operator)", e["size"]) for e in trace if e["action"] == "alloc"]


class _NamesOperators(TorchDispatchMode):
    """Writes the operator under way into the allocator's record, in autograd's thread too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not NAMES_OPERATORS:
            return func(*args, **(kwargs or {}))
        torch._C._cuda_setMemoryMetadata(str(func))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch._C._cuda_setMemoryMetadata("")


@contextmanager
def settled_gradients() -> Iterator[None]:
    """Wait after every autograd.grad until the engine's thread has let go of its task."""
    grad = torch.autograd.grad

    def settled(*arguments: Any, **options: Any) -> Any:
        found = grad(*arguments, **options)
        time.sleep(SETTLE_SECONDS)
        return found

    torch.autograd.grad = settled
    try:
        yield
    finally:
        torch.autograd.grad = grad


def report(rows: Sequence[Measured]) -> None:
    """Print the shares of what is exact, the worst, and what is not exact by cause."""
    count = len(rows)

    def share(name: str, hits: Iterable[bool]) -> None:
        n_hits = sum(hits)
        print(f"  {name:44} {n_hits:5} of {count} ({n_hits / count:.1%})")

    share("requested bytes exact at the peak", (row.off("requested_bytes") == 0 for row in rows))
    share("requested bytes exact in every phase", (not row.differences for row in rows))
    share("allocated bytes exact at the peak", (row.off("allocated_bytes") == 0 for row in rows))
    share("reserved bytes exact at the peak", (row.off("reserved_bytes") == 0 for row in rows))
    share("reserved bytes within 2%", (abs(row.off("reserved_bytes")) <= 0.02 for row in rows))
    for name in Bytes.model_fields:
        if getattr(rows[0].check.peak.measured, name) is not None:
            worst = max(rows, key=lambda row: row.off(name))
            print(f"  worst under, {name}: {max(0.0, worst.off(name)):.2%} ({described(worst.workload)})")
    by_cause = collections.defaultdict(list)
    for row in rows:
        for cause in row.causes:
            by_cause[cause.what].append((cause.n_bytes, row))
    print("  What is not exact, by cause (a workload may have several):")
    for cause, some in sorted(by_cause.items(), key=lambda item: -len(item[1])):
        kinds = collections.Counter(f"{w.score} {w.scoring} {w.precision}" for w in (row.workload for _, row in some))
        n_bytes, row = max(some, key=lambda item: item[0])
        print(f"  {len(some):4} {cause}: {', '.join(f'{kind} ×{n}' for kind, n in kinds.most_common(4))}")
        print(f"         up to {n_bytes:,} B, {described(row.workload)}: {row.differences}")


def described(workload: Workload) -> str:
    """Return a workload in a line."""
    w = workload
    return (
        f"{w.model} {w.score} {w.scoring} {w.precision} {w.optimizer} N={w.n_entities} T={w.n_timestamps} d={w.rank} "
        f"B={w.batch_size} b={w.micro_batch_size} C={w.chunk_size} eb={w.eval_batch_size} ec={w.eval_chunk_size} "
        f"emb_reg={w.emb_reg:g}{' over parts' if w.n3_parts else ''} time_reg={w.time_reg:g} unit_norm={w.unit_norm} "
        f"intervals={w.intervals}"
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large-share", type=float, default=0.25, help="share of workloads of ICEWS14's shape")
    parser.add_argument("--settle", action="store_true")
    parser.add_argument("--deterministic", action="store_true", help="as memplan train --deterministic runs them")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if is_here():
        answer()
        set_capacity(PLENTY_BYTES)
    extra = be_deterministic() if given.deterministic else {}
    rows: list[Measured] = []
    crashed = []
    begin = time.monotonic()
    with settled_gradients() if given.settle else nullcontext():
        for drawn in step_workloads(given.count, given.seed, given.large_share):
            workload = drawn.model_copy(update=extra)
            try:
                rows.append(measured(workload))
            except Exception:  # noqa: BLE001 - one workload's failure must not cost the others' results
                crashed.append((workload, traceback.format_exc()))
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, seed {given.seed}: {len(rows)} workloads in "
        f"{time.monotonic() - begin:.0f} s, {len(crashed)} crashed"
    )
    if rows:
        report(rows)
    for workload, text in crashed[:5]:
        print(f"CRASHED {described(workload)}\n{text[-1000:]}")
    if given.out:
        given.out.write_text(json.dumps([_as_json(row) for row in rows]))
    sys.exit(bool(crashed))


def be_deterministic() -> dict[str, Any]:
    """Let PyTorch use deterministic algorithms alone; return what a workload has to say of it."""
    os.environ[WORKSPACE_VARIABLE] = DETERMINISTIC_WORKSPACE  # read with the first product
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return {"deterministic": True, "workspace_bytes": workspace_bytes(None, DETERMINISTIC_WORKSPACE)}


def _as_json(row: Measured) -> dict[str, Any]:
    return {
        "workload": row.workload.model_dump(),
        "differences": row.differences,
        "causes": row.causes,
        "peak": row.check.peak.model_dump(),
    }


if __name__ == "__main__":
    main()
