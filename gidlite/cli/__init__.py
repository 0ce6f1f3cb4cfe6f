"""What all commands share: options with their help, where to print, progress bars."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument, Option, Typer

from gidlite.errors import plain, protected, require, written

if TYPE_CHECKING:
    from torch import Tensor

    from gidlite.pipeline import GidPipeline

# A file's name may look like markup or an emoji code.
_PLAIN = {"highlight": False, "soft_wrap": True, "markup": False, "emoji": False}
console, errors = Console(**_PLAIN), Console(**_PLAIN, stderr=True)

Photo = Annotated[Path, Argument(metavar="PHOTO", help="JPEG, PNG or WebP; any size.")]
Output = Annotated[Path | None, Option("--output", "-o", help="Where to write.")]
Bins = Annotated[int, Option(help="Bins kept, K.")]
Seed = Annotated[int, Option(help="Equal seeds give equal results.", min=0, max=2**63 - 1)]
Steps = Annotated[int, Option(help="Solver steps; more is slower.")]
Renderer = Annotated[str, Option(help="neural, softmax or average.")]
SlicePath = Annotated[Path | None, Option("--xt", help="Where to write the X-t slice.")]
Device = Annotated[str, Option(help="cpu, cuda, ...")]
Sprites = Annotated[Path | None, Option(help="Folder of photographic cut-outs.")]
MetricWeights = Annotated[Path | None, Option("--weights", help="Folder of metric networks.")]


@dataclass(frozen=True)
class PriorOptions:
    """Options of commands that imagine motion."""

    seed: Seed = 0
    steps: Steps = 12
    guidance: Annotated[float, Option(help="Weight of classifier-free guidance; 0 is none.")] = 0.0
    model: Annotated[Path | None, Option(help="Folder of a trained pipeline.")] = None

    @functools.cached_property
    def pipeline(self) -> GidPipeline:
        """The pipeline, loaded when it is asked for."""
        return load_pipeline(self.model)


WINDS = {"calm": 0.15, "breeze": 0.5, "gusty": 0.85}
Points = list[str] | None


@dataclass(frozen=True)
class PhotoOptions(PriorOptions):
    """Options of commands that imagine the motion of one photo, and may be told of it."""

    wind: Annotated[
        str | None, Option(help="calm, breeze (if not given), gusty, 0 to 1; seed: drawn with it.")
    ] = None
    mask: Annotated[Path | None, Option(help="Picture: white may move, black stays.")] = None
    still: Annotated[
        Points, Option(metavar="X,Y", help="What is at this pixel stays; repeatable.")
    ] = None
    move: Annotated[
        Points, Option(metavar="X,Y", help="What is at this pixel moves; repeatable.")
    ] = None

    def strength(self) -> float | None:
        """Return the wind as a number from 0 to 1, None if the seed is to draw it, or refuse it."""
        if self.wind == "seed":
            return None
        try:
            wind = WINDS.get(self.wind or "breeze") or float(self.wind)
        except ValueError:
            wind = math.nan
        known = ", ".join([*WINDS, "seed"])
        require(0 <= wind <= 1, f"--wind is {self.wind}; give {known} or a number from 0 to 1")
        return wind

    def points(self, option: str, photo: Path, image: Tensor) -> list[tuple[float, float]]:
        """Return the points of an option, in pixels of the photo as viewers show it, as shares."""
        if not (texts := getattr(self, option)):
            return []
        from gidlite.media import shown_size

        height, width = shown_size(photo, tall=image.shape[-2] > image.shape[-1])
        found = []
        for text in texts:
            try:
                x, y = (float(number) for number in text.split(","))
            except ValueError:
                x = y = math.nan
            ask = f"give x,y in pixels of the photo, which has {width}x{height}"
            require(0 <= x < width and 0 <= y < height, f"--{option} is {text}; {ask}")
            found.append((x / width, y / height))
        return found

    def gain(self, pipeline: GidPipeline, photo: Path, image: Tensor) -> Tensor | None:
        """Return the factors on motion that the mask and the points ask for, if any."""
        still, move = (self.points(option, photo, image) for option in ("still", "move"))
        if self.mask is None and not (still or move):
            return None
        return pipeline.edit(image, mask=self.mask, still=still, move=move)


def command(app: Typer, name: str | None = None, *, reads: tuple[str, ...] = ()) -> Callable:
    """Add a command; every field of a dataclass among its parameters is an option of its own.

    It refuses to write to the files that it is given under the names in ``reads``.
    """

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        shown, bundles = [], {}
        # get_type_hints would hide the option of a parameter that defaults to None on Python 3.10.
        for parameter in signature(run, eval_str=True).parameters.values():
            kind = parameter.annotation
            if is_dataclass(kind):
                bundles[parameter.name] = kind
                options = get_type_hints(kind, include_extras=True)
                shown += [(f.name, f.default, options[f.name]) for f in fields(kind)]
            else:
                shown.append((parameter.name, parameter.default, kind))

        @functools.wraps(run)
        def guarded(**given: Any) -> None:
            inputs = [given.get(key) for key in reads]
            files = [x for item in inputs for x in (item if isinstance(item, list) else [item])]
            with protected(*filter(None, files)):
                for key, kind in bundles.items():
                    names = [f.name for f in fields(kind) if f.name in given]
                    given[key] = kind(**{name: given.pop(name) for name in names})
                run(**given)

        guarded.__signature__ = Signature(
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, default, kind in shown
        )
        return app.command(name)(guarded)

    return decorate


def say(message: object, *, word: str | None = None) -> None:
    """Print a table or one line; one that begins with a ``word`` goes to the error stream."""
    if isinstance(message, Table):
        console.print(message)
    elif word is None:
        console.print(plain(message))
    else:
        begin = Text(f"{word}: ", "red" if word == "Error" else "yellow")
        errors.print(begin.append(plain(str(message).rstrip(".")) + ".", "none"))


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that draws a progress bar on a terminal."""
    from rich.progress import Progress

    # Lines meant for a file would be drawn above the bar.
    with Progress(console=errors, transient=True, redirect_stdout=console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def beside(source: Path, ending: str, rivals: Collection[str]) -> Path:
    """Return a name for what is made of a file: its stem and an ending, in its folder.

    Where a file with another of the suffixes ``rivals`` has the same stem, so that both would be
    given one name, the suffix becomes part of it.
    """
    stem = source.stem
    with suppress(OSError):  # a folder that may be entered but not listed
        names = map(os.path.splitext, os.listdir(source.parent))
        ends = [end for begin, end in names if begin.casefold() == stem.casefold()]
        if sum(end.lower() in rivals for end in ends) > 1:
            stem = f"{stem}_{source.suffix[1:]}"
    return source.with_name(f"{stem}{ending}")


def parse_size(size: str) -> tuple[int, int]:
    """Return (width, height) of a text such as 256x160, or refuse it."""
    sides = re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", size.lower())
    require(sides is not None, f"--size is {size!r:.40}; give width x height, as 256x160")
    return int(sides[1]), int(sides[2])


def show_report(tables: list, output: Path | None, report: dict[str, Any]) -> None:
    """Print the tables of a report, and write it as JSON if a place is given."""
    for table in tables:
        say(table)
    if output is not None:
        with written(output) as hidden:
            hidden.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        say(output)


def load_pipeline(model: Path | None) -> GidPipeline:
    """Return a trained pipeline, the shipped one by default, without notes about its loading."""
    # diffusers imports torch's compiler for a decorator, which takes a second, or does without.
    compiler = sys.modules.setdefault("torch._dynamo", None)
    from diffusers.utils import logging

    if compiler is None:
        del sys.modules["torch._dynamo"]
    from gidlite.pipeline import GidPipeline

    logging.set_verbosity_error()
    return GidPipeline.from_pretrained(model)
