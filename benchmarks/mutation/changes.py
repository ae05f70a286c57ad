"""The small changes that can be made to a module: limits by one, comparisons turned round, statements left out."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
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


def changed_tree(mutant: Mutant) -> ast.Module:
    """Return the syntax tree of a mutant's module with its change made."""
    tree = parse(mutant.module)
    Mutator(mutant.number).generic_visit(tree)
    return ast.fix_missing_locations(tree)
