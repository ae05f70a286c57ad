"""Downloads from a server of this machine that drops, truncates, ignores Range and lies."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from filelock import FileLock

from memplan.catalog.datasets import DATASETS
from memplan.catalog.downloads import remote_files
from memplan.catalog.folders import SPLITS
from memplan.errors import MemplanError
from tests.support.cli import fails, invoke
from tests.support.data import same
from tests.support.download import Behaviour, Mirror, fetch, files_of, honest
from tkbc.data.cache import load_folder
from tkbc.data.reading import problem_of_split


def dropping(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    """Send a third of what is left and hang up."""
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    left = content[start:]
    request.wfile.write(left if len(left) < 50 else left[: len(left) // 3])


def without_range(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    del start
    honest(request, content, 0)


def wrong_range(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    """Answer a Range with bytes from elsewhere."""
    if not start:
        return dropping(request, content, start)
    request.send_response(206)
    request.send_header("Content-Range", f"bytes 5-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - 5))
    request.end_headers()
    request.wfile.write(content[5:])
    return None


def truncating(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    """Say that half the file is all of it."""
    honest(request, content[: len(content) // 2], min(start, len(content) // 2))


def other_content(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    del start
    honest(request, b"<html>please log in</html>\n" * len(content.splitlines()), 0)


def not_text(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    """As many bytes and lines as expected, of something else."""
    del start
    honest(request, bytes(255 if byte != ord("\n") else byte for byte in content), 0)


def endless(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(content)
    except OSError:
        pass


def huge(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(2**40))
    request.end_headers()


def compressed(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    request.send_response(200)
    request.send_header("Content-Encoding", "gzip")
    request.end_headers()
    request.wfile.write(content)


def dripping(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    """Send one byte an answer, and that it is all there is of the rest so far."""
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    request.wfile.write(content[start : start + 1])


def missing(request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
    request.send_error(404)


def assert_fetched(source: Path, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"train", "valid", "test"}
    assert same(load_folder(folder, "graph"), load_folder(source, "graph"))


@pytest.mark.parametrize("behaviour", [honest, dropping, without_range, wrong_range], ids=lambda b: b.__name__)
def test_a_server_with_manners_or_without_serves_the_files(
    source: Path, mirrors: list[Mirror], tmp_path: Path, behaviour: Behaviour
) -> None:
    mirrors[0].behaviour = behaviour
    fetch(source, mirrors, tmp_path / "data" / "graph")
    assert_fetched(source, tmp_path / "data" / "graph")
    if behaviour is dropping:
        assert any(start > 0 for _, start in mirrors[0].requests), "it went on where it had stopped"
        assert not mirrors[1].requests


@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize(
    "behaviour", [truncating, other_content, not_text, endless, huge, compressed, missing], ids=lambda b: b.__name__
)
def test_a_mirror_that_lies_is_left_for_the_next(
    source: Path, mirrors: list[Mirror], tmp_path: Path, behaviour: Behaviour, with_sums: bool
) -> None:
    mirrors[0].behaviour = behaviour
    folder = tmp_path / "data" / "graph"
    fetch(source, mirrors, folder, with_sums=with_sums)
    assert_fetched(source, folder)
    mirrors[1].behaviour = behaviour
    with pytest.raises(MemplanError, match=r"graph: train cannot be downloaded \(http.*; http.*HTTPS_PROXY"):
        fetch(source, mirrors, tmp_path / "other", with_sums=with_sums)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kept", ["train", "test"])
def test_what_is_no_data_is_fetched_anew_and_stands_in_nobody_s_way(
    source: Path, mirrors: list[Mirror], tmp_path: Path, kept: str
) -> None:
    """A portal's page of as many lines as the file has, left by an older version, or with a tab where it fits."""
    unfinished = tmp_path / "data" / ".graph.download"
    unfinished.mkdir(parents=True)
    lines = len((source / kept).read_bytes().splitlines())
    (unfinished / kept).write_bytes(b"<html>please log in</html>\n" * lines)
    fetch(source, mirrors, tmp_path / "data" / "graph", with_sums=False)
    assert_fetched(source, tmp_path / "data" / "graph")


def test_a_mirror_whose_files_do_not_fit_together_leaves_nothing(
    source: Path, mirrors: list[Mirror], tmp_path: Path
) -> None:
    """Each split is one of facts, and the three of them are no dataset: intervals beside points in time."""
    facts = [line.split("\t") for line in (source / "test").read_text().splitlines()]
    (source / "test").write_text("".join(f"{h}\t{r}\t{t}\t1950-##-##\t1960-##-##\n" for h, r, t, _ in facts))
    with pytest.raises(MemplanError, match="lines cannot be read as facts"):
        fetch(source, mirrors, tmp_path / "data" / "graph", with_sums=False)
    assert [path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".lock")] == []


