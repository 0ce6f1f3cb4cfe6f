"""Commands that turn photos and volumes into motion, videos and pages."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from gidlite.cli import (
    Amplify,
    Fps,
    Guidance,
    Loop,
    Model,
    Output,
    Photo,
    Quality,
    Renderer,
    Seconds,
    Seed,
    SlicePath,
    Slow,
    Steps,
    Width,
    console,
    progress_bar,
)
from gidlite.errors import GidliteError

app = typer.Typer()
# Swing of the liveliest pixels in px at 256 wide: below the first, motion is easily missed; beyond
# the second, a renderer invents more than it moves.
_SLIGHT, _FAR = 1.0, 12.0


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
    with progress_bar("Imagining motion") as progress:
        return pipeline(
            image, num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed), progress=progress,
        ).volume  # fmt: skip


def _render(
    image, volume, output: Path, xt: Path | None, *, times, fps, quality, amplify, renderer
) -> None:
    """Stream frames to one video and collect its X-t slice through the row that moves most."""
    import torch

    from gidlite.media import write_image
    from gidlite.media.writer import VideoWriter
    from gidlite.render import farthest_motion, render_frames
    from gidlite.viz import liveliest_row

    farthest = amplify * farthest_motion(volume)
    if farthest > _FAR:
        console.print(
            f"Something moves by {farthest:.0f} px of 256: shapes will stretch, and what they "
            "uncover is guessed. A smaller --amplify looks better."
        )
    elif 0 < farthest < _SLIGHT:
        console.print(f"The motion is slight, {farthest:.1f} px of 256: --amplify shows it better.")
    row = liveliest_row(volume.spectral, height=image.shape[-2])
    lines = []
    with (
        VideoWriter(output, fps=fps, quality=quality) as writer,
        progress_bar("Rendering") as progress,
    ):
        frames = render_frames(image, volume, times, amplify=amplify, renderer=renderer)
        for done, frame in enumerate(frames, start=1):
            writer.write(frame)
            lines.append(frame[:, row])
            progress(done, len(times))
    console.print(f"{output}  {image.shape[-1]}x{image.shape[-2]}, {len(times)} frames")
    if xt is not None:
        write_image(xt, torch.stack(lines, dim=1))
        console.print(f"{xt}  row {row} over time, downwards")


def _check_target(output: Path, quality: float = 0.8) -> None:
    """Refuse an unwritable target, or quality, before minutes are spent on it."""
    from gidlite.media.writer import VideoWriter

    VideoWriter(output, fps=30, quality=quality)


def _close(volume, times, *, fps: float, slow: float):
    """Return the volume closed to a loop, and say what that takes."""
    from gidlite.render import close_for

    speed = float(times[1] - times[0]) * fps / volume.fps
    if not math.isclose(speed, 1 / slow, rel_tol=0.01):
        console.print(f"To loop seamlessly the motion plays at {speed:.2f}x.")
    return close_for(volume, times)


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
    quality: Quality = 0.8,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 0.0,
    renderer: Renderer = "softmax",
    xt: SlicePath = None,
    model: Model = None,
) -> None:
    """Animate a photo: `gidlite animate rose.jpg` writes rose_loop.mp4 and rose_xt.png."""
    from gidlite.motion import SpectralVolume
    from gidlite.render import frame_times

    started = time.monotonic()
    image = _read_photo(photo, width)
    ending = "loop" if loop else "video"
    output = output or photo.with_name(f"{photo.stem}_{ending}.mp4")
    xt = xt or output.with_name(f"{photo.stem}_xt.png")
    _check_target(output, quality)
    import torch

    probe = SpectralVolume(torch.zeros(1, 2, 1, 1, dtype=torch.complex64))
    options = {"seconds": seconds, "fps": fps, "slow": slow, "loop": loop}
    frame_times(probe, **options)  # refuse impossible lengths before the long part
    _check_amplify(amplify, renderer)
    volume = _predict(image, seed=seed, steps=steps, guidance=guidance, model=model)
    times = frame_times(volume, **options)
    if loop:
        volume = _close(volume, times, fps=fps or volume.fps, slow=slow)
    _render(
        image, volume, output, xt, times=times, fps=fps or volume.fps, quality=quality,
        amplify=amplify, renderer=renderer,
    )  # fmt: skip
    console.print(f"Done in {time.monotonic() - started:.0f} s.")


def _check_amplify(amplify: float, renderer: str) -> None:
    from gidlite.render import check_renderer

    if not (math.isfinite(amplify) and 0 <= amplify <= 5):
        raise GidliteError(f"--amplify is {amplify}; it must lie between 0 and 5")
    check_renderer(renderer)


@app.command()
def predict(
    photo: Photo,
    output: Output = None,
    seed: Seed = 0,
    steps: Steps = 12,
    guidance: Guidance = 0.0,
    model: Model = None,
) -> None:
    """Photo to spectral volume: `gidlite predict rose.jpg -o rose.safetensors`."""
    from gidlite.motion import save_volume

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
    quality: Quality = 0.8,
    renderer: Renderer = "softmax",
    xt: SlicePath = None,
) -> None:
    """Photo and volume to video: `gidlite render rose.jpg rose.safetensors -o rose.mp4`."""
    from gidlite.motion import load_volume
    from gidlite.render import frame_times

    image, volume = _read_photo(photo, width), load_volume(volume_file)
    output = output or photo.with_name(f"{photo.stem}_loop.mp4")
    _check_target(output, quality)
    _check_amplify(amplify, renderer)
    times = frame_times(volume, seconds=seconds, fps=fps, slow=slow, loop=loop)
    if loop:
        volume = _close(volume, times, fps=fps or volume.fps, slow=slow)
    _render(
        image, volume, output, xt, times=times, fps=fps or volume.fps, quality=quality,
        amplify=amplify, renderer=renderer,
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
    from gidlite.media import write_image
    from gidlite.media.writer import write_video
    from gidlite.render import reanimate as run
    from gidlite.viz import compare_slices, liveliest_row

    output = output or video.with_name(f"{video.stem}_reanimated.mp4")
    xt = xt or output.with_name(f"{output.stem}_xt.png")
    _check_target(output)
    with progress_bar("Following pixels") as progress:
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
    guidance: Guidance = 0.0,
    model: Model = None,
) -> None:
    """One page to touch: `gidlite poke rose.jpg` writes rose_poke.html; drag it, let go.

    From a volume: `gidlite poke rose.safetensors --photo rose.jpg -o rose.html`.
    """
    from gidlite.dynamics import make_scene, write_page
    from gidlite.errors import check_output
    from gidlite.motion import load_volume

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

    from gidlite.dynamics import make_scene
    from gidlite.motion import SpectralVolume

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
