"""Reading facts with begin and end, and what the real files hold against what was published of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memplan.catalog.datasets import DATASETS
from memplan.catalog.folders import SPLITS
from memplan.errors import MemplanError
from tests.support.cli import fails, read_json
from tests.support.data import same
from tests.support.training import ROOT
from tkbc.data import load_dataset
from tkbc.data.cache import load_folder
from tkbc.data.reading import NO_TIME, read_folder
from tkbc.data.reading_intervals import OPEN, parse_interval, year_of

TRAIN = "7\t0\t9\t1952-##-##\t1964-##-##\n9\t1\t7\t1990-05-17\t####-##-##\n"
VALID = "7\t1\t9\t-431-##-##\t-43-##-##\n"
TEST = "9\t0\t7\t####-##-##\t360-##-##\n"


def write(folder: Path, train: str = TRAIN, valid: str = VALID, test: str = TEST) -> Path:
    folder.mkdir(exist_ok=True)
    for split, text in zip(SPLITS, (train, valid, test), strict=True):
        (folder / split).write_text(text, encoding="utf-8")
    return folder


def test_years_open_ends_and_timestamps_in_order(tmp_path: Path) -> None:
    graph = read_folder(write(tmp_path), "small")
    assert graph.timestamps == ("-431", "-43", "360", "1952", "1964", "1990")
    assert graph.train.tolist() == [[0, 0, 1, 3, 4], [1, 1, 0, 5, 5]]
    assert graph.valid.tolist() == [[0, 1, 1, 0, 1]]
    assert graph.test.tolist() == [[1, 0, 0, 0, 2]]
    assert graph.shape.intervals
    assert not graph.has_no_time
    assert graph.queries("valid").shape == (1, 4)


@pytest.mark.parametrize(
    ("begin", "end", "years"),
    [
        ("1952-##-##", "1952-##-##", ("1952", "1952")),
        ("0360-01-31", "####-##-##", ("360", OPEN)),
        ("19##-##-##", "19##-##-##", ("1900", "1999")),
        ("195#-##-##", "1957-##-##", ("1950", "1957")),
        ("-4##-##-##", "-4##-##-##", ("-499", "-400")),
        ("####-##-##", "####-##-##", (OPEN, OPEN)),
        ("2012-##-##", "416-##-##", ("2012", OPEN)),  # wrong in the data: the end is not known
        ("20##-##-##", "1999-##-##", ("2000", OPEN)),
        ("-43-##-##", "-431-##-##", ("-43", OPEN)),
    ],
)
def test_what_a_pair_of_dates_stands_for(begin: str, end: str, years: tuple[str, str]) -> None:
    assert parse_interval(["a", "r", "b", begin, end]) == ("a", "r", "b", *years)


@pytest.mark.parametrize(
    "date", ["", "1952", "1952-##", "19#2-##-##", "-####-##-##", "-##-##", "1234567-##-##", "12##3"]
)
def test_what_is_no_date(date: str) -> None:
    assert year_of(date, is_end=True) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7\t0\t9\t1952-##-##\n", "train:3: 4 columns where 5 are expected (head, relation, tail, begin, end"),
        ("7\t\t9\t1952-##-##\t1952-##-##\n", "train:3: column 2 is empty"),
        ("7\t0\t9\t1952-##-##\tsoon\n", "train:3: 'soon' is no date; expected one such as 1952-##-##"),
        ("7\t0\t9\t19#2-##-##\t1952-##-##\n", "train:3: '19#2-##-##' is no date"),
        ("7\t0\t9\t1952-##-##\t1953-##-##\tmore\n", "train:3: 6 columns where 5 are expected"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(MemplanError) as caught:
        load_folder(write(tmp_path / "data", train=TRAIN + line), "broken", tmp_path / "cache")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("cache/*"))


def test_the_format_is_the_one_that_most_lines_have(tmp_path: Path) -> None:
    """A line of another format is told as such, by itself."""
    quadruples = "a\tr\tb\t2014-01-01\n" * 3
    with pytest.raises(MemplanError, match=r"train:4: 5 columns where 4 are expected"):
        read_folder(write(tmp_path, quadruples + TEST, quadruples, quadruples), "quadruples")
    with pytest.raises(MemplanError, match=r"valid:2: 4 columns where 5 are expected"):
        read_folder(write(tmp_path, valid=VALID + "a\tr\tb\t2014-01-01\n"), "intervals")
    yago15k = 'a\tr\tb\na\tr\tb\t<occursSince>\t"2012-##-##"\n'
    with pytest.raises(MemplanError, match=r"test:1: .* where <occursSince> or <occursUntil> is expected"):
        read_folder(write(tmp_path, yago15k, yago15k), "yago15k")
    ignored_column = "1\t2\t3\t24\t0\n"
    with pytest.raises(MemplanError, match=r"train:3: no line of ids, time and 0 or -1"):
        read_folder(write(tmp_path, ignored_column * 2 + "1\t2\t3\t24\t7\n", ignored_column), "another project's")


def test_facts_that_are_all_open_have_no_timestamp(tmp_path: Path) -> None:
    always = "a\tr\tb\t####-##-##\t####-##-##\n"
    with pytest.raises(MemplanError, match="no fact has a begin or an end"):
        read_folder(write(tmp_path, always, always, always), "always")


def test_names_take_the_place_of_ids_and_the_cache_follows_them(tmp_path: Path) -> None:
    folder, cache = write(tmp_path / "data"), tmp_path / "cache"
    assert load_folder(folder, "ids", cache).entities == ("7", "9")
    (folder / "entity2id.txt").write_text("<Zoë>\t7\t1990-##-##\t####-##-##\n<Ada>\t9\n<Unused>\t8\n", encoding="utf-8")
    graph = load_folder(folder, "names", cache)
    assert (graph.entities, graph.relations) == (("<Ada>", "<Zoë>"), ("0", "1"))
    assert graph.train[0].tolist() == [1, 0, 0, 3, 4]
    (folder / "relation2id.txt").write_text("wasBornIn\t0\ndiedIn\t1\n", encoding="utf-8")
    graph = load_folder(folder, "names", cache)
    assert graph.relations == ("diedIn", "wasBornIn")
    cached = load_folder(folder, "names", cache)
    assert same(cached, graph)
    assert cached.shape.intervals
    assert not cached.train.flags.writeable


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("<Zoë>\t7\n", r"no name for the id '9'; complete the file, or remove it"),
        ("<Zoë>\t7\n<Zoë>\t9\n", r"entity2id\.txt:2: '<Zoë>' or its id '9' occurs twice"),
        ("<Zoë>\t7\n<Ada>\t7\n<Ada>\t9\n", r"entity2id\.txt:2: '<Ada>' or its id '7' occurs twice"),
        ("2\n<Zoë>\t7\n<Ada>\t9\n", r"entity2id\.txt:1: a name and its id are expected"),
        ("", r"entity2id\.txt: empty"),
    ],
)
def test_broken_names_are_refused(tmp_path: Path, names: str, message: str) -> None:
    (write(tmp_path) / "entity2id.txt").write_text(names, encoding="utf-8")
    with pytest.raises(MemplanError, match=message):
        read_folder(tmp_path, "broken")


def test_yago11k_is_what_the_catalog_says(real_data: Path) -> None:
    graph, entry = load_dataset("yago11k", real_data), DATASETS["YAGO11k"]
    assert graph.shape == entry.shape
    assert (len(graph.valid), len(graph.test)) == (entry.n_valid, entry.n_test)
    assert (graph.timestamps[0], graph.timestamps[-1]) == ("-431", "2844")
    assert "<wasBornIn>" in graph.relations
    first = (real_data / "yago11k" / "train").read_text(encoding="utf-8").splitlines()[0].split("\t")
    assert first[3:] == ["1952-##-##", "1964-##-##"]
    h, r, t, begin, end = graph.train[0]
    assert [graph.timestamps[begin], graph.timestamps[end]] == ["1952", "1964"]
    names = dict(
        line.split("\t")[1::-1] for line in (real_data / "yago11k" / "entity2id.txt").read_text("utf-8").splitlines()
    )
    assert [graph.entities[h], graph.entities[t]] == [names[first[0]], names[first[2]]]
    assert graph.relations[r] == "<owns>"
    # What docs/data.md says of the dates.
    rows = [line.split("\t") for split in SPLITS for line in (real_data / "yago11k" / split).read_text().splitlines()]
    dates = [date for row in rows for date in row[3:]]
    assert sum(date == "####-##-##" for date in dates) == 8_996
    assert sum(re.fullmatch(r"\d+#+-##-##", date) is not None for date in dates) == 16
    known = [[int(year) for year in re.findall(r"(-?\d+)-[\d#]{2}-", f"{row[3]} {row[4]}")] for row in rows]
    assert sum(len(years) == 2 and years[1] < years[0] for years in known) == 70


def sample(real_data: Path, name: str, folder: Path) -> Path:
    """A dataset whose train file is not at hand, with its validation split for that."""
    folder.mkdir(parents=True)
    for split, source in (("train", "valid"), ("valid", "valid"), ("test", "test")):
        (folder / split).write_bytes((real_data / name / source).read_bytes())
    return folder


def test_the_samples_hold_as_many_facts_as_published(real_data: Path, tmp_path: Path) -> None:
    for name, relations, timestamps in (("ICEWS05-15", 224, 4_017), ("YAGO15K", 47, 136)):
        folder = "ICEWS05-15-sample" if name == "ICEWS05-15" else "yago15k-sample"
        graph, entry = read_folder(sample(real_data, folder, tmp_path / name), name), DATASETS[name]
        assert (len(graph.valid), len(graph.test)) == (entry.n_valid, entry.n_test)
        assert graph.has_no_time == entry.no_time
        assert (len(graph.relations), len(graph.timestamps)) == (relations, timestamps)
    assert graph.timestamps[-1] == NO_TIME
    assert len({relation.split(" <occurs")[0] for relation in graph.relations}) == 30 <= entry.shape.n_relations
    assert len(graph.entities) <= entry.shape.n_entities


@pytest.mark.slow
def test_the_learner_trains_on_yago15k_with_no_time_emb(real_data: Path, tmp_path: Path) -> None:
    sample(real_data, "yago15k-sample", tmp_path / "data" / "yago15k")
    for split in SPLITS:  # a twentieth of it: training is not what is tried here
        path = tmp_path / "data" / "yago15k" / split
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[::20]), encoding="utf-8")
    learner = [sys.executable, str(ROOT / "tkbc" / "learner.py"), "--dataset", "yago15k", "--model", "TNTComplEx"]
    options = ["--rank", "5", "--no_time_emb", "--emb_reg", "1e-2", "--time_reg", "1", "--max_epochs", "1"]
    places = ["--data_dir", str(tmp_path / "data"), "--device", "cpu", "--run_dir", str(tmp_path / "run")]
    done = subprocess.run([*learner, *options, *places], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"test +MRR 0\.\d{4}", done.stdout)
    workload = read_json("estimate", "--run", str(tmp_path / "run"))["workload"]
    assert workload["no_time_emb"]
    assert not workload["intervals"]


@pytest.mark.slow
def test_a_run_on_intervals_from_the_command_line(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = []
    for head, relation, length in random.integers((30, 3, 20), size=(400, 3)):
        end = "####" if length > 15 else 1900 + head + length
        lines.append(f"{head}\t{relation}\t{(head + relation) % 30}\t{1900 + head}-##-##\t{end}-##-##\n")
    folder = write(tmp_path / "graph", "".join(lines[:300]), "".join(lines[300:350]), "".join(lines[350:]))
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "memplan.app.cli",
        "train",
        "--dataset",
        str(folder),
        "--device",
        "cpu",
        "--rank",
        "6",
    ]
    options = ["--model", "TNTPairRE", "--max-epochs", "3", "--batch-size", "50", "--run-dir", str(run)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "300 facts over intervals" in done.stdout
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3
    assert len(re.findall(r" exact$", done.stdout, flags=re.MULTILINE)) == 10, done.stdout
    found = read_json("evaluate", str(run))
    assert re.search(rf"test +MRR {found['both']['mrr']:.4f}", done.stdout), "ranked again, the same"
    fails(2, "score: TNTPairRE with dot is quadratic", "estimate", "--dataset", str(folder), "--score", "dot")


def test_a_graph_with_intervals_is_planned_by_its_counts() -> None:
    counts = ["--n-entities", "432715", "--n-relations", "407", "--n-timestamps", "1726", "--n-facts", "7224361"]
    common = ["--device", "T4", "--model", "TNTComplEx", "--rank", "100"]
    plain = read_json("plan", *counts, *common)
    interval = read_json("plan", *counts, "--intervals", *common)
    assert not plain["workload"]["intervals"]
    assert interval["workload"]["intervals"]
    assert interval["seconds_per_epoch"] > plain["seconds_per_epoch"]
    named = read_json("plan", "--dataset", "wikidata", *common)
    assert named["phases"] == interval["phases"]
    fails(2, "exclude each other", "plan", "--dataset", "ICEWS14", "--intervals")
    fails(2, "needs all four; add --n-entities", "plan", "--intervals")
    fails(2, "GDELT cannot be fetched by this command; it is at", "datasets", "download", "gdelt")
