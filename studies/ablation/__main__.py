"""Commands of the ablation table: make scenes, train the rows, pack them, measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gidlite.__main__ import run
from gidlite.cli import Steps, console, progress_bar
from gidlite.errors import GidliteError

app = typer.Typer(help="The ablation table: rows that differ in one thing, trained alike.")
Presets = Annotated[str, typer.Option(help="laptop, gpu, or tiny to try it.")]
Out = Annotated[Path, typer.Option(help="Folder of the ablation.")]
Configs = Annotated[Path, typer.Option(help="Folder of the rows, one JSON each.")]
Names = Annotated[list[str] | None, typer.Option("--row", help="Only this row; may be repeated.")]
Sprites = Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")]
Seeds = Annotated[list[int], typer.Option(help="Of training; may be repeated.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
_OUT, _CONFIGS = Path("runs/ablation"), Path("configs/ablations")


def _preset(name: str):
    from studies.ablation.rows import PRESETS

    if name not in PRESETS:
        raise GidliteError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


@app.command()
def scenes(
    preset: Presets = "laptop", out: Out = _OUT, sprites: Sprites = None, device: Device = "cpu"
) -> None:
    """Make the scenes that all rows learn from, as `train` does: `... scenes`."""
    from studies.ablation.scenes import store_scenes
    from studies.ablation.training import scenes_path

    chosen, path = _preset(preset), scenes_path(out)
    with progress_bar("Making scenes") as progress:
        store_scenes(path, chosen, sprites=sprites, device=device, progress=progress)
    console.print(f"{path}  {chosen.scenes} scenes to learn from, {chosen.held_out} held out")


@app.command()
def train(
    preset: Presets = "laptop",
    out: Out = _OUT,
    row: Names = None,
    configs: Configs = _CONFIGS,
    sprites: Sprites = None,
    seed: Seeds = (0, 1, 2),
    device: Device = "cpu",
    minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this long.")] = None,
) -> None:
    """Train every row that is not finished: `python -m studies.ablation train --preset laptop`.

    Run again, it goes on where it was. Several processes may train at once, each another seed.
    """
    from diffusers.utils import logging

    from studies.ablation.rows import read_rows
    from studies.ablation.training import train_rows

    logging.set_verbosity_error()
    rows = read_rows(configs, row or ())
    finished = train_rows(
        rows, _preset(preset), out, device=device, sprites=sprites, seeds=seed,
        minutes=minutes, say=console.print,
    )  # fmt: skip
    console.print(f"{out}  finished rows: {', '.join(finished) or 'none'}")


@app.command()
def pack(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")], out: Out = _OUT
) -> None:
    """Finished rows as archives under 16 MB: `... pack DIR`; unpack with tar -xf."""
    from studies.ablation.training import pack_models

    for path in pack_models(out, folder):
        console.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def measure(
    out: Out = _OUT,
    row: Names = None,
    configs: Configs = _CONFIGS,
    scenes: Annotated[int, typer.Option(help="Held-out synthetic scenes; 0 for none.")] = 16,
    clips: Annotated[
        list[Path] | None, typer.Option(help="Real clip, or a folder of them; may be repeated.")
    ] = None,
    sprites: Sprites = None,
    frames: Annotated[int, typer.Option(help="Length of the videos.")] = 64,
    samples: Annotated[int, typer.Option(help="Predictions per photo.")] = 2,
    steps: Steps = 12,
    draws: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 200,
    metrics: Annotated[str, typer.Option(help="Some of fid,kid,fvd,fvd32.")] = "fid,kid,fvd,fvd32",
    renderer: Annotated[str, typer.Option(help="Of rows that do not name one.")] = "softmax",
    weights: Annotated[Path | None, typer.Option(help="Folder of the feature networks.")] = None,
    device: Device = "cpu",
) -> None:
    """Sample, render and score the rows: `python -m studies.ablation measure --clips clips/`.

    Writes rows/NAME.json, table.json and table.md. Goes on where it was; run again, it only
    prints the table.
    """
    from diffusers.utils import logging

    from gidlite.media.video import find_videos
    from studies.ablation.measure import MeasureSettings, measure_rows
    from studies.ablation.rows import read_rows
    from studies.ablation.table import markdown_table, rich_table

    logging.set_verbosity_error()
    rows = read_rows(configs, row or ())
    paths = [path for path, _ in find_videos(clips)] if clips else []
    names = tuple(name.strip() for name in metrics.lower().split(","))
    settings = MeasureSettings(
        frames=frames, samples=samples, steps=steps, draws=draws, metrics=names, renderer=renderer
    )
    table = measure_rows(
        rows, out, scenes=scenes, clips=paths, sprites=sprites, settings=settings,
        weights=weights, device=device, say=console.print,
    )  # fmt: skip
    for shown in rich_table(rows, table):
        console.print(shown)
    (out / "table.md").write_text(markdown_table(rows, table))
    console.print(f"{out / 'table.md'}")


if __name__ == "__main__":
    run(app)
