"""Fixtures of several rooms of the trainer's tests: a folder of data, and servers of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import random_graph, write_folder
from tests.support.data import SHAPE
from tests.support.download import Mirror


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the three splits of a random graph."""
    return write_folder(tmp_path / "source", random_graph(SHAPE))


@pytest.fixture
def mirrors(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mirror]]:
    """Two servers of ``source``, down again afterwards."""
    monkeypatch.setattr("tkbc.data.download.LARGEST_FILE_BYTES", 2**20)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = [Mirror(source), Mirror(source)]
    yield found
    for mirror in found:
        mirror.server.shutdown()
        mirror.server.server_close()
