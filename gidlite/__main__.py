"""The ``gidlite`` command. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.markup import escape

from gidlite.cli import errors, learn, photo
from gidlite.errors import GidliteError

app = typer.Typer(
    help="One photo of something that sways in, a seamless loop out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(photo.app)
app.add_typer(learn.app)
app.add_typer(learn.evaluate, name="evaluate", no_args_is_help=True)
app.add_typer(learn.weights, name="weights", no_args_is_help=True)


def run(command: Callable[[], None]) -> None:
    """Run a command line; a user's mistake becomes one sentence and exit code 2."""
    try:
        command()
    except GidliteError as error:
        errors.print(f"[red]Error:[/] {escape(str(error).rstrip('.'))}.")
        sys.exit(2)


def main() -> None:
    """Run the ``gidlite`` command."""
    run(app)


if __name__ == "__main__":
    main()
