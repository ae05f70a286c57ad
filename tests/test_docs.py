"""What README and docs show is so: commands run, the planner prints what is shown, tables are what is kept."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from memplan.app.cli import app
from memplan.app.request import DEFAULT_MODEL
from memplan.catalog.datasets import find_dataset
from memplan.catalog.recipes import find_recipe
from memplan.search.choices import candidates
from memplan.workload import TRAITS, build_workload
from memplan.workload.models import recipes_of
from tests.conftest import REAL_DATA
from tests.support.training import GUIDE, guide_commands
from tkbc import learner
from tkbc.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLANNING = ("estimate", "plan", "compare", "recipes", "models")
"""Commands whose output depends on nothing but their options (and the threads, which are set)."""


class Shown(NamedTuple):
    """A command in a page, and the output below it in a console block, None in a bash block."""

    page: str
    command: str
    output: str | None


def shown_commands() -> Iterator[Shown]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for kind, block in re.findall(r"```(bash|console)\n(.*?)```", text, flags=re.DOTALL):
            if kind == "bash":
                for line in block.splitlines():
                    command = re.sub(r"\s+#.*", "", line)
                    for part in command.split(" && "):
                        yield Shown(page.name, part, None)
            else:
                for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                    command, _, output = part.partition("\n")
                    yield Shown(page.name, command, output)


SHOWN = list(shown_commands())


def of_kind(*names: str) -> list[Any]:
    return [
        pytest.param(shown, id=f"{shown.page}-{shown.command[:80]}")
        for shown in SHOWN
        if shlex.split(shown.command)[:1] == ["memplan"] and shlex.split(shown.command)[1] in names
    ]


@pytest.fixture
def a_quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data in ``data``, two threads, and nothing measured on the machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("TKBC_DATA", str(REAL_DATA))
    monkeypatch.chdir(tmp_path)
    if REAL_DATA.is_dir():
        (tmp_path / "data").symlink_to(REAL_DATA)
    return tmp_path


def test_the_pages_show_commands() -> None:
    assert len(SHOWN) > 30
    assert {shown.page for shown in SHOWN} >= {"README.md", "huong-dan.vi.md", "using.md"}


@pytest.mark.usefixtures("a_quiet_machine")
@pytest.mark.parametrize("shown", of_kind(*PLANNING))
def test_the_planner_says_what_the_page_shows(shown: Shown) -> None:
    result = CliRunner().invoke(app, shlex.split(shown.command)[1:])
    assert result.exit_code in ((0,) if shown.output is None else (0, 3)), result.output
    if shown.output is not None:

        def lines(text: str) -> list[str]:
            return [line.rstrip() for line in text.strip().splitlines()]

        assert lines(result.output) == lines(shown.output)


class _Planned(Exception):  # noqa: N818 - no error: the command has come as far as training
    pass


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What training would begin with; it does not begin."""
    begun: list[Any] = []

    def train(plan: Any, graph: Any, settings: Any, *_: Any, **__: Any) -> None:
        begun.append((plan.workload, graph.dataset, settings))
        raise _Planned

    def launch(task: Any) -> None:
        train(task.plan, task, task.settings)

    monkeypatch.setattr("tkbc.runs.train.train", train)
    monkeypatch.setattr("memplan.app.jobs.together.launch", launch)
    monkeypatch.setattr("memplan.app.jobs.supervise.prepare_torch", lambda *_: None)
    return begun


@pytest.mark.usefixtures("a_quiet_machine")
@pytest.mark.parametrize("shown", of_kind("train"))
def test_every_training_command_shown_begins_to_train(shown: Shown, planned: list[Any], real_data: Path) -> None:
    result = CliRunner().invoke(app, shlex.split(shown.command)[1:])
    assert isinstance(result.exception, _Planned), result.output
    assert len(planned) == 1


