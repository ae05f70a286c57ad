"""What tests of download share with others."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from memplan.catalog.downloads import RemoteFile
from tkbc.data.download import download

Behaviour = Callable[[BaseHTTPRequestHandler, bytes, int], None]
"""Answers a request for a content, ``start`` being the first byte that was asked for."""


def honest(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    request.wfile.write(content[start:])


class Mirror:
    """A server of three files, whose behaviour can be set."""

    def __init__(self, folder: Path) -> None:
        self.behaviour: Behaviour = honest
        self.requests: list[tuple[str, int]] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(asked[1]) if asked else 0
                mirror.requests.append((self.path, start))
                content = (folder / self.path.removeprefix("/")).read_bytes()
                if start >= len(content) > 0:
                    self.send_error(416)
                else:
                    mirror.behaviour(self, content, start)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def files_of(source: Path, mirrors: list[Mirror], *, with_sums: bool) -> list[RemoteFile]:
    found = []
    for split in ("train", "valid", "test"):
        content = (source / split).read_bytes()
        digest = hashlib.sha256(content).hexdigest() if with_sums else None
        urls = tuple(f"{mirror.url}/{split}" for mirror in mirrors)
        found.append(RemoteFile(split, urls, len(content.splitlines()), digest))
    return found


def fetch(source: Path, mirrors: list[Mirror], folder: Path, *, with_sums: bool = True) -> None:
    download("graph", files_of(source, mirrors, with_sums=with_sums), folder, wait_seconds=0)
