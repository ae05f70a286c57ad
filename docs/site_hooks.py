"""Hooks of mkdocs: pages that are not in docs/, and links out of it.

README.md is the first page, CONTRIBUTING.md and CHANGELOG.md are pages too, and the reference of the commands is what
Typer makes of them. A link to a file of the project that is no page becomes the file's name; one to nothing stays, and
ends ``mkdocs build --strict``.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
"""Files beside docs/ and the pages that they become."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s:#]+)((?:#[^)\s]*)?)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, "")))
    files.append(File.generated(config, "reference.md", content=_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page of docs/ with its links out of docs/ changed."""
    return _relinked(markdown, "docs") if page.file.generated_by is None else markdown


def _relinked(markdown: str, folder: str) -> str:
    """Return a text of ``folder`` with its links as the site has them."""

    def relinked(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            return f"{mark}[{text}]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"{mark}[{text}]({path.removeprefix('docs/')}{anchor})"
        if not (ROOT / path).exists():
            return found[0]
        return text if posixpath.basename(path) in text else f"{text} (`{path}`)"

    return LINK.sub(relinked, markdown)


def _reference() -> str:
    """Return every command with its options, as Typer writes them down."""
    command = [sys.executable, "-m", "typer", "memplan.app.cli", "utils", "docs", "--name", "memplan"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("# `memplan`", "# Every command and option", 1)
