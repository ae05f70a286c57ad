"""Does the planner pick the fastest layout, and are its seconds right? Random workloads, planned and measured.

    memplan calibrate
    OMP_NUM_THREADS=1 python benchmarks/choices.py --json FILE [--count 40] [--seed 0] [--seconds 4]
    python benchmarks/choices.py --json FILE --report
    python benchmarks/choices.py --json FILE [FILE ...] --fit memplan/device/measured_cpu.py

Each workload is planned under a random budget, by the rates as stated and, where there is a calibration, by those. The
layouts that are taken, the best-priced of those passed over and some drawn among the rest take turns, a training step
each; medians are compared within a workload only. A line of JSON a workload goes to FILE; what FILE has already is not
measured again. ``--fit`` fits the rates as stated to the rows and writes them.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from rich.console import Console

from memplan.app.views.terminal import listing
from memplan.device.present import usable_threads
from memplan.device.rates import StepRates, cpu_rates
from memplan.device.target import Target, resolve
from memplan.search.cost import seconds_per_epoch
from memplan.search.planner import Search
from memplan.search.side import Layout
from memplan.search.work import step_work
from memplan.workload import TRAITS, OptimizerName, Shape, Workload
from tkbc.measure.fitting import error_on_others, robustly_fitted
from tkbc.measure.steps import step_times
from tkbc.step.threads import score_threads

RUNNERS_UP, OTHERS = 3, 4
FACTOR = 3
"""A layout priced higher than this many times the best is not tried: it could take minutes."""
TERMS_PER_SECOND = {"fused l1": 6e9, "fused l2": 12e9, "fused dot": 20e9, "chunked dot": 15e9}
PLAIN_TERMS_PER_SECOND = 2.5e8
TRIES = 2
BUSY = 1.3
"""Where a fixed piece of work takes this many times its usual seconds, a workload is measured again."""
LEAST_TO_MEDIAN = 1.04
"""The fit takes no step for slower than this many times its least seconds: the rest was others on the machine."""
MODULE = '''"""Seconds of each kind of work in a step, fitted to steps on one thread of an AMD EPYC (Zen 3, 2.4 GHz).

Written by ``{command}``.
"""

from __future__ import annotations

CPU_ERROR = {error:.2f}
CPU_SECONDS: dict[str, float] = {{
{kinds}}}
'''
STEP_SECONDS = (0.005, 0.15)


class Drawn(NamedTuple):
    """A workload to plan: a graph's shape, settings and a share of the memory between the least and all of it."""

    seed: int
    shape: Shape
    settings: dict[str, Any]
    share: float


def log_uniform(draw: random.Random, low: float, high: float) -> int:
    """Return a whole number between both, each order of magnitude as likely."""
    return round(low * (high / low) ** draw.random())


def drawn(seed: int) -> Drawn:
    """Return the workload of a seed: one whose step takes some milliseconds up to a quarter of a second."""
    draw = random.Random(seed)
    while True:
        model, traits = draw.choice(list(TRAITS.items()))
        score = draw.choice([traits.scores[0], *traits.scores])
        scoring = draw.choice(["fused", "fused", "fused", "fused", "chunked", "chunked", "materialized"])
        rank, batch = log_uniform(draw, 8, 300), log_uniform(draw, 32, 2000)
        n_entities = log_uniform(draw, 300, 30_000)
        intervals = draw.random() < 0.15 and (traits.is_complex or not traits.is_temporal or score != "dot")
        shape = Shape(
            n_entities=n_entities,
            n_relations=log_uniform(draw, 4, 300),
            n_timestamps=log_uniform(draw, 10, 1000),
            n_facts=batch * 4,
            intervals=intervals,
        )
        settings = {
            "model": model,
            "score": score,
            "scoring": scoring,
            "rank": rank,
            "batch_size": batch,
            "optimizer": draw.choice(["adagrad", *get_args(OptimizerName)]),
            "precision": draw.choice(["fp32", "fp32", "fp32", "bf16", "fp16"]),
            "emb_reg": draw.choice([0, 0.01]),
            "time_reg": draw.choice([0, 0.01]) if traits.is_temporal else 0,
            "n3_parts": not traits.is_complex and draw.random() < 0.5,
            "unit_norm": not traits.is_complex and draw.random() < 0.5,
            "threads": usable_threads(),
        }
        share = draw.choice([1.0, draw.random(), draw.random(), draw.random()])
        terms = batch * n_entities * rank * (2 if traits.is_complex else 1)
        guess = terms / TERMS_PER_SECOND.get(f"{scoring} {score}", PLAIN_TERMS_PER_SECOND)
        if STEP_SECONDS[0] <= guess <= STEP_SECONDS[1]:
            return Drawn(seed, shape, settings, share)


