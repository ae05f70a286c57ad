from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from memplan.catalog.datasets import DATASETS
from memplan.catalog.folders import SPLITS
from memplan.errors import MemplanError, UsageError
from tests.conftest import random_graph, write_folder
from tests.support.data import SHAPE, same
from tkbc.data import load_dataset
from tkbc.data.cache import load_folder
from tkbc.data.dataset import FilterIndex, with_reciprocals
from tkbc.data.demo import N_SEASONS, generate_demo
from tkbc.data.reading import NO_TIME, read_folder


def test_a_folder_becomes_ids_over_all_three_splits(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("b\tr\ta\t2014-01-02\n", encoding="utf-8")
    (tmp_path / "valid").write_text("a\tr\tc\t2014-01-01\n", encoding="utf-8")
    (tmp_path / "test").write_text("d\tq\ta\t2013-12-31\n", encoding="utf-8")
    graph = read_folder(tmp_path, "tiny")
    assert graph.entities == ("a", "b", "c", "d")
    assert graph.relations == ("q", "r")
    assert graph.timestamps == ("2013-12-31", "2014-01-01", "2014-01-02")
    assert graph.train.tolist() == [[1, 1, 0, 2]]
    assert graph.valid.tolist() == [[0, 1, 2, 1]]
    assert graph.test.tolist() == [[3, 0, 0, 0]]
    assert not graph.train.flags.writeable


def test_byte_order_mark_crlf_and_unusual_characters(tmp_path: Path) -> None:
    line = "São Paulo\u2028x\tr\tĐà Nẵng\t2014-01-01\r\n"
    for split in SPLITS:
        (tmp_path / split).write_bytes("\ufeff".encode() + line.encode())
    graph = read_folder(tmp_path, "tiny")
    assert graph.entities == ("São Paulo\u2028x", "Đà Nẵng")
    assert graph.timestamps == ("2014-01-01",)


def test_a_byte_order_mark_is_read_over_at_the_beginning_alone(tmp_path: Path) -> None:
    """On any other line it is a character of the name, as U+FEFF is anywhere else."""
    for split in SPLITS:
        lines = ("\ufeffa\tr\tb\t1\n", "\ufeffa\tr\t\ufeffb\t1\n", "a\tr\tb\ufeff\t1\n")
        (tmp_path / split).write_text("".join(lines), encoding="utf-8")
    assert read_folder(tmp_path, "marks").entities == ("a", "b", "b\ufeff", "\ufeffa", "\ufeffb")


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("where", [0, 2])
def test_a_line_may_be_65536_bytes_long_and_no_longer(tmp_path: Path, where: int, end: bytes) -> None:
    """Its end counted, as a reader of the file has to hold it."""
    for split in SPLITS:
        (tmp_path / split).write_bytes(b"a\tr\tb\t1\n")
    rest = b"\tr\tb\t1" + end
    longest = b"x" * (65_536 - len(rest)) + rest
    for line, is_read in ((longest, True), (b"x" + longest, False)):
        (tmp_path / "train").write_bytes(b"a\tr\tb\t1\n" * where + line)
        if is_read:
            assert "x" * (65_536 - len(rest)) in read_folder(tmp_path, "long").entities
        else:
            with pytest.raises(MemplanError, match=rf"train:{where + 1}: longer than 65,536 bytes"):
                read_folder(tmp_path, "long")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tr\tb\t2014-01-01\na\tr\tb\n", "train:2: 3 columns where 4 are expected"),
        (b"a\t\tb\t2014-01-01\n", "train:1: column 2 is empty"),
        (b"", "train: empty"),
        (b"a\tr\t\xff\t2014-01-01\n", "train:1: not UTF-8 at byte 5"),
        (b'a\tr\tb\t<occursSince>\t"20x2-##-##"\n', "train:1: '\"20x2-##-##\"' is no date"),
        (b'a\tr\tb\t<occursSince>\t"2012-##-##"\na\tr\tb\t2012\n', "train:2: 4 columns where 3 are expected"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_folder(tmp_path / "data", random_graph(SHAPE))
    (folder / "train").write_bytes(content)
    with pytest.raises(MemplanError) as caught:
        load_folder(folder, "broken", tmp_path / "cache")
    assert message in str(caught.value)
    assert not list((tmp_path).glob("cache/*"))


def test_blank_lines_and_blanks_at_a_line_s_end_are_read_over(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf\r\na\tr\tb c\t2014-01-01 \t\r\n \t\n\na\tr\tb c\t2014-01-01\n a\tr\tb c\t2014-01-01"
    for split in SPLITS:
        (tmp_path / split).write_bytes(content)
    graph = read_folder(tmp_path, "tiny")
    assert graph.entities == (" a", "a", "b c"), "blanks elsewhere belong to the name"
    assert graph.train.tolist() == [[1, 0, 2, 0], [1, 0, 2, 0], [0, 0, 2, 0]], "a fact that occurs twice stays twice"


def test_entities_of_valid_and_test_alone_have_ids_and_are_ranked(tmp_path: Path) -> None:
    for split, line in (("train", "a\tr\tb\t1"), ("valid", "c\tr\tb\t2"), ("test", "a\tq\td\t3")):
        (tmp_path / split).write_text(line, encoding="utf-8")
    graph = read_folder(tmp_path, "tiny")
    assert (graph.shape.n_entities, graph.shape.n_relations, graph.shape.n_timestamps) == (4, 2, 3)
    assert graph.test.tolist() == [[0, 0, 3, 2]]


def test_the_first_twenty_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    good = "a\tr\tb\t2014-01-01\n"
    (tmp_path / "train").write_text((good + "bad\n") * 15, encoding="utf-8")
    (tmp_path / "valid").write_bytes(good.encode() + b"\xff\n" + b"a\t\tb\t1\n")
    (tmp_path / "test").write_text(good + "a\tb\n" * 10, encoding="utf-8")
    with pytest.raises(MemplanError) as caught:
        read_folder(tmp_path, "broken")
    first, *lines = str(caught.value).splitlines()
    assert first == f"{tmp_path}: 27 lines cannot be read as facts; the first 20:"
    assert len(lines) == 20
    assert lines[0] == f"  {tmp_path / 'valid'}:2: not UTF-8 at byte 1; save it as UTF-8"
    assert lines[1].startswith(f"  {tmp_path / 'train'}:2: 1 columns where 4 are expected")
    assert lines[16].startswith(f"  {tmp_path / 'valid'}:3: column 2 is empty")


def test_a_line_of_a_gigabyte_is_refused_without_reading_it(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / split).write_text("a\tr\tb\t1\n", encoding="utf-8")
    with (tmp_path / "train").open("ab") as file:
        file.truncate(2**30)  # a hole: no disk is filled
    tracemalloc.start()
    with pytest.raises(MemplanError, match=r"train:2: longer than 65,536 bytes"):
        read_folder(tmp_path, "long")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_split_without_facts_is_refused(tmp_path: Path, content: bytes) -> None:
    for split in SPLITS:
        (tmp_path / split).write_bytes(b"a\tr\tb\t1\n" if split != "valid" else content)
    with pytest.raises(MemplanError, match="valid: empty; every split needs at least one fact"):
        read_folder(tmp_path, "empty")


def test_yago15k_as_tkbc_reads_it(tmp_path: Path) -> None:
    lines = {
        "train": 'a\tr\tb\na\tr\tb\t<occursSince>\t"2012-##-##"\n',
        "valid": 'a\tr\tb\t<occursUntil>\t"0987-05-##"\n',
        "test": 'b\tr\ta\t<occursSince>\t"-043-##-##"\n',
    }
    for split, text in lines.items():
        (tmp_path / split).write_text(text, encoding="utf-8")
    graph = read_folder(tmp_path, "yago")
    assert graph.timestamps == ("-43", "987", "2012", NO_TIME)
    assert graph.relations == ("r", "r <occursSince>", "r <occursUntil>")
    assert graph.train.tolist() == [[0, 0, 1, 3], [0, 1, 1, 2]]


def test_the_cache_gives_the_same_graph_and_follows_the_content(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "data", random_graph(SHAPE)), tmp_path / "cache"
    fresh = load_folder(folder, "graph", cache)
    (entry,) = cache.iterdir()
    before = entry.stat().st_mtime_ns
    cached = load_folder(folder, "graph", cache)
    assert same(fresh, cached)
    assert entry.stat().st_mtime_ns == before
    assert not cached.train.flags.writeable
    with (folder / "test").open("a", encoding="utf-8") as file:
        file.write("e0\tr0\tnew\tt0\n")
    assert "new" in load_folder(folder, "graph", cache).entities


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_or_unwritable_cache_is_done_without(tmp_path: Path, damage: bytes | None) -> None:
    folder, cache = write_folder(tmp_path / "data", random_graph(SHAPE)), tmp_path / "cache"
    fresh = load_folder(folder, "graph", cache)
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:500] if damage is None else damage)
    assert same(load_folder(folder, "graph", cache), fresh)
    blocked = tmp_path / "a file"
    blocked.write_text("")
    assert same(load_folder(folder, "graph", blocked / "cache"), fresh)


def test_the_filter_holds_every_true_tail_and_nothing_else() -> None:
    graph = random_graph(SHAPE)
    everything = {
        tuple(map(int, fact)) for split in SPLITS for fact in with_reciprocals(graph.split(split), SHAPE.n_relations)
    }
    queries = with_reciprocals(graph.test, SHAPE.n_relations)
    unseen = np.array([[0, 0, 0, 0], [10, 5, 3, 4]], dtype=np.int32)
    queries = np.concatenate([queries, unseen])
    row, tail = graph.filter_index.lookup(queries)
    found = {(int(r), int(t)) for r, t in zip(row, tail, strict=True)}
    expected = {
        (i, t)
        for i, (h, r, _, time) in enumerate(queries)
        for t in range(SHAPE.n_entities)
        if (h, r, t, time) in everything
    }
    assert found == expected
    assert len(row) == len(found)


def test_a_query_beyond_the_last_key_finds_nothing() -> None:
    index = FilterIndex.build(np.array([[0, 0, 1, 0]], dtype=np.int32), 2)
    row, tail = index.lookup(np.array([[5, 1, 0, 0]], dtype=np.int32))
    assert len(row) == len(tail) == 0


def test_reciprocals_swap_the_ends() -> None:
    facts = np.array([[3, 1, 4, 2]], dtype=np.int32)
    assert with_reciprocals(facts, 10).tolist() == [[3, 1, 4, 2], [4, 11, 3, 2]]


def test_the_demo_graph_is_what_the_catalog_says_and_the_same_for_a_seed() -> None:
    graph, entry = generate_demo(), DATASETS["demo"]
    assert graph.shape == entry.shape
    assert (len(graph.valid), len(graph.test)) == (entry.n_valid, entry.n_test)
    assert same(graph, generate_demo())
    assert not same(graph, generate_demo(seed=1))
    facts = np.concatenate([graph.split(split) for split in SPLITS])
    assert len(np.unique(facts, axis=0)) == len(facts), "a fact occurs twice"


def test_the_demo_s_time_varying_relations_vary_and_its_static_ones_do_not() -> None:
    """Knowing the season must help to tell the tail from (head, relation), for seasonal relations alone."""
    graph = generate_demo()
    facts = np.concatenate([graph.split(split) for split in SPLITS]).astype(np.int64)
    season = facts[:, 3] * N_SEASONS // graph.shape.n_timestamps

    def share_of_commonest_tail(rows: np.ndarray, keys: np.ndarray) -> float:
        """How often guessing the commonest tail of each key is right."""
        right = 0
        for key in np.unique(keys):
            right += np.bincount(rows[keys == key, 2]).max()
        return right / len(rows)

    for relation, name in enumerate(graph.relations):
        of = facts[:, 1] == relation
        by_head = share_of_commonest_tail(facts[of], facts[of, 0])
        by_season = share_of_commonest_tail(facts[of], facts[of, 0] * N_SEASONS + season[of])
        gain = by_season / by_head
        assert gain > 1.5 if name.startswith("seasonal") else gain < 1.35, (name, gain)


def test_icews14_is_what_the_catalog_says(real_data: Path) -> None:
    graph, entry = load_dataset("icews14", real_data), DATASETS["ICEWS14"]
    assert graph.shape == entry.shape
    assert (len(graph.valid), len(graph.test)) == (entry.n_valid, entry.n_test)
    assert (graph.timestamps[0], graph.timestamps[-1]) == ("2014-01-01", "2014-12-31")
    first = (real_data / "ICEWS14" / "train").read_text(encoding="utf-8").splitlines()[0].split("\t")
    h, r, t, time = graph.train[0]
    assert [graph.entities[h], graph.relations[r], graph.entities[t], graph.timestamps[time]] == first


def test_the_yago15k_sample_has_the_counted_facts_without_time(real_data: Path, tmp_path: Path) -> None:
    for split, source in (("train", "valid"), ("valid", "valid"), ("test", "test")):
        (tmp_path / split).write_bytes((real_data / "yago15k-sample" / source).read_bytes())
    graph = read_folder(tmp_path, "sample")
    no_time = len(graph.timestamps) - 1
    assert graph.timestamps[no_time] == NO_TIME
    untimed = sum(int((graph.split(split)[:, 3] == no_time).sum()) for split in ("valid", "test"))
    assert (untimed, len(graph.valid) + len(graph.test) - untimed) == (20_295, 7_320)


def test_data_that_is_not_there_is_answered_with_the_folder_and_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemplanError) as caught:
        load_dataset("ICEWS14", tmp_path)
    assert str(tmp_path / "ICEWS14") in str(caught.value)
    assert "mmkb" in str(caught.value)
    monkeypatch.setenv("TKBC_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(MemplanError, match="elsewhere"):
        load_dataset("YAGO15K")
    with pytest.raises(UsageError, match="did you mean ICEWS14"):
        load_dataset("ICEWS41")
    with pytest.raises(MemplanError, match="no such folder"):
        load_dataset(str(tmp_path / "nothing"))


def test_a_dataset_is_found_by_name_by_its_own_folder_and_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "yago15k", random_graph(SHAPE))
    assert same(load_dataset("YAGO15K", tmp_path), load_dataset("yago15k", folder))
    monkeypatch.setenv("TKBC_DATA", str(tmp_path))
    assert load_dataset("YAGO15K").name == "YAGO15K"


def test_times_that_are_equal_as_numbers_keep_one_order(tmp_path: Path) -> None:
    """Ids follow from the order, so it must not be that of a set, which differs from process to process."""
    for split in ("train", "valid", "test"):
        lines = [f"a\tr\tb\t{time}\n" for time in ("2", "1", "0002", "01", "02", "+1")]
        (tmp_path / split).write_text("".join(lines), encoding="utf-8")
    assert load_dataset(str(tmp_path)).timestamps == ("+1", "01", "1", "0002", "02", "2")
