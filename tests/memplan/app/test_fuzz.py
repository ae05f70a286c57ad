"""Malformed inputs, generated from good ones: every one is refused with a message, exit 1 or 2, and nothing changed.

Data files, plans, checkpoints and the settings of runs, 200 in all. Some are crafted: their checksums are right.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memplan.workload import Shape
from tests.conftest import random_graph, write_folder
from tests.support.cli import invoke
from tkbc.runs.checkpoint_folders import FILES, OPTIMIZER_FILE, SUMS_FILE, Checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = Shape(n_entities=30, n_relations=2, n_timestamps=4, n_facts=40)
NESTED = b'{"a":' * 100_000


class Payload:
    """Unpickled, it would leave a file behind."""

    def __reduce__(self) -> Any:
        return os.system, ("touch unpickled",)


def garbage(content: bytes, draw: random.Random) -> bytes:
    """Return bytes that are no text, no JSON, no safetensors and no facts."""
    return draw.choice(
        [
            b"\x80" + draw.randbytes(draw.randint(1, 400)),
            pickle.dumps(Payload()),
            b"PK\x03\x04" + draw.randbytes(60),
            content.decode("utf-8", "replace").encode("utf-16"),
            NESTED,
            b"<html><body>502</body></html>",
            b"\xff" * 70_000,
        ]
    )


def spoil_data(content: bytes, draw: random.Random) -> bytes:
    """Return a data file with something in it that is no fact."""
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    line = lines[at]
    lines[at] = draw.choice(
        [
            line.replace(b"\t", b" ", 1),
            line.replace(b"\t", b"\t\t", 1),
            line.replace(b"\t", b"\tmore\t", 1),
            line[: line.index(b"\t")] + b"\n",
            b"\xc3\x28" + line,
            b"x" * 70_000 + line,
            b"\t\t\t" + line,
        ]
    )
    return draw.choice([b"".join(lines), b"".join(lines), b"".join(lines), b"", b"\n\n", garbage(content, draw)])


def spoil_json(content: bytes, draw: random.Random) -> bytes:
    """Return JSON that is broken, or in which something required is of the wrong kind, out of range or missing."""
    if draw.random() < 0.4:
        return draw.choice(
            [content[: draw.randrange(len(content) - 3)], garbage(content, draw), b"[]", b"null", b'"x"']
        )
    value = json.loads(content)
    place = value
    parts = [part for key, part in value.items() if isinstance(part, dict) and key != "versions"]
    if parts and draw.random() < 0.6:
        place = draw.choice(parts)
    # What may hold anything, or is only told to the user, would still be good.
    loose = {"reason", "alternatives", "budget_source", "dataset", "knobs", "rank_lowered_from", "best", "alloc_conf",
             "seconds_per_epoch", "budget_bytes", "smallest_budget_bytes", "versions", "patience", "fits", "python",
             "torch", "totals", "seconds", "tensorboard", "deterministic", "strict_memory", "no_time_emb", "unit_norm",
             "workspace_bytes", "precision", "learning_rate", "checkpoint_minutes", "emb_reg", "time_reg",
             "threads", "data_dir", "intervals", "n3_parts", "rules", "cooldown", "device_total_bytes",
             "mesh", "shards", "replicas", "process", "choices", "negatives", "seconds_error", "minutes",
             "spent_seconds", "has_timed_out"}  # fmt: skip
    key = draw.choice([key for key in place if key not in loose] or list(place))
    wrong = [None, [], {}, "", "zwölf", -1, -(10**30), 10**400, float("nan"), float("inf"), 1.5, {"a": [1]}]
    place[key] = draw.choice(wrong)
    if draw.random() < 0.2:
        del place[key]
    return json.dumps(value).encode()


def safetensors_of(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def spoil_tensors(content: bytes, draw: random.Random) -> bytes:
    """Return a file that safetensors refuses, or with tensors of other names, kinds or shapes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = draw.choice([key for key in header if key != "__metadata__"])
    renamed = {("x" if key == name else key): entry for key, entry in header.items()}
    flat = {**header, name: {**header[name], "shape": [draw.randint(50, 99), 3]}}
    beyond = {**header, name: {**header[name], "data_offsets": [0, 2**60]}}
    crafted = [safetensors_of(json.dumps(h).encode(), content[8 + length :]) for h in (renamed, flat, beyond)]
    return draw.choice(
        [
            *crafted,
            (2**63).to_bytes(8, "little") + content[8:],
            content[: draw.randrange(8, len(content) - 1)],
            safetensors_of(NESTED),
            safetensors_of(b"{}"),
            garbage(content, draw),
        ]
    )


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph, a plan for it, an interrupted run with one checkpoint, and one that has none yet."""
    folder = tmp_path_factory.mktemp("good")
    write_folder(folder / "graph", random_graph(SHAPE))
    options = ["--dataset", str(folder / "graph"), "--device", "cpu", "--rank", "3", "--emb-reg", "0"]
    (folder / "plan.json").write_text(invoke("plan", *options, "--json").stdout)
    done = invoke("train", *options, "--max-epochs", "1", "--run-dir", str(folder / "run"))
    assert done.exit_code == 0, done.output
    (folder / "run" / "metrics.jsonl").write_text("")
    assert Checkpoints(folder / "run" / "checkpoint").names() == ["00000001"]
    shutil.copytree(folder / "run", folder / "begun", ignore=shutil.ignore_patterns("checkpoint"))
    return folder


def with_sums(checkpoint: Path) -> None:
    """Make the checksums right again: a crafted checkpoint, not a damaged one."""
    sums = "".join(f"{hashlib.sha256((checkpoint / f).read_bytes()).hexdigest()}  {f}\n" for f in FILES)
    (checkpoint / SUMS_FILE).write_text(sums)


def data_case(here: Path, draw: random.Random) -> list[str]:
    path = here / "graph" / draw.choice(["train", "valid", "test"])
    path.write_bytes(spoil_data(path.read_bytes(), draw))
    return ["train", "--dataset", "graph", "--device", "cpu", "--rank", "3", "--max-epochs", "1"]


def plan_case(here: Path, draw: random.Random) -> list[str]:
    path = here / "plan.json"
    path.write_bytes(spoil_json(path.read_bytes(), draw))
    return ["train", "--plan", "plan.json", "--max-epochs", "1"]


def checkpoint_case(here: Path, draw: random.Random) -> list[str]:
    checkpoint = here / "run" / "checkpoint" / "00000001"
    path = checkpoint / draw.choice([*FILES, SUMS_FILE])
    content = path.read_bytes()
    if path.name == SUMS_FILE or draw.random() < 0.3:
        at = draw.randrange(64)
        damaged = content[:at] + bytes([content[at] ^ (1 << draw.randrange(7))]) + content[at + 1 :]
        path.write_bytes(draw.choice([damaged, content[: at + 1], garbage(content, draw), b""]))
    else:
        spoil: Callable[[bytes, random.Random], bytes] = spoil_json if path.suffix == ".json" else spoil_tensors
        path.write_bytes(spoil(content, draw))
        with_sums(checkpoint)
    resume, evaluate = ["train", "--resume", "run", "--max-epochs", "2"], ["evaluate", "run"]
    # Ranking takes the tables alone: it need not notice what only training reads.
    return resume if path.name == OPTIMIZER_FILE else draw.choice([resume, evaluate])


def config_case(here: Path, draw: random.Random) -> list[str]:
    path = here / "begun" / draw.choice(["plan.json", "config.json"])
    path.write_bytes(spoil_json(path.read_bytes(), draw))
    return ["train", "--resume", "begun"]


CASES: list[tuple[Callable[[Path, random.Random], list[str]], int]] = [
    (data_case, 60), (plan_case, 60), (checkpoint_case, 50), (config_case, 30),
]  # fmt: skip


@pytest.mark.parametrize(("case", "count"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.slow
def test_every_malformed_input_is_refused_and_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    good: Path,
    case: Callable[[Path, random.Random], list[str]],
    count: int,
) -> None:
    for number in range(count):
        here = tmp_path / str(number)
        shutil.copytree(good, here)
        monkeypatch.chdir(here)
        arguments = case(here, random.Random(number))
        before = snapshot(here)
        result = invoke(*arguments)
        told = f"case {number}: {arguments}: {result.exit_code}: {result.output[-500:]}"
        assert result.exit_code in (1, 2), told
        assert isinstance(result.exception, SystemExit), told + repr(result.exception)
        assert result.stderr.startswith("memplan: "), told
        assert "Traceback" not in result.output, told
        assert snapshot(here) == before, told
        assert not (here / "unpickled").exists()
        shutil.rmtree(here)
