"""A traced step against the same step for real: every allocation of PyTorch's CPU allocator, by its profiler."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from memplan.app.cli import app
from memplan.device.target import resolve
from memplan.errors import DoesNotFitError, MemplanError, UsageError
from memplan.prediction.rehearsal import one_step
from memplan.trace import assert_fits, trace
from memplan.trace.attention import workspace_numbers
from memplan.trace.fit import Range, fit, polynomial_ledger
from memplan.trace.real import record_real
from memplan.trace.reductions import Processor, sum_scratch_bytes
from memplan.trace.tracing import record
from memplan.workload import Shape, build_workload
from tests.support.slow import mostly_slow
from tests.support.tracing import MODELS, OPTIMIZERS, Step, make_step
from tkbc.step.trainer import Trainer
from tkbc.verify import random_facts

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = resolve("cpu", None)
FEW_BYTES = 128
"""Python numbers that autograd keeps as tensors of 8 bytes, which no trace sees."""


def peaks(build: Any) -> tuple[int, int]:
    return record(build, {}, CPU).ledger.peak_bytes, record_real(build, {}, CPU).ledger.peak_bytes


@pytest.mark.parametrize("model", mostly_slow(MODELS, quick=2))
@pytest.mark.parametrize("optimizer", mostly_slow(OPTIMIZERS))
def test_a_traced_peak_is_the_measured_one(model: str, optimizer: str) -> None:
    traced, measured = peaks(partial(make_step, model, optimizer))
    assert abs(traced - measured) <= FEW_BYTES


@pytest.mark.parametrize("model", mostly_slow(["mlp", "transformer", "residual"]))
def test_under_autocast_too(model: str) -> None:
    traced, measured = peaks(partial(make_step, model, "adam", bf16=True))
    assert traced == pytest.approx(measured, rel=1e-3)


def test_sizes_that_depend_on_data_are_the_data_s_own() -> None:
    """A mask over ids, a count of it and unique ids: known numbers; the rest of the step has none."""
    ids = torch.arange(997) % 17

    def build() -> Step:
        table = nn.Embedding(17, 64)
        rows = torch.from_numpy(ids.numpy())

        def step() -> None:
            chosen = table(rows)[rows > 4]
            (chosen[: int((rows == 5).sum())].sum() + table(torch.unique(rows)).sum() + chosen.sum()).backward()

        return step

    traced, measured = peaks(build)
    assert traced == pytest.approx(measured, abs=FEW_BYTES)


@pytest.mark.parametrize("optimizer", mostly_slow(["adagrad", "adam", "sgd"]))
@pytest.mark.parametrize(
    ("model", "score", "scoring"),
    [
        ("TNTPairRE", "l1", "fused"),
        ("TNTPairRE", "l1", "materialized"),
        ("TNTPairRE", "l2", "fused"),
        ("TNTPairRE", "dot", "chunked"),
        ("TNTComplEx", "dot", "fused"),
    ],
)
def test_our_own_trainer_traced_as_a_stranger_s_is_what_estimate_says(
    model: Any, score: Any, scoring: Any, optimizer: Any
) -> None:
    workload = build_workload(
        Shape(n_entities=501, n_relations=11, n_timestamps=19, n_facts=300),
        model=model, rank=37, score=score, scoring=scoring, optimizer=optimizer, batch_size=203, emb_reg=0.01,
        time_reg=0.01, unit_norm=model == "TNTPairRE", threads=2,
    )  # fmt: skip

    def build() -> Step:
        trainer = Trainer(workload, random_facts(workload, workload.n_facts), learning_rate=0.1)
        order = trainer.shuffled(0)[: workload.batch_size]
        return lambda: trainer.step(order)

    assert record(build, {}, CPU).ledger.peak_bytes == one_step(workload).peak_bytes


def test_tensors_have_their_owners_names_and_lines() -> None:
    found = trace(partial(make_step, "mlp", "adam"), device="cpu")
    names = {tensor.name: tensor for tensor in found.tensors_at_peak}
    assert names["0.weight"].kind == "parameters"
    assert names["exp_avg of 0.weight"].kind == "optimizer"
    assert names["0.weight"].shape == (64, 37)
    assert any(tensor.kind == "temporaries" and "tracing.py:" in tensor.line for tensor in found.tensors_at_peak)
    gradients = [t for t in record(partial(make_step, "mlp", "sgd"), {}, CPU).ledger.events if t.allocation]
    assert {"gradient of 0.weight", "gradient of 3.bias"} <= {e.allocation.name for e in gradients if e.allocation}
    assert [phase.name for phase in found.phases] == ["setup", "forward", "backward", "optimizer"]


def test_nothing_is_left_behind() -> None:
    """A trace undoes what it does to PyTorch: modules move, compile and save memory as before."""
    before = nn.Module._apply, torch.compile, nn.Module.compile
    trace(partial(make_step, "mlp", "sgd"), device="cpu")
    assert (nn.Module._apply, torch.compile, nn.Module.compile) == before
    assert type(copy.deepcopy(nn.Linear(2, 3)).weight) is nn.Parameter


def test_it_needs_no_memory() -> None:
    """Tebibytes of activations."""
    found = trace(partial(make_step, "mlp", "adam", batch=2**32), device="cpu")
    assert found.peak.requested_bytes > 2**41
    assert found.fits is False


def quadratic(n: int) -> Step:
    """A step whose bytes grow with n², as attention's do."""
    x = torch.randn(n, 8, requires_grad=True)
    return lambda: (x @ x.T).softmax(-1).sum().backward()


