"""Fetching a dataset's files: resumed where cut short, checked, and in place only when all three are whole.

The files are plain text, so nothing is unpacked and no name comes from the network. Proxies are those of the
environment (``HTTPS_PROXY``, ``NO_PROXY``).
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
from filelock import FileLock, Timeout

from memplan.catalog.downloads import RemoteFile
from memplan.errors import MemplanError, reason_of
from memplan.files import make_folder, sync
from tkbc.data.reading import problem_of_split, read_folder

LARGEST_FILE_BYTES = 2**28
TRIES = 5
"""Of one mirror in a row that brought nothing new; each waits twice as long as the one before."""
FIRST_WAIT_SECONDS = 0.5
SLOWEST_BYTES_PER_SECOND = 1024
"""Of a mirror, over a minute: ICEWS14 would take 100 minutes; what is slower is given up."""
PACE_SECONDS = 60.0
TIMEOUT = httpx.Timeout(30, connect=10)

Progress = Callable[[str, int, int | None], None]
"""Told the split, its bytes so far and, where the server says so, all of them."""


class _MirrorError(Exception):
    """A mirror cannot serve the file: the next may."""


def download(
    name: str,
    files: Sequence[RemoteFile],
    folder: Path,
    on_progress: Progress = lambda _split, _done, _all: None,
    *,
    wait_seconds: float = FIRST_WAIT_SECONDS,
) -> None:
    """Fetch ``files`` into ``folder``, which appears once all of them are whole.

    What has come of them stays beside it until then, so that a download that was cut short goes on where it stopped.

    Raises:
        MemplanError: no mirror serves a file whole, another process is fetching the same, or the disk cannot be
            written.
    """
    unfinished = folder.with_name(f".{folder.name}.download")
    try:
        make_folder(folder.parent)
        unfinished.mkdir(exist_ok=True)
        with (
            FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0),
            httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"}) as client,
        ):
            for file in files:
                _fetch(client, name, file, unfinished, on_progress, wait_seconds)
            try:
                read_folder(unfinished, name)  # says what is wrong with files that are whole and no dataset
            except MemplanError:
                shutil.rmtree(unfinished)
                raise
            for file in files:
                sync(unfinished / file.split)
            sync(unfinished)
            unfinished.rename(folder)
            sync(folder.parent)
    except Timeout:
        raise MemplanError(f"{folder}: another process is downloading it; wait for it") from None
    except OSError as error:
        raise MemplanError(f"{folder}: cannot be written: {reason_of(error)}") from None
    finally:
        with suppress(OSError):
            unfinished.rmdir()  # where nothing came at all


def _fetch(
    client: httpx.Client, name: str, file: RemoteFile, folder: Path, on_progress: Progress, wait_seconds: float
) -> None:
    """Fetch one file from the first mirror that serves it whole, unless it is here already."""
    fetched = folder / file.split
    if fetched.is_file():
        if _problem(fetched, file) is None:
            return
        fetched.unlink()
    part = folder / f"{file.split}.part"
    reasons = []
    for url in file.urls:
        try:
            was_begun = part.exists()
            _fetch_from(client, url, part, lambda done, n: on_progress(file.split, done, n), wait_seconds)
            problem = _problem(part, file)
            if problem is not None and was_begun:
                # What was there may have been another mirror's, or an older version: once more from its beginning.
                part.unlink()
                _fetch_from(client, url, part, lambda done, n: on_progress(file.split, done, n), wait_seconds)
                problem = _problem(part, file)
            if problem is None:
                part.replace(fetched)
                return
            part.unlink()
            reasons.append(f"{url}: {problem}")
        except _MirrorError as error:
            reasons.append(f"{url}: {error}")
    raise MemplanError(
        f"{name}: {file.split} cannot be downloaded ({'; '.join(reasons)}). Check the network or the proxy "
        "(HTTPS_PROXY), or put train, valid and test there yourself: memplan datasets says where they are"
    )


def _fetch_from(
    client: httpx.Client, url: str, part: Path, on_progress: Callable[[int, int | None], None], wait_seconds: float
) -> None:
    """Fetch what ``part`` lacks of ``url``, again and again while that brings anything."""
    failures, furthest, pace = 0, 0, _Pace()
    while failures < TRIES:
        reason = "cut short"
        try:
            if _stream(client, url, part, pace, on_progress):
                return
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise _MirrorError(f"no connection ({error})") from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        pace.check(0)
        reached = part.stat().st_size if part.exists() else 0
        failures = 0 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        time.sleep(wait_seconds * 2**failures)
    raise _MirrorError(f"{reason}, {TRIES} times in a row")


class _Pace:
    """Sees to it that a download ends: a server that sends a byte now and then is given up."""

    def __init__(self) -> None:
        self._begin, self._n_bytes = time.monotonic(), 0

    def check(self, n_bytes: int) -> None:
        """Count ``n_bytes`` more.

        Raises:
            _MirrorError: over the last ``PACE_SECONDS`` they came too slowly.
        """
        self._n_bytes += n_bytes
        seconds = time.monotonic() - self._begin
        if seconds < PACE_SECONDS:
            return
        if self._n_bytes < SLOWEST_BYTES_PER_SECOND * seconds:
            raise _MirrorError(f"under {SLOWEST_BYTES_PER_SECOND:,} bytes a second for {seconds:.0f} s")
        self._begin, self._n_bytes = time.monotonic(), 0


def _stream(
    client: httpx.Client, url: str, part: Path, pace: _Pace, on_progress: Callable[[int, int | None], None]
) -> bool:
    """Add to ``part`` what the server sends; return whether that is all of it."""
    start = part.stat().st_size if part.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={start}-"} if start else {}) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # longer than the file: from the beginning
            return False
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                part.unlink(missing_ok=True)
                return False
        elif response.status_code == httpx.codes.OK:
            start = 0  # it does not know Range: everything comes again
        else:
            raise _MirrorError(f"HTTP {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _MirrorError(f"sends {response.headers['Content-Encoding']}, which was not asked for")
        length = response.headers.get("Content-Length", "")
        n_bytes = start + int(length) if length.isascii() and length.isdigit() else None
        if n_bytes is not None and n_bytes > LARGEST_FILE_BYTES:
            raise _MirrorError(f"{n_bytes:,} bytes, more than the {LARGEST_FILE_BYTES:,} that a split may have")
        with part.open("ab" if start else "wb") as file:
            for piece in response.iter_raw():
                pace.check(len(piece))
                start += len(piece)
                if start > LARGEST_FILE_BYTES:
                    raise _MirrorError(f"more than the {LARGEST_FILE_BYTES:,} bytes that a split may have")
                file.write(piece)
                on_progress(start, n_bytes)
    return True


def _problem(path: Path, file: RemoteFile) -> str | None:
    """Return why ``path`` cannot be the file, or None."""
    with path.open("rb") as content:
        if file.sha256 is not None:
            found = hashlib.file_digest(content, "sha256").hexdigest()
            return None if found == file.sha256 else f"another checksum than the file's ({found[:12]}…)"
        n_lines, last = 0, b"\n"
        for piece in iter(lambda: content.read(2**20), b""):
            n_lines += piece.count(b"\n")
            last = piece
        n_lines += not last.endswith(b"\n")
    if n_lines != file.n_lines:
        return f"{n_lines:,} lines where the catalog counts {file.n_lines:,}"
    return problem_of_split(path)