class Clock:
    """Two seconds for each byte that the first mirror has sent; no time for anything else."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        del seconds

    def trickling(self, request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        """Send one byte every two seconds, to the end."""
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        with suppress(OSError):
            for i in range(start, len(content)):
                self.seconds += 2
                request.wfile.write(content[i : i + 1])

    def dripping(self, request: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        """Send one byte an answer, two seconds each."""
        self.seconds += 2
        dripping(request, content, start)


@pytest.mark.parametrize("how", ["trickling", "dripping"])
def test_a_mirror_that_would_never_end_is_left_for_the_next(
    source: Path, mirrors: list[Mirror], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    clock = Clock()
    monkeypatch.setattr("tkbc.data.download.time", clock)
    mirrors[0].behaviour = getattr(clock, how)
    fetch(source, mirrors, tmp_path / "graph")
    assert_fetched(source, tmp_path / "graph")
    assert {path for path, _ in mirrors[1].requests} == {"/train", "/valid", "/test"}
    mirrors[1].behaviour = getattr(clock, how)
    with pytest.raises(MemplanError, match=r"train cannot be downloaded \(.*under 1,024 bytes a second.*; .*under"):
        fetch(source, mirrors, tmp_path / "other")


def test_what_was_fetched_before_is_not_fetched_again_and_a_stale_part_is_dropped(
    source: Path, mirrors: list[Mirror], tmp_path: Path
) -> None:
    unfinished = tmp_path / "data" / ".graph.download"
    unfinished.mkdir(parents=True)
    (unfinished / "train").write_bytes((source / "train").read_bytes())
    (unfinished / "valid.part").write_bytes((source / "valid").read_bytes()[:20])
    (unfinished / "test.part").write_bytes(b"something else")
    fetch(source, mirrors, tmp_path / "data" / "graph")
    assert_fetched(source, tmp_path / "data" / "graph")
    assert mirrors[0].requests == [("/valid", 20), ("/test", 14), ("/test", 0)]


def test_two_downloads_of_the_same_do_not_meet(source: Path, mirrors: list[Mirror], tmp_path: Path) -> None:
    with FileLock(tmp_path / ".graph.lock"), pytest.raises(MemplanError, match="another process is downloading it"):
        fetch(source, mirrors, tmp_path / "graph")


def test_the_command_fetches_offline_it_says_so(
    source: Path, mirrors: list[Mirror], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    fails(2, "demo is generated", "datasets", "download", "demo", *data)
    fails(2, "unknown dataset 'ICEWS41'", "datasets", "download", "ICEWS41", *data)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    message = r"ICEWS14: train cannot be downloaded \(https.*no connection.*; https.*no connection.*Check the network"
    fails(1, message, "datasets", "download", "icews14", *data)
    monkeypatch.setattr("memplan.app.jobs.download.remote_files", lambda _: files_of(source, mirrors, with_sums=True))
    result = invoke("datasets", "download", "icews14", *data)
    assert result.stdout == f"icews14 is in {tmp_path / 'data' / 'ICEWS14'}\n"
    assert_fetched(source, tmp_path / "data" / "ICEWS14")
    n_requests = len(mirrors[0].requests)
    assert invoke("datasets", "download", "ICEWS14", *data).exit_code == 0
    assert len(mirrors[0].requests) == n_requests, "it is here already"


@pytest.mark.slow
def test_the_catalog_s_files_are_known_by_sum_or_count(real_data: Path) -> None:
    for name, entry in DATASETS.items():
        files = remote_files(entry)
        on_the_web = name in ("ICEWS14", "ICEWS05-15", "YAGO15K")
        assert [file.split for file in files] == (["train", "valid", "test"] if on_the_web else [])
        assert all(len(file.urls) >= 2 and url.startswith("https://") for file in files for url in file.urls)
    for file in remote_files(DATASETS["ICEWS14"]):
        content = (real_data / "ICEWS14" / file.split).read_bytes()
        assert content.count(b"\n") == file.n_lines
        assert file.sha256 in (None, hashlib.sha256(content).hexdigest())
    splits = [folder / split for folder in real_data.iterdir() for split in SPLITS if (folder / split).is_file()]
    assert [problem_of_split(split) for split in splits] == [None] * len(splits)
