"""Commands: make a set to look at, and score what was answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gidlite.__main__ import run
from gidlite.cli import Seed, progress_bar, say, show_report

app = typer.Typer(help="Two loops of a photo side by side: which one moves as in the wind?")


@app.command()
def make(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photos, or folders.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the set.")],
    first: Annotated[str, typer.Option(help="modes, grid, a folder of a pipeline, or still.")],
    second: Annotated[str, typer.Option(help="What it is compared with, likewise.")],
    pairs: Annotated[int, typer.Option(help="How many; one in ten is a catch pair.")] = 60,
    seconds: Annotated[float, typer.Option(help="Length of a loop.")] = 5.0,
    fps: Annotated[float, typer.Option(help="Frames per second, 15 to 30.")] = 20.0,
    seed: Seed = 0,
) -> None:
    """Make a page and its loops: `... make photos -o outputs/eye --first modes --second grid`.

    Called again, it goes on where it was stopped. key.json tells the sides: keep it from observers.
    """
    from studies.eye.make import Settings, find_photos, make_set

    settings = Settings(first, second, pairs, seconds, fps, seed)
    with progress_bar("Making loops") as progress:
        made = make_set(find_photos(photos), output, settings, progress=progress)
    say(f"{output / 'index.html'}  {pairs} pairs, {made} loops made now; open it in a browser")
    say(f"{output / 'key.json'}  which side is which: leave it out where others can read")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the set.")],
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="What was saved.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="DIR/score.json if not given.")
    ] = None,
) -> None:
    """How often first was preferred: `... score outputs/eye results/*.json`."""
    from studies.eye import score as scoring

    key = scoring.read_key(folder)
    report = scoring.score(key, scoring.read_results(results, key))
    show_report([scoring.score_table(key, report)], output or folder / "score.json", report)
    for warning in report["warnings"]:
        say(warning, word="Note")


if __name__ == "__main__":
    run(app)
