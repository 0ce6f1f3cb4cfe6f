"""Commands that turn photos and volumes into motion, videos and pages."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gidlite import cli
from gidlite.errors import GidliteError, check_output

if TYPE_CHECKING:
    from torch import Tensor

    from gidlite.motion import SpectralVolume

app = typer.Typer()

# Swing of the liveliest pixels in px at 256 wide: below the first, motion is easily missed; beyond
# the second, a renderer invents more than it moves.
_SLIGHT, _FAR = 1.0, 12.0


@dataclass(frozen=True)
class _Video:
    """What is asked of a video of a photo.

    Attributes:
        output: File or folder.
        xt: Where its X-t slice goes, if anywhere.
    """

    output: Path
    xt: Path | None
    seconds: float | None = None
    fps: float | None = None
    loop: bool = True
    slow: float = 1.0
    amplify: float = 1.0
    quality: float = 0.8
    renderer: str = "softmax"

    def times(self, volume: SpectralVolume) -> Tensor:
        """Return the volume times of its frames."""
        from gidlite.render import frame_times

        options = {"seconds": self.seconds, "fps": self.fps, "slow": self.slow, "loop": self.loop}
        return frame_times(volume, **options)

    def check(self) -> None:
        """Refuse what cannot work before minutes are spent on it."""
        import torch

        from gidlite.media import VideoWriter
        from gidlite.motion import SpectralVolume
        from gidlite.render import check_renderer

        VideoWriter(self.output, fps=self.fps or 30, quality=self.quality)
        if self.xt is not None:
            check_output(self.xt)
        self.times(SpectralVolume(torch.zeros(1, 2, 1, 1, dtype=torch.complex64)))
        if not (math.isfinite(self.amplify) and 0 <= self.amplify <= 5):
            raise GidliteError(f"--amplify is {self.amplify}; it must lie between 0 and 5")
        check_renderer(self.renderer)


def _read_photo(path: Path, max_width: int) -> Tensor:
    from gidlite.media import fit_size, read_image, resize

    if max_width < 16:
        raise GidliteError(f"--width is {max_width}; ask for at least 16 pixels")
    image = read_image(path)
    height, width = fit_size(*image.shape[-2:], max_width=max_width)
    return resize(image, height=height, width=width)


def _predict(
    image: Tensor, *, seed: int, steps: int, guidance: float, model: Path | None
) -> SpectralVolume:
    import torch

    from gidlite.pipeline import GidPipeline

    cli.quiet_diffusers()
    if seed < 0:
        raise GidliteError(f"--seed is {seed}; it must be 0 or a positive number")
    pipeline = GidPipeline.from_pretrained(model)
    with cli.progress_bar("Imagining motion") as progress:
        return pipeline(
            image, num_inference_steps=steps, guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed), progress=progress,
        ).volume  # fmt: skip


def _write(image: Tensor, volume: SpectralVolume, video: _Video) -> None:
    """Close the loop, stream the frames to the video, and collect the row that moves most."""
    import torch

    from gidlite.media import VideoWriter, write_image
    from gidlite.render import close_for, render_frames
    from gidlite.viz import liveliest_row

    times, fps = video.times(volume), video.fps or volume.fps
    if video.loop:
        speed = float(times[1] - times[0]) * fps / volume.fps
        if not math.isclose(speed, 1 / video.slow, rel_tol=0.01):
            cli.say(f"To loop seamlessly the motion plays at {speed:.2f}x.")
        volume = close_for(volume, times)
    _warn(volume, video.amplify)
    row, lines = liveliest_row(volume.spectral, height=image.shape[-2]), []
    with (
        VideoWriter(video.output, fps=fps, quality=video.quality) as writer,
        cli.progress_bar("Rendering") as progress,
    ):
        frames = render_frames(
            image, volume, times, amplify=video.amplify, renderer=video.renderer
        )  # fmt: skip
        for done, frame in enumerate(frames, start=1):
            writer.write(frame)
            lines.append(frame[:, row])
            progress(done, len(times))
    cli.say(f"{video.output}  {image.shape[-1]}x{image.shape[-2]}, {len(times)} frames")
    if video.xt is not None:
        write_image(video.xt, torch.stack(lines, dim=1))
        cli.say(f"{video.xt}  row {row} over time, downwards")


def _warn(volume: SpectralVolume, amplify: float) -> None:
    """Say so if the motion is so far that shapes stretch, or so slight that it is missed."""
    from gidlite.render import farthest_motion

    farthest = amplify * farthest_motion(volume)
    if farthest > _FAR:
        cli.say(
            f"Something moves by {farthest:.0f} px of 256: shapes will stretch, and what they "
            "uncover is guessed. A smaller --amplify looks better."
        )
    elif 0 < farthest < _SLIGHT:
        cli.say(f"The motion is slight, {farthest:.1f} px of 256: --amplify shows it better.")


@app.command()
@cli.reads("photo")
def animate(
    photo: cli.Photo,
    output: cli.Output = None,
    seconds: cli.Seconds = None,
    fps: cli.Fps = None,
    width: cli.Width = 768,
    loop: cli.Loop = True,
    amplify: cli.Amplify = 1.0,
    slow: cli.Slow = 1.0,
    quality: cli.Quality = 0.8,
    seed: cli.Seed = 0,
    steps: cli.Steps = 12,
    guidance: cli.Guidance = 0.0,
    renderer: cli.Renderer = "softmax",
    xt: cli.SlicePath = None,
    model: cli.Model = None,
) -> None:
    """Animate a photo: `gidlite animate rose.jpg` writes rose_loop.mp4 and rose_xt.png."""
    started = time.monotonic()
    image = _read_photo(photo, width)
    output = output or photo.with_name(f"{photo.stem}_{'loop' if loop else 'video'}.mp4")
    xt = xt or output.with_name(f"{photo.stem}_xt.png")
    video = _Video(output, xt, seconds, fps, loop, slow, amplify, quality, renderer)
    video.check()
    _write(image, _predict(image, seed=seed, steps=steps, guidance=guidance, model=model), video)
    cli.say(f"Done in {time.monotonic() - started:.0f} s.")


@app.command()
@cli.reads("photo")
def predict(
    photo: cli.Photo,
    output: cli.Output = None,
    seed: cli.Seed = 0,
    steps: cli.Steps = 12,
    guidance: cli.Guidance = 0.0,
    model: cli.Model = None,
) -> None:
    """Photo to spectral volume: `gidlite predict rose.jpg -o rose.safetensors`."""
    from gidlite.motion import save_volume

    image = _read_photo(photo, 768)
    output = output or photo.with_suffix(".safetensors")
    check_output(output)
    volume = _predict(image, seed=seed, steps=steps, guidance=guidance, model=model)
    save_volume(output, volume)
    bins, _, height, width = volume.spectral.shape
    cli.say(f"{output}  {bins} frequencies at {width}x{height}")


@app.command()
@cli.reads("photo", "volume_file")
def render(
    photo: cli.Photo,
    volume_file: Annotated[Path, typer.Argument(metavar="VOLUME", help="From gidlite predict.")],
    output: cli.Output = None,
    seconds: cli.Seconds = None,
    fps: cli.Fps = None,
    width: cli.Width = 768,
    loop: cli.Loop = True,
    amplify: cli.Amplify = 1.0,
    slow: cli.Slow = 1.0,
    quality: cli.Quality = 0.8,
    renderer: cli.Renderer = "softmax",
    xt: cli.SlicePath = None,
) -> None:
    """Photo and volume to video: `gidlite render rose.jpg rose.safetensors -o rose.mp4`."""
    from gidlite.motion import load_volume

    image, volume = _read_photo(photo, width), load_volume(volume_file)
    output = output or photo.with_name(f"{photo.stem}_loop.mp4")
    video = _Video(output, xt, seconds, fps, loop, slow, amplify, quality, renderer)
    video.check()
    _write(image, volume, video)


@app.command()
@cli.reads("video")
def reanimate(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A real clip, camera still.")],
    output: cli.Output = None,
    num_frequencies: Annotated[int, typer.Option(help="Bins kept, K.")] = 16,
    width: Annotated[int, typer.Option(help="Working width in pixels.")] = 256,
    renderer: cli.Renderer = "softmax",
    xt: cli.SlicePath = None,
) -> None:
    """Re-render a real video from its first frame and K frequencies of its own motion."""
    from gidlite.media import write_image, write_video
    from gidlite.render import reanimate as run
    from gidlite.viz import compare_slices, liveliest_row

    output = output or video.with_name(f"{video.stem}_reanimated.mp4")
    xt = xt or output.with_name(f"{output.stem}_xt.png")
    _Video(output, xt, renderer=renderer).check()
    with cli.progress_bar("Following pixels") as progress:
        result = run(
            video, num_frequencies=num_frequencies, width=width, renderer=renderer,
            progress=progress,
        )  # fmt: skip
    write_video(output, result.rendered, fps=result.fps)
    row = liveliest_row(result.spectral, height=result.real.shape[-2])
    write_image(xt, compare_slices(result.real, result.rendered, row=row))
    cli.say(f"{output}  {len(result.rendered)} frames")
    cli.say(f"{xt}  row {row}: real above, re-rendered below")
    cli.say(
        f"against the real frames: {result.psnr:.1f} dB PSNR, {result.ssim:.3f} SSIM "
        f"(holding the first frame: {result.still_psnr:.1f} dB, {result.still_ssim:.3f})"
    )


@app.command()
@cli.reads("source", "photo")
def poke(
    source: Annotated[
        Path, typer.Argument(metavar="PHOTO|VOLUME", help="A photo, or a volume and --photo.")
    ],
    output: cli.Output = None,
    photo: Annotated[Path | None, typer.Option(help="The photo of a volume.")] = None,
    modes: Annotated[int, typer.Option(help="At most so many modes, the liveliest.")] = 16,
    damping: Annotated[float, typer.Option(help="Damping ratio, 0.005 to 0.5.")] = 0.05,
    width: Annotated[int, typer.Option(help="Largest width of the photo in pixels.")] = 512,
    alt: Annotated[
        str | None, typer.Option(help="Describes the photo to those not seeing.")
    ] = None,
    seed: cli.Seed = 0,
    steps: cli.Steps = 12,
    guidance: cli.Guidance = 0.0,
    model: cli.Model = None,
) -> None:
    """One page to touch: `gidlite poke rose.jpg` writes rose_poke.html; drag it, let go.

    From a volume: `gidlite poke rose.safetensors --photo rose.jpg -o rose.html`.
    """
    import torch

    from gidlite.dynamics import make_scene, write_page
    from gidlite.motion import SpectralVolume, load_volume

    volume = load_volume(source) if source.suffix.lower() == ".safetensors" else None
    if (volume is None) != (photo is None):
        raise GidliteError(
            f"{source} holds motion without a picture; add --photo PHOTO" if photo is None
            else f"--photo goes with a volume, and {source} is none; leave it out"
        )  # fmt: skip
    photo = photo or source
    image = _read_photo(photo, max(width, 768))
    output = output or photo.with_name(f"{photo.stem}_poke.html")
    check_output(output)
    name = photo.stem.replace("_", " ").replace("-", " ").strip()
    options = {"modes": modes, "damping": damping, "width": width, "alt": alt or f"Photo: {name}."}
    if volume is None:
        # Impossible options are refused before minutes are spent on the motion.
        probe = SpectralVolume(torch.ones(16, 2, 4, 4, dtype=torch.complex64))
        make_scene(image, probe, **options)
        volume = _predict(image, seed=seed, steps=steps, guidance=guidance, model=model)
    scene = make_scene(image, volume, **options)
    write_page(output, scene, title=name or "Touch it")
    size = output.stat().st_size / 1e6
    cli.say(f"{output}  {len(scene.header['frequencies'])} modes, {size:.1f} MB")


@app.command()
def demo(output: cli.Output = Path("outputs/demo")) -> None:
    """Animate the flower photo that scikit-learn ships."""
    from gidlite.media import sample_photo

    volume = output / "flower.safetensors"
    predict(photo=sample_photo(), output=volume)
    for name, width, fps in (
        ("flower_loop.mp4", 640, 30.0), ("flower.gif", 320, 15.0), ("flower.webp", 480, 15.0)
    ):  # fmt: skip
        render(
            photo=sample_photo(), volume_file=volume, output=output / name, width=width, fps=fps,
            xt=output / "flower_xt.png" if name.endswith("mp4") else None,
        )  # fmt: skip
