"""Commands that make examples and train on them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from gidlite._checks import GidliteError
from gidlite.cli.shared import Seed, console, parse_size, progress_bar

app = typer.Typer()


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="vae, amplitude, prior, coordinate or renderer.")],
    config: Annotated[Path, typer.Option(help="JSON, see configs/.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of real shards; may be repeated.")
    ] = None,
    parts: Annotated[
        list[Path] | None, typer.Option(help="Run folder of a trained part; repeat for each.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Start from this part: a run, or a folder of a pipeline.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes that make scenes ahead.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this long.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in --out.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write the pipeline, or the renderer, here.")
    ] = None,
) -> None:
    """Train a part: `gidlite train vae --config configs/vae.json --out runs/vae`.

    On several GPUs: `accelerate launch --num_processes 4 -m gidlite train ... --device cuda`;
    in several processes on CPUs: `torchrun --nproc-per-node 4 -m gidlite train ...`.
    Ctrl-C saves a checkpoint before it stops.
    """
    from gidlite.train import TrainConfig, read_meta, run_training
    from gidlite.train.processes import finish, is_main_process

    settings = TrainConfig.from_json(config, part=part)

    def report(step: int, loss: float, rate: float) -> None:
        console.print(f"step {step}  loss {loss:.4f}  {rate:.2f} steps/s")

    run_training(
        settings, out, sprites=sprites, data=data or (), parts=parts or (), start=start,
        export=export,
        device=device, workers=workers, minutes=minutes, resume=resume, report=report,
    )  # fmt: skip
    if is_main_process():
        step = read_meta(out)["step"]
        more = "" if step >= settings.steps else "; go on with --resume"
        console.print(f"{out}  step {step} of {settings.steps}{more}")
        if export is not None:
            console.print(f"{export}  {'renderer' if part == 'renderer' else 'pipeline'}")
    finish()


@app.command()
def synthesize(
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet here.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for training shards.")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 48,
    seed: Seed = 0,
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
) -> None:
    """Scenes of the synthetic world: `gidlite synthesize --sheet scenes.png`."""
    from gidlite.synthesize import write_scene_shards, write_scene_sheet

    if sheet is None and output is None:
        raise GidliteError("nothing to do: give --sheet SHEET.png, or -o DIR for shards, or both")
    if count < 1 or seed < 0:
        raise GidliteError("--count must be at least 1 and --seed at least 0")
    if sheet is not None:
        with progress_bar("Rendering scenes") as progress:
            write_scene_sheet(sheet, count=count, seed=seed, sprites=sprites, progress=progress)
        console.print(
            f"{sheet}  {count} scenes: photo, motion (white: 4 px at 256 wide), X-t slice"
        )
    if output is not None:
        with progress_bar("Making scenes") as progress:
            shards = write_scene_shards(
                output, count=count, seed=seed, sprites=sprites, progress=progress
            )
        console.print(f"{output}  {count} samples in {shards} shards")


@app.command()
def extract(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Files, folders or glob patterns.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for shards.")],
    every: Annotated[int, typer.Option(help="Frames between start frames.")] = 10,
    size: Annotated[str, typer.Option(help="Width x height of samples.")] = "256x160",
    num_frequencies: Annotated[int, typer.Option(help="Bins kept, K.")] = 16,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores if not given.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Use a dask cluster, as tcp://host:8786.")
    ] = None,
) -> None:
    """Real videos to training shards: `gidlite extract clips/ -o data/clips`. Resumes."""
    from gidlite.extract import Settings, run_extraction

    width, height = parse_size(size)
    settings = Settings(
        every=every, height=height, width=width, num_frequencies=num_frequencies
    )  # fmt: skip
    started = time.monotonic()
    with progress_bar("Following pixels") as progress:
        report = run_extraction(
            videos, output, settings=settings, workers=workers, scheduler=scheduler,
            progress=progress,
        )  # fmt: skip
    _print_report(report)
    console.print(f"{output}  {report.samples} samples in {time.monotonic() - started:.0f} s")


def _print_report(report) -> None:
    from rich.table import Table

    table = Table("video", "samples", "stabilised", "left out", box=None, pad_edge=False)
    for name, video in sorted(report.videos.items()):
        why = [f"{reason} {count}" for reason, count in video["rejected"].items()]
        why += [video["error"]] if "error" in video else []
        table.add_row(name, str(video["samples"]), str(video["stabilised"]), ", ".join(why))
    if len(report.videos) <= 100:
        console.print(table)
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.rejected.items())
    failed = sum("error" in video for video in report.videos.values())
    console.print(
        f"{len(report.videos)} videos, {failed} with errors; "
        f"start frames left out: {reasons or 'none'}; stabilised: {report.stabilised}"
    )
