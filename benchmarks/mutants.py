"""Mutation testing: change the code in one small place, run the tests that should notice, count those that do.

    make mutants
    python benchmarks/mutants.py --sample 300 --seed 0 --results mutants.jsonl --seconds 300

A seeded sample of all mutants of the rooms in ``ROOMS`` is tried; with ``--results`` each verdict is a line of that
file, and what has a verdict there is not tried again, so that a run may be cut into slices of ``--seconds``. The score
printed at the end counts every verdict in the file that belongs to the sample.

Why not a library: mutmut 3 passes over every decorated function, here the optimizer's step, the ranking loop and the
writing of a checkpoint; cosmic-ray starts Python and PyTorch anew for each mutant, seconds each; and neither takes a
statement out, which is what "no fsync" is. Here a process that has imported the libraries forks for each mutant, and
the child imports the project with the one module changed, nothing on the disk.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SECONDS = 900
"""A mutant whose tests take longer hangs: it is noticed."""
_MEMORY = ("test_ledger", "test_memory_prediction", "test_operators")
_RUNS = ("test_disk", "test_power", "test_failed_runs", "test_resume", "test_watching")
ROOMS: dict[str, tuple[str, ...]] = {
    "memplan/memory/ledger.py": _MEMORY,
    "memplan/memory/cuda/*.py": ("test_allocator_limits", "test_allocator_rules", "test_allocator"),
    "memplan/memory/estimate.py": ("test_ledger", "test_allocator", "test_planner", "test_memory_prediction"),
    "memplan/search/planner.py": ("test_search", "test_planner"),
    "memplan/search/replan.py": ("test_recovery", "test_search"),
    "memplan/search/cost.py": ("test_cost", "test_search", "test_planner"),
    "memplan/memory/ghost.py": ("test_ghost", *_MEMORY),
    "memplan/ghosts.py": ("test_ghost", *_MEMORY),
    "tkbc/rehearsal.py": ("test_ghost", *_MEMORY, "test_allocator"),
    "tkbc/ranking/rivals.py": ("test_evaluation", "test_intervals", "test_memory_prediction"),
    "tkbc/step/stepper.py": ("test_step", "test_recovery", "test_interval_training", "test_memory_prediction"),
    "tkbc/step/trainer.py": ("test_step", "test_recovery", "test_interval_training", "test_memory_prediction"),
    "tkbc/step/loss.py": ("test_loss", "test_step", "test_memory_prediction"),
    "tkbc/models/regularizers.py": ("test_step", "test_models", "test_memory_prediction"),
    "tkbc/step/optimizers.py": ("test_recovery", "test_step", "test_memory_prediction"),
    "tkbc/ranking/evaluation.py": ("test_evaluation", "test_intervals", "test_memory_prediction"),
    "tkbc/use/evaluate.py": ("test_using", "test_watching"),
    "tkbc/runs/loop.py": (*_RUNS, "test_training", "test_recovery"),
    "tkbc/runs/folder.py": (*_RUNS, "test_training"),
    "tkbc/runs/state.py": ("test_resume", "test_disk", "test_watching"),
    "tkbc/runs/checkpoint.py": _RUNS,
    "tkbc/runs/checkpoint_folders.py": _RUNS,
    "memplan/files.py": ("test_power", "test_disk"),
    "tkbc/runs/recovery.py": ("test_recovery", "test_out_of_memory"),
}
"""Which test files, the quickest to notice first, answer for a module."""

BLIND = "not killed_at_random and not disk_that_is_full and not lost_terminal"
"""Slow tests that start a process of their own, which knows nothing of the mutant."""
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
PATHS = re.compile(r"folder|path|unfinished|_FILE|['\"]")
"""A division that joins paths: in its place anything else is an error at once, which says nothing of the tests."""


class Mutant(NamedTuple):
    """One change: the ``number``-th that can be made to a module."""

    module: str
    number: int
    line: int
    what: str

    @property
    def key(self) -> str:
        """What it is known by in the file of verdicts, as long as the module stays as it is."""
        return f"{self.module}:{self.line}: {self.what} [{self.number}]"


class Mutator(ast.NodeTransformer):
    """Counts the changes that can be made to a module, and makes number ``wanted`` of them."""

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted = wanted
        self.found: list[tuple[int, str]] = []

    def _offer(self, node: ast.AST, what: str, changed: Callable[[], ast.AST]) -> ast.AST:
        self.found.append((getattr(node, "lineno", 0), what))
        return ast.copy_location(changed(), node) if len(self.found) - 1 == self.wanted else node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Leave annotations alone: nothing runs them."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Change a value, not its annotation."""
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Change the body and the defaults of a function."""
        node.body = self._block(node.body)
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [None if d is None else self.visit(d) for d in node.args.kw_defaults]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Change what is in a class."""
        node.body = self._block(node.body)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit the parts, blocks of statements as blocks."""
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._block(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(item) if isinstance(item, ast.AST) else item for item in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Take a statement out: a call, an assignment to a part of something, a raise, a return of nothing."""
        changed = []
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text or isinstance(statement, (ast.Import, ast.ImportFrom)):
                changed.append(statement)
                continue
            new: ast.AST = statement
            plain = (ast.Raise, ast.Continue, ast.Break, ast.Delete, ast.AugAssign)
            if isinstance(statement, plain) or (
                isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Yield)
            ):
                new = self._offer(statement, f"no {ast.unparse(statement)[:60]!r}", ast.Pass)
            if new is statement:
                new = self.visit(statement)
            changed.append(new)
        return changed  # type: ignore[return-value]

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Leave the wording of messages alone."""
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Move a limit by one, or turn a comparison round."""
        self.generic_visit(node)
        for at, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]

            def changed(at: int = at, other: type[ast.cmpop] = other) -> ast.AST:
                new = copy.deepcopy(node)
                new.ops[at] = other()
                return new

            offered = self._offer(node, f"{type(operator).__name__} → {other.__name__}", changed)
            if offered is not node:
                return offered
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Put another operation in place of one."""
        self.generic_visit(node)
        other = OPERATORS.get(type(node.op))
        if other is None or (isinstance(node.op, ast.Div) and PATHS.search(ast.unparse(node))):
            return node
        what = f"{type(node.op).__name__} → {other.__name__} in {ast.unparse(node)[:50]!r}"
        return self._offer(node, what, lambda: ast.BinOp(node.left, other(), node.right))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Put or in place of and, and in place of or."""
        self.generic_visit(node)
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        what = f"{type(node.op).__name__} → {other.__name__}"
        return self._offer(node, what, lambda: ast.BoolOp(other(), node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Leave a not or a minus out."""
        self.generic_visit(node)
        if not isinstance(node.op, (ast.Not, ast.USub)):
            return node
        return self._offer(node, f"no {type(node.op).__name__}", lambda: node.operand)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Choose the other of two."""
        self.generic_visit(node)
        return self._offer(node, "the other of two", lambda: ast.IfExp(node.test, node.orelse, node.body))

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Add one to a number; turn a truth round."""
        if isinstance(node.value, bool):
            return self._offer(node, f"not {node.value}", lambda: ast.Constant(not node.value))
        if isinstance(node.value, (int, float)):
            return self._offer(node, f"{node.value} + 1", lambda: ast.Constant(node.value + 1))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        """Never take a branch."""
        offered = self._offer(
            node, f"never {ast.unparse(node.test)[:60]!r}", lambda: ast.If(ast.Constant(False), node.body, node.orelse)
        )
        return offered if offered is not node else self.generic_visit(node)


def is_for_readers(node: ast.stmt) -> bool:
    """Return whether a statement is there for type checkers alone."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def parse(module: str) -> ast.Module:
    """Return a module's syntax tree."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not is_for_readers(node)]
    return tree


def mutants_of(module: str) -> Iterator[Mutant]:
    """Yield every change that can be made to a module."""
    mutator = Mutator()
    mutator.generic_visit(parse(module))
    for number, (line, what) in enumerate(mutator.found):
        yield Mutant(module, number, line, what)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed syntax tree."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = mutant.module.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> object:
        """Answer for the one module."""
        del path, target
        file = ROOT / self.mutant.module
        return importlib.util.spec_from_file_location(name, file, loader=self) if name == self.name else None  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        """Leave that to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        tree = parse(self.mutant.module)
        Mutator(self.mutant.number).generic_visit(tree)
        exec(compile(ast.fix_missing_locations(tree), module.__file__ or "", "exec"), module.__dict__)


def import_libraries() -> None:
    """Import what every child needs and no mutant changes."""
    for name in ("hypothesis", "numba", "numpy", "pydantic", "pytest", "safetensors.torch", "torch", "torch.profiler"):
        importlib.import_module(name)


def verdict(mutant: Mutant | None, tests: Sequence[str]) -> str:
    """Return what the tests say of a mutant, in a process of its own: killed, killed (hangs) or survived."""
    child = os.fork()
    if child == 0:
        _run_tests(mutant, tests)
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else "killed"
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed (hangs)"
        time.sleep(0.05)


def _run_tests(mutant: Mutant | None, tests: Sequence[str]) -> None:
    """Run pytest in this process, which is a child, and end it with pytest's status."""
    status = 99
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        if mutant is not None:
            sys.meta_path.insert(0, Changed(mutant))
        import pytest

        with tempfile.TemporaryDirectory() as scratch:
            options = [
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--basetemp={scratch}/t",
                f"--rootdir={ROOT}",
                "-k",
                BLIND,
            ]
            status = int(pytest.main([*options, *(str(ROOT / "tests" / f"{name}.py") for name in tests)]))
    finally:
        os._exit(status)


def tests_for(module: str) -> list[str]:
    """Return the test files that answer for a module."""
    named = next(tests for pattern, tests in ROOMS.items() if Path(module).match(pattern))
    return [name for name in named if (ROOT / "tests" / f"{name}.py").is_file()]


def sample(size: int, seed: int) -> list[Mutant]:
    """Return a sample of all mutants, in an order that is the same for every size."""
    modules = sorted(str(path.relative_to(ROOT)) for pattern in ROOMS for path in ROOT.glob(pattern))
    everything = [mutant for module in modules for mutant in mutants_of(module)]
    # By a digest each, so that a change in one module leaves the others' places in the sample alone.
    everything.sort(key=lambda m: hashlib.sha256(f"{seed} {m.module} {m.number} {m.what}".encode()).digest())
    print(f"{len(everything):,} mutants of {len(modules)} modules, of which {min(size, len(everything)):,} are tried")
    return everything[:size]


def main() -> None:
    """Try the sample's mutants that have no verdict yet; print those that survive, and the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose path holds this")
    parser.add_argument("--again", action="store_true", help="try those that survived once more")
    parser.add_argument("--results", type=Path, default=None, help="a file of verdicts, a line each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after this time")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    chosen = [mutant for mutant in sample(options.sample, options.seed) if options.only in mutant.module]
    known: dict[str, str] = {}
    if options.results is not None and options.results.exists():
        lines = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
        known = {line["mutant"]: line["verdict"] for line in lines}
    begin = time.monotonic()
    import_libraries()

    def note(key: str, found: str) -> None:
        known[key] = found
        if options.results is not None:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"mutant": key, "verdict": found}) + "\n")

    for mutant in chosen:
        if mutant.key in known and not (options.again and known[mutant.key] == "survived"):
            continue
        if time.monotonic() - begin > options.seconds:
            break
        tests = tests_for(mutant.module)
        for name in tests:
            if f"no mutant: {name}" not in known:
                note(f"no mutant: {name}", verdict(None, [name]))
            if known[f"no mutant: {name}"] != "survived":
                raise SystemExit(f"{name} fails without a mutant")
        note(mutant.key, verdict(mutant, tests))
        print(f"{known[mutant.key]:<15} {mutant.key}", flush=True)
    report(chosen, known)


def report(chosen: Sequence[Mutant], known: dict[str, str]) -> None:
    """Print the score by module and the survivors."""
    tried = [mutant for mutant in chosen if mutant.key in known]
    for module in sorted({mutant.module for mutant in tried}):
        verdicts = [known[mutant.key] for mutant in tried if mutant.module == module]
        killed = sum(verdict != "survived" for verdict in verdicts)
        print(f"{module:<40} {killed:>4} of {len(verdicts):>4} killed")
    survivors = [mutant for mutant in tried if known[mutant.key] == "survived"]
    with contextlib.suppress(ZeroDivisionError):
        killed = len(tried) - len(survivors)
        print(f"{killed} of {len(tried)} killed, {killed / len(tried):.1%}; {len(chosen) - len(tried)} not tried yet")
    for mutant in survivors:
        print(f"  survived: {mutant.key}")


if __name__ == "__main__":
    main()