def search_of(workload: Drawn, target: Target) -> Search:
    """Return the search for a workload under its budget: that share of the way from the least memory to all of it."""
    free = Search(workload.shape, target, None, workload.settings)
    least, most = free.smallest_bytes(), free.training.device_bytes(free.training.layouts()[0])
    budget = round(least * (max(most, least) / least) ** workload.share)
    return Search(workload.shape, target._replace(budget_bytes=budget), None, workload.settings)


def price(workload: Workload, rates: StepRates) -> float:
    """Return the predicted seconds of a step."""
    return seconds_per_epoch(workload, rates) / workload.steps_per_epoch


def contestants(search: Search, rates: dict[str, StepRates], seed: int) -> list[Layout]:
    """Return, for each set of rates, the layout taken and the best-priced others, and some of the rest that fit."""
    side = search.training
    fitting = [layout for layout in side.layouts() if side.fits(layout)]
    found: dict[Layout, None] = {}
    bearable = set(fitting)
    for one in rates.values():
        prices = {layout: price(side.workload_of(layout), one) for layout in fitting}
        ordered = sorted(fitting, key=lambda layout: (prices[layout], *layout))
        found |= dict.fromkeys(ordered[: 1 + RUNNERS_UP])
        bearable &= {layout for layout in fitting if prices[layout] <= FACTOR * prices[ordered[0]]}
    rest = sorted(bearable - set(found))
    return [*found, *random.Random(seed).sample(rest, min(len(rest), OTHERS))]


