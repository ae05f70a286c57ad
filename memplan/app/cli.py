"""The ``memplan`` command: its commands in the order of its help, and what becomes of errors."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from memplan.app.commands import known, machine, planning, sweeping, tracing, training, using
from memplan.app.streams import lose_no_output
from memplan.errors import FailedElsewhereError, MemplanError


class _Group(TyperGroup):
    """A user's own mistake is one line on stderr and an exit status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FailedElsewhereError as error:
            raise typer.Exit(error.exit_code) from None  # the process that failed has said why
        except MemplanError as error:
            typer.echo("\n".join(map(_printable, f"memplan: {error}".split("\n"))), err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise  # the reader went away: typer ends quietly
        except OSError as error:
            what = "cannot write" if error.filename is None else error.filename
            typer.echo(f"memplan: {what}: {error.strerror or error}", err=True)
            raise typer.Exit(1) from None


def _printable(line: str) -> str:
    from memplan.app.views.terminal import printable  # a message may hold a name as the data have it

    return printable(line)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"memplan {version('memplan-tkbc')}")
        raise typer.Exit


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Plan, to the byte, what training a temporal knowledge-graph embedding allocates; then train with that plan.",
    epilog="Exit status: 0 it fits, 1 an error, 2 bad usage, 3 it does not fit.",
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of memplan itself, before any command."""


for command in (
    planning.estimate,
    planning.plan,
    training.train,
    sweeping.sweep,
    planning.compare,
    tracing.trace,
    machine.verify,
    machine.calibrate,
    training.evaluate,
    training.runs,
    training.monitor,
    using.predict,
    using.nearest,
    using.export,
    using.report,
    machine.devices,
    known.models,
    known.recipes,
):
    app.command()(command)
app.add_typer(known.datasets_app, name="datasets")


def main() -> None:
    """Run the command line."""
    lose_no_output()
    app(prog_name="memplan")


if __name__ == "__main__":
    main()
