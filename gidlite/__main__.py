"""The ``gidlite`` command. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable

import typer

from gidlite import cli
from gidlite.cli import learn, photo
from gidlite.errors import GidliteError, GidliteWarning, require

# Threads of torch and numba that wait for each other by spinning take the cores from the one that
# is waited for, where other programs are at work. OpenMP reads this when it is loaded.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
app = typer.Typer(
    help="One photo of something that sways in, a seamless loop out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(photo.app)
app.add_typer(photo.export, name="export", no_args_is_help=True)
app.add_typer(learn.app)
app.add_typer(learn.evaluate, name="evaluate", no_args_is_help=True)
app.add_typer(learn.weights, name="weights", no_args_is_help=True)


def _warn(message: Warning | str, category: type[Warning], *where: object) -> None:
    """Say in one line what concerns the user, and only if asked what concerns the code."""
    if issubclass(category, GidliteWarning):
        cli.say(message, word="Note")
    elif sys.warnoptions:
        cli.say(f"{category.__name__}: {message}", word="Note")


def _somewhere() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def run(command: Callable[[], None]) -> None:
    """Run a command line; a user's mistake becomes one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name must not end the work
    for name in ("SIGTERM", "SIGHUP"):  # unwinding removes what is half-written
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    warnings.showwarning = _warn
    try:
        require(_somewhere(), "the current folder was removed; change to another one")
        command()
    except GidliteError as error:
        cli.say(error, word="Error")
        sys.exit(2)


def main() -> None:
    """Run the ``gidlite`` command."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(PATIENT)
    run(app)


if __name__ == "__main__":
    main()
