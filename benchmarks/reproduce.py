"""Redo the results that the README and docs/results.md state, each by the memplan command that is printed and kept.

python benchmarks/reproduce.py NAME ... [--data-dir DIR] [--runs DIR] [--again | --speed]

NAME: rules, tntcomplex, complex, large, tntpairre, plain, guide, ablation, tradeoff or demo; all where none is given.
ICEWS14 must be there (``memplan datasets download ICEWS14``). A run that is finished is not made again, one that was
interrupted goes on. ``--again`` makes every run a second time from scratch, in a folder of its own, and keeps both
results. ``--speed`` makes no run: it takes steps of all the runs' workloads in turn, whose times can be compared with
each other. Figures are kept in benchmarks/results/reproduced.json and written into the tables of docs/.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "100")  # PyTorch's threads would spin on the cores of the kernel's

import torch
from timing import take_turns

from memplan.files import read_lines, read_object
from memplan.workload import PAIRRE_SETTINGS, Workload
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "reproduced.json"
PAGES = (ROOT / "docs" / "results.md", ROOT / "docs" / "huong-dan.vi.md")
ABLATED = (
    "--rank 100 --batch-size 1000 --emb-reg 0.01 --n3-sum --no-unit-norm --learning-rate 0.1 --cooldown 0 "
    "--max-epochs 10"
)
"""The same for every model and score, so that nothing else differs."""


SETTLED = ("rank", "batch_size", "settings", "learning_rate", "cooldown", "epochs", "seed")
"""What two runs of the same row have in common."""


class Cell(NamedTuple):
    """One run: how it is called in the tables, and what ``memplan train`` is given; ICEWS14 if no dataset."""

    label: str
    options: str


EXPERIMENTS: dict[str, list[Cell]] = {
    "rules": [
        Cell("TNTPairRE, rank 280, with rules", "--recipe icews14"),
        Cell("the same, seed 1", "--recipe icews14 --seed 1 --valid-freq 10"),
        Cell("the same, seed 2", "--recipe icews14 --seed 2 --valid-freq 10"),
        Cell("TNTPairRE, rank 2000, with rules", "--recipe icews14 --rank 2000 --max-epochs 8 --valid-freq 4"),
    ],
    "tntcomplex": [Cell("TNTComplEx, rank 156", "--model TNTComplEx")],
    "complex": [Cell("TComplEx, rank 156", "--model TComplEx"), Cell("ComplEx, rank 156", "--model ComplEx")],
    "large": [
        Cell("TNTComplEx, rank 1560, its first ten epochs", "--model TNTComplEx --recipe tkbc-1560 --max-epochs 10")
    ],
    "tntpairre": [Cell("TNTPairRE, rank 280", "--model TNTPairRE --recipe embeddings")],
    "plain": [
        Cell("TNTPairRE, any dataset's settings, rank 100", "--model TNTPairRE --recipe plain"),
        Cell("TPairRE, the same", "--model TPairRE"),
        Cell("PairRE, the same", "--model PairRE"),
    ],
    "guide": [Cell("TNTPairRE, the guide's settings", "--model TNTPairRE --recipe guide")],
    "ablation": [
        Cell(f"{model} {score}", f"--model {model} --score {score} {ABLATED}")
        for model in ("PairRE", "TPairRE", "TNTPairRE")
        for score in ("l1", "l2", "dot")
    ],
    "tradeoff": [
        Cell(
            f"rank={rank}, batch={batch}",
            f"--model TNTPairRE --score l1 {ABLATED}".replace("--rank 100", f"--rank {rank}").replace(
                "--batch-size 1000", f"--batch-size {batch}"
            ),
        )
        for rank, batch in ((100, 1000), (100, 256), (64, 512), (50, 256))
    ],
    "demo": [
        Cell(f"{model}, demo graph", f"--dataset demo --model {model}")
        for model in ("TNTPairRE", "TPairRE", "PairRE", "TNTComplEx", "TComplEx", "ComplEx")
    ],
}


def main() -> None:
    """Make the runs that are asked for, keep their figures, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *EXPERIMENTS], metavar="NAME")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduced"))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--again", action="store_true")
    how.add_argument("--speed", action="store_true")
    asked = parser.parse_args()
    kept = read_object(KEPT)
    if asked.speed:
        _time(kept, asked.runs / "first")
        KEPT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for name in [] if asked.speed else asked.names or EXPERIMENTS:
        for cell in EXPERIMENTS[name]:
            figures = _figures(_run(cell, asked.runs / ("again" if asked.again else "first"), asked.data_dir), cell)
            kept = read_object(KEPT)
            rows = {row["label"]: row for row in kept.get(name, [])}
            before = rows.get(cell.label, {})
            if any(before.get(key) != figures[key] for key in SETTLED):
                before = {}  # what is kept is of another recipe
            if asked.again:
                rows[cell.label] = {**(before or figures), "again": figures["test"]}
            else:
                rows[cell.label] = {**figures, **{k: v for k, v in before.items() if k in ("again", "epoch_seconds")}}
            kept[name] = [rows[c.label] for c in EXPERIMENTS[name] if c.label in rows]
            KEPT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8"), kept, language_of(page)), encoding="utf-8")


