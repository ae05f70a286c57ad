"""The ``memplan`` command: its commands in the order of its help, and what becomes of errors."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from memplan.app.commands import known, machine, planning, sweeping, tracing, training, using
from memplan.errors import MemplanError


class _Group(TyperGroup):
    """A user's own mistake is one line on stderr and an exit status, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MemplanError as error:
            typer.echo(f"memplan: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            raise  # the reader went away: typer ends quietly
        except OSError as error:
            what = "cannot write" if error.filename is None else error.filename
            typer.echo(f"memplan: {what}: {error.strerror or error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, to the byte, what training a temporal knowledge-graph embedding allocates; then train with that plan.",
    epilog="Exit status: 0 it fits, 1 an error, 2 bad usage, 3 it does not fit.",
)
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
    app(prog_name="memplan")


if __name__ == "__main__":
    main()
