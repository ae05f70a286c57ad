"""Files as people have them: with endings, compressed, with a header, with dates of their country, with ids."""

from __future__ import annotations

import csv
import gzip
import hashlib
import random
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from memplan.catalog.datasets import DATASETS
from memplan.catalog.downloads import remote_files
from memplan.catalog.folders import ENDINGS, SPLITS
from memplan.errors import MemplanError
from tests.conftest import REAL_DATA, random_graph, write_folder
from tests.support.data import SHAPE, same
from tkbc.data.cache import load_folder
from tkbc.data.dataset import NO_TIME
from tkbc.data.reading import read_folder
from tkbc.data.times import in_order


def renamed(folder: Path, ending: str) -> Path:
    """Write the splits of ``folder`` anew under another ending, in the form that it stands for."""
    for split in SPLITS:
        rows = [line.split("\t") for line in (folder / split).read_text(encoding="utf-8").splitlines()]
        (folder / split).unlink()
        opened = gzip.open if ending.endswith(".gz") else open
        with opened(folder / f"{split}{ending}", "wt", encoding="utf-8", newline="") as file:
            if ".csv" in ending:
                csv.writer(file).writerows(rows)
            else:
                file.write("".join("\t".join(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_gives_the_same_graph(tmp_path: Path, ending: str) -> None:
    graph = random_graph(SHAPE)
    plain = read_folder(write_folder(tmp_path / "plain", graph), "x")
    other = renamed(write_folder(tmp_path / "other", graph), ending)
    for _ in range(2):  # read, then from the cache
        assert same(load_folder(other, "x", tmp_path / "cache"), plain)


def test_a_comma_in_quotes_belongs_to_the_name(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.csv").write_text('"Smith, ""J."" (US)",says,b,2014-01-01\n', encoding="utf-8")
    assert read_folder(tmp_path, "x").entities == ('Smith, "J." (US)', "b")


def test_a_folder_without_splits_says_what_it_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\tr\tb\t1\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("a\tr\tb\t1\n", encoding="utf-8")
    with pytest.raises(MemplanError, match=r"no file valid, test; .*\.txt, \.tsv.*; there is dev.txt, train.txt$"):
        load_folder(tmp_path, "x", tmp_path / "cache")


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    folder = renamed(write_folder(tmp_path / "graph", random_graph(SHAPE)), ".txt.gz")
    content = (folder / "valid.txt.gz").read_bytes()
    for damaged in (content[:-9], b"no gzip at all", content[:20] + b"\xff" * 40 + content[60:]):
        (folder / "valid.txt.gz").write_bytes(damaged)
        with pytest.raises(MemplanError, match=r"valid\.txt\.gz: damaged gzip file|valid\.txt\.gz:\d+: "):
            load_folder(folder, "x", tmp_path / "cache")


@pytest.mark.parametrize(
    "header", ["head\trelation\ttail\ttime", "Subject\tPredicate\tObject\tTimestamp", "h\tr\tt\tdate"]
)
def test_a_header_is_no_fact(tmp_path: Path, header: str) -> None:
    graph = random_graph(SHAPE)
    plain = read_folder(write_folder(tmp_path / "plain", graph), "x")
    folder = write_folder(tmp_path / "headed", graph)
    for split in SPLITS:
        text = (folder / split).read_text(encoding="utf-8")
        (folder / split).write_text(f"{header}\n{text}", encoding="utf-8")
    assert same(read_folder(folder, "x"), plain)


def test_what_only_looks_like_a_header_stays_a_fact(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / split).write_text("head\trelation\ttail\t2014\nsource\ttype\tt\t2015\n", encoding="utf-8")
    assert len(read_folder(tmp_path, "x").train) == 2


def test_a_header_in_another_order_is_told(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / split).write_text("subject\tobject\trelation\tdate\na\tb\tr\t2014-01-01\n", encoding="utf-8")
    with pytest.raises(MemplanError, match=r"train:1: the header's columns are subject, object, relation, date; "):
        read_folder(tmp_path, "x")


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y"])
def test_dates_sort_by_the_calendar(form: str) -> None:
    """Against the calendar of Python's datetime."""
    days = [date(2012, 12, 20) + timedelta(days=37 * n) for n in range(40)]
    texts = [day.strftime(form) for day in days]
    shuffled = random.Random(0).sample([*texts, NO_TIME], len(texts) + 1)
    assert in_order(shuffled, "x") == [*texts, NO_TIME]
    short = [text.replace("/0", "/").lstrip("0") for text in texts]
    assert in_order(short, "x") == short, "5/1/2014 as well as 05/01/2014"


def test_dates_that_can_be_read_in_two_ways_are_refused() -> None:
    with pytest.raises(MemplanError, match=r"dates such as '01/02/2014' do not say which number is the month"):
        in_order(["03/04/2014", "01/02/2014"], "x")
    with pytest.raises(MemplanError, match="are written in two ways"):
        in_order(["13/04/2014", "04/13/2014"], "x")
    assert in_order(["02/02/2014", "01/01/2014"], "x") == ["01/01/2014", "02/02/2014"], "either way"
    assert in_order(["10", "9", "-3", "b", "a", NO_TIME], "x") == ["-3", "9", "10", "a", "b", NO_TIME]


def test_ids_with_a_column_of_no_use_and_their_names(tmp_path: Path) -> None:
    """RE-Net's form: ids, the time's number, and a fifth column."""
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("0\t0\t1\t24\t0\n1\t0\t0\t240\t0\n", encoding="utf-8")
    assert read_folder(tmp_path, "x").entities == ("0", "1")
    (tmp_path / "entity2id.txt").write_text("Hà Nội\t0\nHuế\t1\n", encoding="utf-8")
    (tmp_path / "relation2id.txt").write_text("visits\t0\n", encoding="utf-8")
    graph = read_folder(tmp_path, "x")
    assert (graph.entities, graph.relations, graph.timestamps) == (("Huế", "Hà Nội"), ("visits",), ("24", "240"))
    assert graph.train.tolist() == [[1, 0, 0, 0], [0, 0, 1, 1]]


def test_id_files_beside_names_are_left_alone(tmp_path: Path) -> None:
    graph = random_graph(SHAPE)
    folder = write_folder(tmp_path / "graph", graph)
    (folder / "entity2id.txt").write_text("somebody\t0\n", encoding="utf-8")
    assert "somebody" not in read_folder(folder, "x").entities


def test_a_damaged_cache_is_rebuilt_wherever_the_damage_is(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "graph", random_graph(SHAPE)), tmp_path / "cache"
    graph = load_folder(folder, "x", cache)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        match draw.randrange(3):
            case 0:
                damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            case 1:
                del damaged[draw.randrange(len(whole)) :]
            case 2:
                at = draw.randrange(len(whole))
                damaged[at : at + 30] = draw.randbytes(30)
        path.write_bytes(damaged)
        assert same(load_folder(folder, "x", cache), graph)
    path.write_bytes(b"")
    assert same(load_folder(folder, "x", cache), graph)
    assert same(load_folder(folder, "x", cache), graph)


def test_a_cache_with_ids_beyond_its_names_is_rebuilt(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "graph", random_graph(SHAPE)), tmp_path / "cache"
    graph = load_folder(folder, "x", cache)
    (path,) = cache.iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    for wrong in (arrays["train"] + 1000, arrays["train"][:, :3], arrays["train"].astype(float), arrays["train"][:0]):
        np.savez(path, allow_pickle=False, **{**arrays, "train": wrong})
        assert same(load_folder(folder, "x", cache), graph)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data at hand")
@pytest.mark.parametrize("name", ["ICEWS14", "ICEWS05-15"])
def test_downloads_are_known_by_the_sha256_of_the_real_files(name: str) -> None:
    files = remote_files(DATASETS[name])
    assert [file.split for file in files] == list(SPLITS)
    for file in files:
        with (REAL_DATA / name / file.split).open("rb") as content:
            assert file.sha256 == hashlib.file_digest(content, "sha256").hexdigest()
