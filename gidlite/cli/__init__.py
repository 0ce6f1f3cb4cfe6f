"""What all commands share: options with their help, where to print, progress bars."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gidlite.errors import GidliteError, protected, written

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="JPEG, PNG or WebP; any size.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal results.")]
Steps = Annotated[int, typer.Option(help="Solver steps; more is slower.")]
Guidance = Annotated[float, typer.Option(help="Weight of classifier-free guidance; 0 is none.")]
Model = Annotated[Path | None, typer.Option(help="Folder of a trained pipeline.")]
Renderer = Annotated[str, typer.Option(help="neural, softmax or average.")]
Width = Annotated[int, typer.Option(help="Largest width of the video in pixels.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second.")]
Seconds = Annotated[float | None, typer.Option(help="Length; one period (5 s) if not given.")]
Amplify = Annotated[float, typer.Option(help="Factor on the motion, 0 to 5.")]
Quality = Annotated[float, typer.Option(help="Of MP4 and WebP, 0 to 1.")]
Slow = Annotated[float, typer.Option(help="2 plays at half speed.")]
Loop = Annotated[bool, typer.Option("--loop/--no-loop", help="End where it begins.")]
SlicePath = Annotated[Path | None, typer.Option("--xt", help="Where to write the X-t slice.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Sprites = Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")]
MetricWeights = Annotated[Path | None, typer.Option("--weights", help="Folder of metric networks.")]


def say(message: object) -> None:
    """Print a table, or text as it is: a file's name may look like markup."""
    console.print(message, markup=False)


def reads(*inputs: str) -> Callable[[Callable], Callable]:
    """Let a command refuse to write to the files that it is given under these option names."""

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def guarded(*args: Any, **options: Any) -> None:
            given = [options.get(name) for name in inputs]
            with protected(*(path for path in given if path is not None)):
                command(*args, **options)

        return guarded

    return decorate


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that draws a progress bar on a terminal."""
    from rich.progress import Progress

    with Progress(console=errors, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def parse_size(size: str) -> tuple[int, int]:
    """Return (width, height) of a text such as 256x160, or refuse it."""
    sides = size.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise GidliteError(f"--size is {size!r}; give width x height, as 256x160")
    return int(sides[0]), int(sides[1])


def write_report(output: Path | None, report: dict[str, Any]) -> None:
    """Write a report as JSON, if a place is given, and say where."""
    if output is not None:
        with written(output) as hidden:
            hidden.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        say(output)


def quiet_diffusers() -> None:
    """Keep the library's notes about loading from the terminal."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
