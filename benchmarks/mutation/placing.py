"""Put a mutant in place: in the functions that live in this process, or in a module that is yet to be imported."""

from __future__ import annotations

import gc
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType, ModuleType

from mutation.changes import ROOT, Mutant, changed_tree, parse


def replaced_code(mutant: Mutant) -> dict[CodeType, CodeType] | None:
    """Return a function's new code by its old one; None where what runs at the import is changed too.

    An enclosing function changes with the one inside it. Code is equal where its text is and where it stands.
    """
    file = str(ROOT / mutant.module)
    old, new = (compile(tree, file, "exec") for tree in (parse(mutant.module), changed_tree(mutant)))
    pairs: dict[CodeType, CodeType] = {}
    return pairs if _pair(old, new, pairs, runs_at_import=True) else None


def _pair(old: CodeType, new: CodeType, pairs: dict[CodeType, CodeType], *, runs_at_import: bool) -> bool:
    """Collect the functions inside that differ; return whether nothing that runs at the import does."""
    inside = [[const for const in code.co_consts if isinstance(const, CodeType)] for code in (old, new)]
    rest = [[const for const in code.co_consts if not isinstance(const, CodeType)] for code in (old, new)]
    if runs_at_import and (old.co_code != new.co_code or repr(rest[0]) != repr(rest[1])):
        return False
    if len(inside[0]) != len(inside[1]):
        # A statement with a function in it was left out: the outer function, alone, is another.
        return not runs_at_import
    for one, other in zip(*inside, strict=True):
        if one == other:
            continue
        is_class = not one.co_flags & 0x2  # a class's body has no fast locals
        if not is_class:
            pairs[one] = other
        if not _pair(one, other, pairs, runs_at_import=is_class):
            return False
    return True


def functions_with(pairs: dict[CodeType, CodeType]) -> Iterator[FunctionType]:
    """Yield the living functions whose code is to be another, whatever decorates them."""
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and thing.__code__ in pairs:
            yield thing


def put_in_place(pairs: dict[CodeType, CodeType]) -> bool:
    """Give the living functions their new code; return whether there was one and all could take it."""
    found = list(functions_with(pairs))
    try:
        for function in found:
            function.__code__ = pairs[function.__code__]
    except ValueError:  # another number of free variables
        return False
    return bool(found)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed syntax tree."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = mutant.module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> object:
        """Answer for the one module."""
        del path, target
        if name != self.name:
            return None
        file = ROOT / self.mutant.module
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, file, loader=self, submodule_search_locations=inside)

    def create_module(self, spec: object) -> None:
        """Leave that to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        exec(compile(changed_tree(self.mutant), module.__file__ or "", "exec"), module.__dict__)


def import_changed(mutant: Mutant) -> None:
    """Let a module be imported changed; nothing of the project may have been imported before."""
    sys.meta_path.insert(0, Changed(mutant))
