"""Commands of the ablation table: make scenes, train the rows, pack, measure and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gidlite.__main__ import run
from gidlite.cli import Steps, console, progress_bar
from gidlite.errors import GidliteError, written

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
    from studies.ablation.training import train_rows

    _quiet()
    rows = _rows(configs, row)
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


Weights = Annotated[Path | None, typer.Option(help="Folder of the feature networks.")]
Renderer = Annotated[str, typer.Option(help="Of rows that do not name one.")]


@app.command()
def measure(
    out: Out = _OUT,
    row: Names = None,
    configs: Configs = _CONFIGS,
    scenes: Annotated[int, typer.Option(help="Held-out synthetic scenes; 0 for none.")] = 80,
    clips: Annotated[
        list[Path] | None, typer.Option(help="Real clip, or a folder of them; may be repeated.")
    ] = None,
    sprites: Sprites = None,
    seed: Seeds = (0, 1, 2),
    samples: Annotated[int, typer.Option(help="Predictions per photo.")] = 2,
    steps: Steps = 8,
    renderer: Renderer = "softmax",
    long: Annotated[bool, typer.Option("--long", help="FVD_32, too: twice the time.")] = False,
    weights: Weights = None,
    device: Device = "cpu",
) -> None:
    """Sample, render and score the rows: `python -m studies.ablation measure --clips clips/`.

    Run again, it goes on where it was. Several processes may measure at once, each another seed.
    """
    from gidlite.data.splits import judges
    from gidlite.media.video import find_videos
    from studies.ablation import cases
    from studies.ablation.films import load_film_networks
    from studies.ablation.measure import MeasureSettings, with_seeds
    from studies.ablation.measure import measure as measure_models

    _quiet()
    rows, settings = _rows(configs, row), MeasureSettings(samples, steps, renderer, long)
    paths = judges(path for path, _ in find_videos(clips)) if clips else []
    if not (scenes or paths):
        raise GidliteError("nothing to measure on; give --scenes, or --clips with real ones")
    networks = load_film_networks(weights, device)
    if scenes:
        cases.store_scene_cases(
            out / "cases" / "scenes", scenes, sprites=sprites, say=console.print
        )
    if paths:
        cases.store_clips(out / "cases" / "clips", paths, say=console.print)
    sets = [name for name, wanted in (("scenes", scenes), ("clips", paths)) if wanted]
    measure_models(
        with_seeds(rows, seed), out, sets, settings=settings, networks=networks,
        sprites=sprites, say=console.print,
    )  # fmt: skip


@app.command()
def power(out: Out = _OUT, seed: Seeds = (0, 1, 2), renderer: Renderer = "softmax") -> None:
    """Write power.json: what difference can be seen, from trainings of the full model alone."""
    from studies.ablation.measure import read_settings
    from studies.ablation.table import power as power_of

    found = power_of(out, seeds=seed, settings=read_settings(out, renderer))
    _write(out / "power.json", found)
    for place, one in found.items():
        for score, value in one.items():
            if isinstance(value, dict):
                console.print(
                    f"{place}  {score}: full {value['full']:.4g}, least seen {value['least']:.4g}"
                )


@app.command()
def table(
    out: Out = _OUT, row: Names = None, configs: Configs = _CONFIGS, seed: Seeds = (0, 1, 2),
    renderer: Renderer = "softmax",
    skip: Annotated[int, typer.Option(help="First photos of every set to leave out.", min=0)] = 0,
) -> None:  # fmt: skip
    """Compare what was measured, and print it: writes table.json and table.md, or after_N.*."""
    from studies.ablation.measure import read_settings
    from studies.ablation.table import compare_rows, markdown_table, rich_tables

    rows, settings = _rows(configs, row), read_settings(out, renderer)
    name = f"after_{skip}" if skip else "table"
    found = compare_rows(rows, out, seeds=seed, settings=settings, skip=skip, say=console.print)
    _write(out / f"{name}.json", found)
    (out / f"{name}.md").write_text(markdown_table(found))
    for shown in rich_tables(found):
        console.print(shown)
    console.print(f"{out / name}.md")


@app.command()
def sheet(
    place: Annotated[str, typer.Argument(help="scenes or clips.")], out: Out = _OUT,
    row: Names = None, configs: Configs = _CONFIGS, seed: Annotated[int, typer.Option()] = 0,
) -> None:  # fmt: skip
    """Draw what rows predict for six photos, beside the truth: `... sheet scenes`."""
    from studies.ablation.measure import MeasureSettings, is_ready, write_sheet

    _quiet()
    models = dict.fromkeys(f"{one.source}-{seed}" for one in _rows(configs, row))
    models = [m for m in models if is_ready(m, out) and (place == "scenes" or m[:5] != "wind-")]
    console.print(f"{write_sheet(out, place, models, MeasureSettings())}")


def _quiet() -> None:
    from diffusers.utils import logging

    logging.set_verbosity_error()


def _rows(configs: Path, names: list[str] | None):
    from studies.ablation.rows import read_rows

    return read_rows(configs, names or ())


def _write(path: Path, value: dict) -> None:
    with written(path) as hidden:
        hidden.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    run(app)
