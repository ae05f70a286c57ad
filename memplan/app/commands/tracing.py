"""The command about any PyTorch step: trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memplan.app.commands import print_json
from memplan.app.options import AsJson
from memplan.device.target import Target, resolve
from memplan.errors import DoesNotFitError, UsageError

if TYPE_CHECKING:
    from memplan.trace.result import Fit, Trace
    from memplan.trace.tracing import Recorded


def trace(
    file: Annotated[str, typer.Argument(metavar="FILE.py[:make_step]", help="Where make_step(**sizes) is defined.")],
    size: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="A size for make_step; may be repeated.")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(metavar="NAME=A..B", help="Find the largest size that fits, such as batch_size=1..4096."),
    ] = None,
    effective: Annotated[
        int | None, typer.Option(min=1, help="With --fit: keep this size a step, in equal micro-batches that fit.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, or a GPU's name such as T4; else the GPU present, else cpu.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Memory that the step may take, such as 8GiB.")] = None,
    alloc_conf: Annotated[
        str | None, typer.Option(help="CUDA allocator options as in PYTORCH_CUDA_ALLOC_CONF; else the environment's.")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Measure real steps on the CPU instead: any code, but all of its memory.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every tensor alive at the peak, and the line that made it.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw memory over one step: .png, .svg or .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what any PyTorch training step allocates, tensor by tensor, without a GPU and without its memory.

    The file defines make_step(**sizes), which builds model, optimizer and inputs and returns a function that takes one
    training step. Nothing is computed: the step runs on tensors without numbers.
    """
    target = resolve(device, budget)
    sizes = _sizes(size or [])
    if effective is not None and fit is None:
        raise UsageError("--effective keeps a size while --fit looks for its share; add --fit NAME=A..B")
    if real and fit is not None:
        raise UsageError("--real measures one size; leave out --fit")
    if fit is not None:
        found, recorded, answer = _fitted(file, fit, sizes, target, alloc_conf, effective)
    else:
        found, recorded = _recorded(file, sizes, target, alloc_conf, real=real)
        answer = None
    first_step = recorded.first_step()
    if plot is not None:
        from memplan.app.views.plot import Taken, plot_ledger
        from memplan.app.views.trace import title_of
        from memplan.trace.tracing import taken_of_device

        after = taken_of_device(first_step, target, alloc_conf)
        taken = Taken(after, found.peak.device_bytes) if after else None
        plot_ledger(first_step, title_of(found), plot, budget_bytes=found.budget_bytes, taken=taken)
    if as_json:
        print_json(found if answer is None else answer)
    else:
        from memplan.app.views.terminal import make_console
        from memplan.app.views.trace import fit_report, trace_report

        console = make_console()
        if answer is not None:
            console.print(fit_report(answer), "")
        console.print(trace_report(found, target, first_step, explain=explain))
    if not found.fits:
        raise typer.Exit(DoesNotFitError.exit_code)


def _recorded(
    file: str, sizes: dict[str, int], target: Target, alloc_conf: str | None, *, real: bool
) -> tuple[Trace, Recorded]:
    """Return what a file's step takes, traced or measured."""
    from memplan.trace.loading import load
    from memplan.trace.real import record_real
    from memplan.trace.tracing import record, result_of

    make_step = load(file)
    recorded = (record_real if real else record)(make_step, sizes, target)
    return result_of(make_step, sizes, target, alloc_conf, recorded), recorded


def _fitted(
    file: str, text: str, sizes: dict[str, int], target: Target, alloc_conf: str | None, effective: int | None
) -> tuple[Trace, Recorded, Fit]:
    """Return the trace of the largest size that fits, and how it was found."""
    from memplan.trace.fit import Range, fit
    from memplan.trace.loading import load

    bounds = Range.parse(text)
    answer, recorded = fit(load(file), bounds, sizes, target, alloc_conf, effective)
    return answer.trace, recorded, answer


def _sizes(given: list[str]) -> dict[str, int]:
    sizes = {}
    for text in given:
        name, _, number = text.partition("=")
        if not (name.isidentifier() and number.isascii() and number.isdigit()):
            raise UsageError(f"--size {text}: write a name and a whole number, such as batch_size=64")
        sizes[name] = int(number)
    return sizes
