"""How the house stands: rooms, floors and arrows of imports, circles, lines, and the modules that one plan visits.

Run it from the repository's root: ``python benchmarks/house.py``. Imports are read from the code, those inside
functions included (grimp, which comes with import-linter; type-checking imports are left out). The visit is counted by
running ``memplan plan`` with a profiler that notes in which module of ours each call begins.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import grimp

PACKAGES = ("memplan", "tkbc")
ROOT = Path(__file__).resolve().parents[1]


def room_of(module: str) -> str:
    """Return the room of a module: its package's direct child."""
    return ".".join(module.split(".")[:2])


def arrows_of(graph: grimp.ImportGraph, name: Any) -> set[tuple[str, str]]:
    """Return the imports between what ``name`` makes of modules, each pair once."""
    pairs = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if name(module) != name(imported) and "." in module and "." in imported:
                pairs.add((name(module), name(imported)))
    return pairs


def floors_of(nodes: Iterable[str], arrows: set[tuple[str, str]]) -> int:
    """Return the length of the longest way down; 0 where there is a circle."""
    floor: dict[str, int] = {}
    left = set(nodes)
    while left:
        ready = {node for node in left if all(below in floor for above, below in arrows if above == node)}
        if not ready:
            return 0
        for node in ready:
            floor[node] = 1 + max((floor[below] for above, below in arrows if above == node), default=0)
        left -= ready
    return max(floor.values())


def lines_of(package: str) -> int:
    """Return the lines of a package's Python files."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / package).rglob("*.py"))


def visited(arguments: list[str]) -> set[str]:
    """Return the modules of ours that a command's calls enter."""
    from memplan.app.cli import app

    modules: set[str] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.split(".")[0] in PACKAGES:
            modules.add(name)

    sys.setprofile(note)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            app(arguments)
    finally:
        sys.setprofile(None)
    return modules


def main() -> None:
    """Print the counts."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    for package in PACKAGES:
        own = {(a, b) for a, b in arrows_of(graph, room_of) if a.startswith(package) and b.startswith(package)}
        rooms = {room_of(module) for module in graph.modules if module.startswith(f"{package}.")}
        print(f"{package}: {len(rooms)} rooms on {floors_of(rooms, own)} floors, {len(own)} arrows between rooms")
    files = arrows_of(graph, lambda module: module)
    modules = {module for module in graph.modules if "." in module}
    floors = floors_of(modules, files)
    print(f"{len(modules)} modules on {floors or 'no'} floors ({'no circle' if floors else 'a circle'})")
    both = {room_of(a) for a, b in files if a.startswith("memplan") and b.startswith("tkbc")}
    print(f"rooms of memplan that import tkbc: {', '.join(sorted(both))}")
    print(f"lines: {', '.join(f'{package} {lines_of(package):,}' for package in PACKAGES)}")
    found = visited(["plan", "--dataset", "ICEWS14", "--device", "T4", "--json"])
    print(f"memplan plan enters {len(found)} modules in {len({room_of(name) for name in found})} rooms")


if __name__ == "__main__":
    main()