@pytest.mark.usefixtures("a_quiet_machine")
@pytest.mark.parametrize("shown", of_kind("sweep"))
def test_every_sweep_shown_begins(shown: Shown, monkeypatch: pytest.MonkeyPatch, real_data: Path) -> None:
    begun: list[Any] = []
    monkeypatch.setattr("memplan.app.sweep.job.search", lambda _, sweep, *__, **___: begun.append(sweep))
    result = CliRunner().invoke(app, shlex.split(shown.command)[1:])
    assert result.exit_code == 0, result.output
    assert len(begun) == 1


@pytest.mark.usefixtures("a_quiet_machine")
def test_the_guide_s_recipe_is_what_its_command_trains(planned: list[Any], real_data: Path) -> None:
    (command,) = [c for c in guide_commands() if "--dataset ICEWS14" in c and "--max_epochs 100" in c]
    words = shlex.split(command.replace("\\\n", " "))
    with pytest.raises(_Planned):
        learner.main(words[2:])
    result = CliRunner().invoke(
        app, ["train", "--auto-fit-gpu", "--dataset", "ICEWS14", "--model", "TNTPairRE", "--recipe", "guide"]
    )
    assert isinstance(result.exception, _Planned), result.output
    assert planned[0] == planned[1]


@pytest.mark.parametrize(
    "command", [s.command for s in SHOWN if s.command.startswith("python tkbc/")], ids=lambda command: command[:60]
)
@pytest.mark.usefixtures("a_quiet_machine")
def test_every_learner_command_shown_begins_to_train(command: str, planned: list[Any], real_data: Path) -> None:
    with pytest.raises(_Planned):
        learner.main(shlex.split(command)[2:])


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
@pytest.mark.slow
def test_every_line_of_python_that_is_shown_runs(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs").is_dir()


def test_every_script_that_is_named_is_there() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"python ((?:benchmarks|examples|tkbc)/\w+\.py)", page.read_text(encoding="utf-8"))
    }
    assert len(named) >= 5
    for name in named:
        assert (ROOT / name).is_file(), name


def test_the_readme_is_short_and_the_site_has_every_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in site, page.name