def probe() -> float:
    """Return the least seconds of a fixed piece of work: more than usual where somebody else uses the machine."""
    a, b, moved = torch.rand(435, 128), torch.rand(128, 1024), torch.zeros(2**21)
    taken = []
    for _ in range(9):
        begin = time.perf_counter()
        torch.mm(a, b)
        moved.add_(1.0)
        taken.append(time.perf_counter() - begin)
    return sorted(taken)[len(taken) // 2]


def measured(workload: Drawn, target: Target, rates: dict[str, StepRates], seconds: float) -> dict[str, Any]:
    """Return a workload's row: layouts with predicted and measured seconds of a step."""
    search = search_of(workload, target)
    layouts = contestants(search, rates, workload.seed)
    workloads = [search.training.workload_of(layout) for layout in layouts]
    before = probe()
    with score_threads(workloads[0]):
        taken = step_times(workloads, seconds)
    return {
        "seed": workload.seed,
        "budget_bytes": search.target.budget_bytes,
        "probe_seconds": max(before, probe()),
        "workload": workloads[0].model_dump(),
        "layouts": [
            {
                "batch": layout.batch,
                "chunk": layout.chunk,
                "predicted": {name: price(of, one) for name, one in rates.items()},
                **time._asdict(),
            }
            for layout, of, time in zip(layouts, workloads, taken, strict=True)
        ],
    }


def measure_all(options: argparse.Namespace) -> None:
    """Measure the workloads that the file lacks."""
    (path,) = options.json
    target = resolve("cpu", None)
    rates = {"as stated": cpu_rates()}
    if target.is_calibrated and isinstance(target.rates, StepRates):
        rates["calibrated"] = target.rates
    usual = min(probe() for _ in range(5))
    done = {row["seed"] for row in rows_of([path])} if path.exists() else set()
    for seed in range(options.seed, options.seed + options.count):
        if seed in done:
            continue
        for _ in range(TRIES):
            row = measured(drawn(seed), target, rates, options.seconds)
            usual = min(usual, row["probe_seconds"])
            if row["probe_seconds"] <= BUSY * usual:
                break
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        w, probed = row["workload"], row["probe_seconds"] / usual
        told = ", ".join(f"{name} {verdict}" for name, verdict in verdicts(row).items())
        print(f"{seed}: {w['scoring']} {w['score']} rank {w['rank']} batch {w['batch_size']} of {w['n_entities']}: "
              f"{told}; probe {probed:.2f}", flush=True)  # fmt: skip


class Verdict(NamedTuple):
    """How a choice among the layouts measured came out."""

    of_best: float
    """Its seconds over the fastest layout's."""
    predicted: float
    """Predicted over measured seconds."""

    def __str__(self) -> str:
        return f"{self.of_best:.2f} of the best, {self.predicted:.2f} predicted"


def verdicts(row: dict[str, Any]) -> dict[str, Verdict]:
    """Return the verdict by each set of rates."""
    layouts = row["layouts"]
    fastest = min(layout["seconds"] for layout in layouts)
    found = {}
    for name in layouts[0]["predicted"]:
        chosen = min(layouts, key=lambda layout: (layout["predicted"][name], layout["batch"], layout["chunk"]))
        found[name] = Verdict(chosen["seconds"] / fastest, chosen["predicted"][name] / chosen["seconds"])
    return found


def rows_of(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of the files."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def report(rows: list[dict[str, Any]]) -> None:
    """Print how many choices are how near to the best, and how near the predicted seconds are."""
    lines = []
    for name in rows[0]["layouts"][0]["predicted"]:
        of_best = [verdicts(row)[name].of_best for row in rows]
        errors = sorted(abs(verdicts(row)[name].predicted - 1) for row in rows)
        lines.append((
            name, str(len(rows)), f"{sum(r <= 1.05 for r in of_best) / len(rows):.0%}",
            f"{sum(r <= 1.15 for r in of_best) / len(rows):.0%}", f"{max(of_best):.2f}",
            f"{errors[len(errors) // 2]:.0%}", f"{sum(e <= 0.25 for e in errors) / len(rows):.0%}", f"{errors[-1]:.0%}",
        ))  # fmt: skip
    columns = ("rates", "workloads>", "within 5%>", "within 15%>", "worst>", "error>", "within 25%>", "largest>")
    Console(width=100).print(listing(columns, lines))


def fit(rows: list[dict[str, Any]], into: Path) -> None:
    """Fit the seconds of each kind of work to the rows, robustly: what does not go with the rest counts less."""
    usual = sorted(row["probe_seconds"] for row in rows)[len(rows) // 4]
    work, seconds = [], []
    for row in rows:
        if row["probe_seconds"] > BUSY * usual:
            continue
        for layout in row["layouts"]:
            sizes = {"micro_batch_size": layout["batch"], "chunk_size": layout["chunk"]}
            work.append(step_work(Workload(**{**row["workload"], **sizes})))
            seconds.append(min(layout["seconds"], LEAST_TO_MEDIAN * layout["least_seconds"]))
    found = robustly_fitted(work, seconds)
    error = error_on_others(work, seconds, found, 0.0)
    kinds = "".join(f'    "{kind}": {second:.3g},\n' for kind, second in sorted(found.items()) if second > 0)
    into.write_text(MODULE.format(command=shlex.join(["python", *sys.argv]), error=error, kinds=kinds), "utf-8")
    print(f"{len(seconds)} layouts of {len(rows)} workloads; nine of ten within {error:.0%}")


def main() -> None:
    """Measure, report or fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the first workload; the others follow")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring for each workload")
    parser.add_argument("--json", type=Path, nargs="+", required=True)
    parser.add_argument("--report", action="store_true", help="only print the table")
    parser.add_argument("--fit", type=Path, help="only fit the rates, into this module")
    options = parser.parse_args()
    if options.fit:
        fit(rows_of(options.json), options.fit)
        return
    if not options.report:
        measure_all(options)
    report(rows_of(options.json))


if __name__ == "__main__":
    main()