def _run(cell: Cell, runs: Path, data_dir: Path | None) -> Path:
    """Return the folder of the cell's finished run."""
    folder = runs / _folder_name(cell)
    if any("test" in line for line in read_lines(folder / "metrics.jsonl")):
        return folder
    words = ["--resume", str(folder)] if folder.exists() else [*_words(cell), "--run-dir", str(folder)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    print(f"memplan train {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "memplan.app.cli", "train", *words], check=True)
    return folder


def _folder_name(cell: Cell) -> str:
    return re.sub(r"\W+", "-", cell.options).strip("-").lower()


def _time(kept: dict[str, Any], runs: Path) -> None:
    """Set each row's ``epoch_seconds``: the median of full steps, taken in turn with those of all other rows."""
    steps: dict[str, Callable[[], object]] = {}
    per_epoch: dict[str, int] = {}
    for name, cells in EXPERIMENTS.items():
        for cell in cells:
            if any(row["label"] == cell.label for row in kept.get(name, [])):
                workload = Workload.model_validate(read_object(runs / _folder_name(cell) / "plan.json")["workload"])
                trainer = Trainer(workload, random_facts(workload.shape, workload.n_facts), learning_rate=0.1)
                part = trainer.shuffled(1)[: workload.batch_size]
                steps[cell.label] = functools.partial(trainer.step, part)
                per_epoch[cell.label] = workload.steps_per_epoch
                torch.set_num_threads(workload.threads)
    times = take_turns(steps, repeats=31, seconds_each=10.0)
    for rows in kept.values():
        for row in rows:
            row["epoch_seconds"] = round(times[row["label"]].median * per_epoch[row["label"]], 2)


def _words(cell: Cell) -> list[str]:
    words = shlex.split(cell.options)
    if "--dataset" not in words:
        words = ["--dataset", "ICEWS14", *words]
    if "--model PairRE" in cell.options:
        return [*words, "--time-reg", "0"]  # no time to regularize
    return words


def _figures(folder: Path, cell: Cell) -> dict[str, Any]:
    plan, config = read_object(folder / "plan.json"), read_object(folder / "config.json")
    workload = Workload.model_validate(plan["workload"])
    lines = read_lines(folder / "metrics.jsonl")
    epochs = [line for line in lines if "loss" in line]
    (test,) = [line for line in lines if "test" in line]
    peak = read_object(folder / "memory_check.json")["peak"]
    return {
        "label": cell.label,
        "command": f"memplan train {shlex.join(_words(cell))}",
        "rank": plan["rank"],
        "batch_size": plan["batch_size"],
        "settings": {
            name: getattr(workload, name)
            for name in ("score", "optimizer", "emb_reg", "n3_parts", "time_reg", "unit_norm")
            if name not in PAIRRE_SETTINGS or not workload.traits.is_complex
        }
        | ({"rules": True} if workload.rules else {}),
        "learning_rate": config["learning_rate"],
        "cooldown": config.get("cooldown", 0.0),
        "seed": config["seed"],
        "versions": config["versions"],
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "predicted_bytes": peak["predicted"]["requested_bytes"],
        "measured_bytes": peak["measured"]["requested_bytes"],
        "seconds_per_epoch": round(statistics.median(line["seconds"] for line in epochs), 1),
        "loss": [round(line["loss"], 4) for line in epochs],
        "valid_mrr": {str(line["epoch"]): round(line["valid"]["both"]["mrr"], 4) for line in epochs if line["valid"]},
        "epochs": len(epochs),
        "best_epoch": test["best_epoch"],
        "test": {name: round(value, 4) for name, value in test["test"]["both"].items()},
        **({"alone": round(test["alone"]["both"]["mrr"], 4)} if test.get("alone") else {}),
    }


def language_of(page: Path) -> str:
    """Return "vi" of page.vi.md, "en" of page.md."""
    return page.suffixes[0][1:] if len(page.suffixes) > 1 else "en"


def with_tables(page: str, kept: dict[str, Any], language: str = "en") -> str:
    """Return the page with each ``<!-- table NAME ... -->`` followed by the table of these experiments, as kept."""

    def filled(found: re.Match[str]) -> str:
        rows = [row for name in found[2].split() for row in kept.get(name, [])]
        return f"{found[1]}\n{_table(rows, language)}" if rows else found[0]

    return re.sub(r"(<!-- table ([a-z ]+) -->\n)(?:\n?\|.*\n)*", filled, page)


COLUMNS = {
    "en": ("predicted B", "measured B", "s/epoch", "epochs", "test MRR", "Hits@1", "Hits@3", "Hits@10", "MRR again"),
    "vi": ("dự đoán, B", "đo được, B", "giây/epoch", "epoch", "test MRR", "Hits@1", "Hits@3", "Hits@10", "MRR lần hai"),
}
ALONE = {"en": "MRR without rules", "vi": "MRR không có luật"}
VIETNAMESE = str.maketrans({",": ".", ".": ","})
"""1,234.5 as it is written in Vietnamese: 1.234,5."""


def _table(rows: list[dict[str, Any]], language: str) -> str:
    with_rules = any("alone" in row for row in rows)
    columns = ("", *COLUMNS[language], *([ALONE[language]] if with_rules else []))
    lines = [columns, ("---", *("---:" for _ in columns[1:]))]
    for row in rows:
        test, again = row["test"], row.get("again")
        cells = (
            f"{row['predicted_bytes']:,}",
            f"{row['measured_bytes']:,}",
            f"{row.get('epoch_seconds', row['seconds_per_epoch']):.1f}",
            f"{row['best_epoch']}{'/' if language == 'vi' else ' of '}{row['epochs']}",
            *(f"{test[key]:.4f}" for key in ("mrr", "hits_at_1", "hits_at_3", "hits_at_10")),
            "" if again is None else f"{again['mrr']:.4f}",
            *([f"{row['alone']:.4f}"] if with_rules else []),
        )
        label = row["label"]
        if language == "vi":
            label = label.replace("the guide's settings", "thiết lập của bản cũ")
            cells = tuple(cell.translate(VIETNAMESE) for cell in cells)
        lines.append((label, *cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