def test_every_page_that_is_linked_is_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_vietnamese_guide_has_every_section_of_the_old_one() -> None:
    if not GUIDE.is_file():
        pytest.skip(f"no guide in {GUIDE.parent}")
    n_solutions = len(re.findall(r"^### \d", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    n_sections = len(re.findall(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    ours = (ROOT / "docs" / "huong-dan.vi.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^### \d", ours, flags=re.MULTILINE)) == n_solutions == 4
    assert len(re.findall(r"^## ", ours, flags=re.MULTILINE)) == n_sections


@pytest.fixture(scope="module")
def reproduce() -> Any:
    """The script that makes the runs behind the tables."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("reproduce", ROOT / "benchmarks" / "reproduce.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_the_tables_of_results_are_what_is_kept(reproduce: Any) -> None:
    kept = json.loads(reproduce.KEPT.read_text(encoding="utf-8"))
    assert set(kept) == set(reproduce.EXPERIMENTS)
    for rows in kept.values():
        for row in rows:
            assert row["predicted_bytes"] == row["measured_bytes"]
            assert row.get("again", row["test"]) == row["test"], f"{row['label']}: made twice, the same"
    for page in reproduce.PAGES:
        text = page.read_text(encoding="utf-8")
        assert reproduce.with_tables(text, kept, reproduce.language_of(page)) == text
        n_tables = {"results.md": 5, "huong-dan.vi.md": 3}[page.name]
        assert text.count("<!-- table") == text.count("| Hits@10 |") == n_tables


def test_the_vietnamese_guide_writes_numbers_as_vietnamese_does() -> None:
    """1.234,5: no 1,234 and no 0.5 outside commands, names of versions and options."""
    text = (ROOT / "docs" / "huong-dan.vi.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+,\d{3},\d{3}|\b0\.\d+", prose)
    assert "| 75.087.388 |" in prose


def test_the_recipes_promise_what_is_kept(reproduce: Any) -> None:
    kept = json.loads(reproduce.KEPT.read_text(encoding="utf-8"))
    by_recipe = {}
    for row in (row for rows in kept.values() for row in rows):
        options = dict(itertools.pairwise(shlex.split(row["command"])))
        model = options.get("--model", DEFAULT_MODEL)
        recipe = find_recipe(options["--dataset"], model, options.get("--recipe"))
        if (row["epochs"], row["learning_rate"], row["seed"]) == (recipe.max_epochs, recipe.learning_rate, 0):
            by_recipe[recipe.name, model, recipe.dataset] = row
    promised = [(model, recipe) for model in TRAITS for recipe in recipes_of(model) if recipe.test_mrr is not None]
    assert len(promised) == 15
    for model, recipe in promised:
        row = by_recipe[recipe.name, model, recipe.dataset]
        settings = {**recipe.settings, "cooldown": recipe.cooldown}
        assert settings == {name: {**row, **row["settings"]}[name] for name in settings}
        assert recipe.test_mrr == round(row["test"]["mrr"], 3), recipe


def test_what_more_rank_gives_is_what_the_page_shows(reproduce: Any) -> None:
    """Each figure that a plan's table shows of a recipe's variant, and what was made twice in what is kept, too."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| `(--.*?)` .*\| (0\.\d+) \| (once|twice) \|$", page, flags=re.MULTILINE)
    shown = {(model, options): (int(rank), float(mrr), made) for model, rank, options, mrr, made in rows}
    kept = {row["command"]: row for rows in json.loads(reproduce.KEPT.read_text()).values() for row in rows}
    known = [one for one in candidates("ICEWS14", TRAITS, "TNTPairRE") if one.changes]
    assert len(known) == 4
    for one in known:
        options = " ".join(one.options).removeprefix(f"--model {one.model} ")
        rank, mrr, made = shown[one.model, options]
        assert (rank, mrr) == (one.changes.get("rank", one.recipe.settings["rank"]), round(one.test_mrr + 1e-9, 3))
        if made == "twice":
            row = kept[f"memplan train --dataset ICEWS14 --model {one.model} {options}"]
            assert (row["test"]["mrr"], row["rank"], row["epochs"]) == (one.test_mrr, rank, one.max_epochs)


def test_the_readme_s_results_are_what_is_kept(reproduce: Any) -> None:
    kept = json.loads(reproduce.KEPT.read_text(encoding="utf-8"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\w+) \| `(.*?)`: rank ([\d,]+), (.*), (\d+) epochs \|(.*)\|$", text, flags=re.MULTILINE)
    rows = [kept[name][0] for name in ("rules", "tntpairre", "tntcomplex", "guide")]
    for row, (model, recipe, rank, said, epochs, cells) in zip(rows, shown, strict=True):
        known = find_recipe("ICEWS14", model, recipe.removeprefix("--recipe "))
        workload = build_workload(find_dataset("ICEWS14").shape, model=model, **known.settings)
        assert row["rank"] == workload.rank == int(rank.replace(",", ""))
        assert row["epochs"] == known.max_epochs == int(epochs)
        assert (row["learning_rate"], row["cooldown"]) == (known.learning_rate, known.cooldown)
        assert f"Adagrad {known.learning_rate:g}" in said
        for setting, value in row["settings"].items():
            assert value == getattr(workload, setting), f"{recipe}: {setting}"
        alone = row.get("alone", row["test"]["mrr"])
        assert cells.split("|") == [
            f" {sum(rows * columns for rows, columns in MODELS[model].tables(workload).values()):,} ",
            f" {row['test']['mrr']:.3f} " if "alone" in row else "  ",
            f" {alone:.3f} ",
            *(f" {row['test'][key]:.3f} " for key in ("hits_at_1", "hits_at_10")),
            f" {row['measured_bytes'] / 2**20:.1f} MiB ",
        ]
        assert known.test_mrr == round(row["test"]["mrr"], 3)