@pytest.mark.parametrize("device", mostly_slow(["cpu", "T4"]))
def test_fit_finds_the_largest_size_that_fits(device: str) -> None:
    outside = resolve(device, None).outside_bytes
    target = resolve(device, f"{outside + 64 * 2**20}B")
    answer, _ = fit(quadratic, Range("n", 1, 100_000), {}, target)

    def takes(n: int) -> int:
        return trace(quadratic, {"n": n}, device=device).peak.device_bytes

    assert answer.device_bytes == takes(answer.value) <= target.budget_bytes < takes(answer.value + 1)
    assert answer.traces <= 12


@pytest.mark.slow
def test_fit_keeps_an_effective_size_in_equal_shares() -> None:
    target = resolve("cpu", "64MiB")
    most, _ = fit(quadratic, Range("n", 1, 100_000), {}, target)
    answer, _ = fit(quadratic, Range("n", 1, 100_000), {}, target, effective=most.value + 2)
    assert (answer.accumulation_steps, answer.value) == (2, -(-(most.value + 2) // 2))
    with pytest.raises(DoesNotFitError, match="even 1 takes"):
        fit(quadratic, Range("n", 1, 9), {}, resolve("cpu", "9B"))


def test_a_ledger_at_sizes_that_were_not_traced() -> None:
    ledgers = {n: record(quadratic, {"n": n}, CPU).ledger for n in (3, 7, 20)}
    at = polynomial_ledger(ledgers)
    assert at is not None
    assert at(501).peak_bytes == record(quadratic, {"n": 501}, CPU).ledger.peak_bytes


def test_assert_fits() -> None:
    build = partial(make_step, "mlp", "adam")
    assert assert_fits(build, "1GiB").fits
    with pytest.raises(AssertionError, match=r"allowed; largest at the peak: .*KiB"):
        assert_fits(build, "10KiB")


def test_partial_sums_of_a_cuda_sum() -> None:
    """Measured on PyTorch's CUDA build: a sum over the first of (4096, 512) takes 16 MiB on 40 multiprocessors."""
    t4 = Processor(40, 1024)
    assert sum_scratch_bytes((4096, 512), (512, 1), [0], 4, t4) == (2**24, 16)
    assert sum_scratch_bytes((4096, 512), (512, 1), [1], 4, t4) == (0, 0)


@pytest.mark.parametrize(
    ("capability", "is_half", "dropout", "width", "heads", "queries", "keys", "numbers"),
    [
        ((7, 5), False, True, 32, 144, 64, 64, 4100),
        ((7, 5), False, False, 160, 6, 130, 70, 36_900),
        ((7, 5), True, False, 96, 144, 300, 300, 49_176),
        ((7, 5), True, False, 160, 144, 64, 64, 57_356),
        ((8, 0), True, True, 128, 144, 130, 70, 32_776),
        ((8, 0), False, False, 256, 6, 300, 300, 98_352),
        ((8, 6), True, True, 80, 144, 40, 200, 24_584),
        ((8, 6), True, False, 128, 6, 40, 200, 73_736),
        ((9, 0), False, False, 72, 6, 40, 200, 16_392),
    ],
)
def test_workspaces_of_cuda_s_attention(
    capability: Any, is_half: bool, dropout: bool, width: int, heads: int, queries: int, keys: int, numbers: int
) -> None:
    """Measured on PyTorch's CUDA build."""
    assert workspace_numbers(capability, is_half, dropout, width, heads, queries, keys) == numbers


def attention_layer(dropout: float, precision: torch.dtype) -> Step:
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout, batch_first=True)
    x, optimizer = torch.randn(8, 33, 64), torch.optim.Adam(layer.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", precision):
            loss = layer(x).pow(2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()

    return step


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's tensors stand for CUDA's where there is none")
@pytest.mark.parametrize(
    ("gpu", "precision", "attention"),
    mostly_slow(
        [
            ("A100 40GB", torch.bfloat16, "_scaled_dot_product_flash_attention"),
            ("T4", torch.float16, "_scaled_dot_product_efficient_attention"),
            ("T4", torch.bfloat16, "_safe_softmax"),
        ]
    ),
)
def test_without_cuda_a_trace_for_it_takes_cuda_s_ways(gpu: str, precision: torch.dtype, attention: str) -> None:
    found = record(partial(attention_layer, 0.1, precision), {}, resolve(gpu, None))
    made = [e.allocation for e in found.ledger.events if e.allocation is not None and e.is_birth]
    assert found.way == "mapped"
    assert any(a.name.endswith(attention) for a in made)
    assert {a.dtype for a in made if a.name.endswith(": native_dropout")} > {"bool"}
    assert {a.dtype for a in made if a.name == "pow"} == {"float32"}  # in CUDA's list, not in the CPU's
    assert {a.dtype for a in made if a.name.endswith("linear1: addmm")} == {str(precision).removeprefix("torch.")}
    assert any(a.name.endswith("_foreach_norm") for a in made)
    assert any(a.name.endswith("_foreach_sqrt") for a in made)


def test_a_bias_is_added_in_place_by_linear_and_not_by_a_user() -> None:
    """Of inputs that are not contiguous, ``linear`` makes a product and adds to it."""

    def build(by_hand: bool) -> Step:
        layer, x = nn.Linear(64, 96), torch.randn(31, 53, 64).transpose(0, 1)
        return lambda: (x @ layer.weight.T + layer.bias if by_hand else layer(x)).sum()

    with torch.no_grad():
        for by_hand in (False, True):
            traced, measured = peaks(partial(build, by_hand))
            assert abs(traced - measured) <= FEW_BYTES


@pytest.mark.parametrize("first", ["", "import memplan.trace; "])
@pytest.mark.slow
def test_the_package_is_the_call(first: str) -> None:
    code = f"{first}from memplan import trace; print(trace(lambda: (lambda: None), device='cpu').fits)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "True"


STEP = """
import torch
from torch import nn

def make_step(batch_size: int = 4):
    model = nn.Linear(3, 2)
    x = torch.randn(batch_size, 3)
    def step():
        {line}
    return step
"""


def run(folder: Path, text: str, *arguments: str) -> Result:
    path = folder / "steps.py"
    path.write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["trace", str(path), "--device", "cpu", *arguments])


def test_the_command_and_its_json(tmp_path: Path) -> None:
    text = STEP.format(line="model(x).sum().backward()")
    found = json.loads(run(tmp_path, text, "--size", "batch_size=7", "--json").stdout)
    assert {"workload", "peak", "phases", "tensors_at_peak", "budget_bytes", "fits"} <= found.keys()
    assert found["workload"]["sizes"] == {"batch_size": 7}
    assert found["peak"].keys() == {"requested_bytes", "allocated_bytes", "reserved_bytes", "device_bytes"}
    shown = run(tmp_path, text, "--explain", "--plot", str(tmp_path / "memory.svg"))
    assert shown.exit_code == 0, shown.output
    assert "weight" in shown.stdout
    assert "steps.py:" in shown.stdout
    assert (tmp_path / "memory.svg").is_file()
    assert run(tmp_path, text, "--budget", "9B").exit_code == 3
    measured = json.loads(run(tmp_path, text, "--real", "--json").stdout)
    assert measured["workload"]["way"] == "measured"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x.cuda()", r"steps\.py:9: asks for the device 'cuda'"),
        ("model(x[:, 0])", r"steps\.py:9: RuntimeError: .*reduction dim"),
        ("x[x > 0]", r"steps\.py:9: .*nonzero depends on numbers .* --real"),
        ("torch.compile(model)(x)", r"steps\.py:9: torch\.compile .* --real"),
        ("raise SystemExit(3)", r"steps\.py:9: SystemExit: 3"),
        ("undefined", r"steps\.py:9: NameError"),
    ],
)
def test_a_mistake_in_a_step_is_one_line_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    assert_one_line(run(tmp_path, STEP.format(line=line)), 1, message)


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("x = 1", 2, "has no function make_step"),
        ("import nothing_of_that_name", 1, r"steps\.py:1: ModuleNotFoundError"),
        ("def make_step(:", 1, r"steps\.py:1: invalid syntax"),
        ("def make_step():\n    raise ValueError('no data')", 1, r"steps\.py:2: ValueError: no data \(in make_step\)"),
        ("def make_step():\n    return 3", 2, "make_step returned int"),
        ("def make_step(width):\n    return None", 2, "missing a required argument: 'width'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path: Path, text: str, status: int, message: str) -> None:
    assert_one_line(run(tmp_path, text), status, message)


def test_an_operator_without_a_fake_kernel_is_named(tmp_path: Path) -> None:
    own = (
        '@torch.library.custom_op("tests::own", mutates_args=())\n'
        "def own(x: torch.Tensor) -> torch.Tensor:\n    return x + 1\n"
    )
    text = STEP.format(line="own(x)").replace("def make_step", own + "def make_step")
    assert_one_line(run(tmp_path, text), 1, r"steps\.py:12: .*register_fake.* --real")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "batch_size"], "--size batch_size: write a name"),
        (["--fit", "batch_size=9..2"], "--fit batch_size=9..2: write"),
        (["--size", "depth=3"], "unexpected keyword argument 'depth'"),
        (["--effective", "8"], "add --fit"),
        (["--real", "--fit", "batch_size=1..2"], "--real measures one size"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert_one_line(run(tmp_path, STEP.format(line="pass"), *arguments), 2, message)


def test_a_trace_needs_no_import_of_torch_until_it_runs() -> None:
    code = "import sys, memplan, memplan.app.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def assert_one_line(result: Result, status: int, message: str) -> None:
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert re.search(message, lines[0]), lines[0]
    assert isinstance(result.exception, SystemExit)


def test_errors_are_memplan_s_own() -> None:
    def build() -> Step:
        return lambda: torch.randn(3)[torch.randn(3) > 0]

    with pytest.raises(MemplanError, match=r"test_trace\.py:"):
        trace(build, device="cpu")
    with pytest.raises(UsageError, match="batch_size"):
        trace(build, {"batch_size": 3}, device="cpu")


@pytest.mark.slow
def test_the_page_s_example_fits_what_the_page_says() -> None:
    root = Path(__file__).resolve().parents[3]
    example = f"{root / 'examples' / 'trace_any_step.py'}:tntpairre"
    shown = CliRunner().invoke(app, ["trace", example, "--device", "T4", "--fit", "batch_size=1..4096"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].strip() in (root / "docs" / "trace.md").read_text(encoding="utf-8")
