"""Commands that turn photos and volumes into motion, videos and pages."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from gidlite import cli
from gidlite.errors import check_output, protected, require, same_file

if TYPE_CHECKING:
    from torch import Tensor

    from gidlite.motion import SpectralVolume

app = Typer()
export = Typer(help="Take the trained parts elsewhere.")

_SLIGHT = 1.0  # px at 256 wide; a smaller swing of the liveliest pixels is easily missed


@dataclass(frozen=True)
class Video:
    """Options of commands that make a video of a photo."""

    seconds: Annotated[float | None, Option(help="Length; one period (5 s) if not given.")] = None
    fps: Annotated[float | None, Option(help="Frames per second.")] = None
    width: Annotated[int, Option(help="Largest width of the video in pixels.")] = 768
    loop: Annotated[bool, Option("--loop/--no-loop", help="End where it begins.")] = True
    amplify: Annotated[float, Option(help="Factor on the motion, 0 to 5.")] = 1.0
    slow: Annotated[float, Option(help="2 plays at half speed.")] = 1.0
    quality: Annotated[float, Option(help="Of MP4 and WebP, 0 to 1.")] = 0.8
    renderer: cli.Renderer = "softmax"
    xt: cli.SlicePath = None

    def times(self, volume: SpectralVolume) -> Tensor:
        """Return the volume times of its frames."""
        from gidlite.render import frame_times

        options = {"seconds": self.seconds, "fps": self.fps, "slow": self.slow, "loop": self.loop}
        return frame_times(volume, **options)

    def check(self, output: Path, volume: SpectralVolume | None = None) -> None:
        """Refuse what cannot work before minutes are spent on it."""
        import torch

        from gidlite.media import IMAGE_SUFFIXES, VideoWriter
        from gidlite.motion import SpectralVolume
        from gidlite.render import check_renderer

        named = output.name not in ("", "..")  # as of a shell's variable that is not set
        require(named, f"--output is {output}, where frames would be mixed with files; name it")
        VideoWriter(output, fps=self.fps or 30, quality=self.quality)
        if self.xt is not None:
            known = self.xt.suffix.lower() in IMAGE_SUFFIXES
            require(known, f"--xt is {self.xt}; use one of {', '.join(IMAGE_SUFFIXES)}")
            check_output(self.xt)
            apart = not same_file(self.xt, output)
            require(apart, f"--xt and --output are both {output}; give the slice another name")
        self.times(volume or SpectralVolume(torch.zeros(1, 2, 1, 1, dtype=torch.complex64)))
        valid = 0 <= self.amplify <= 5
        require(valid, f"--amplify is {self.amplify}; it must lie between 0 and 5")
        check_renderer(self.renderer)


def _read_photo(path: Path, max_width: int) -> Tensor:
    from gidlite.media import fit_size, read_image, resize

    require(max_width >= 16, f"--width is {max_width}; ask for at least 16 pixels")
    image = read_image(path)
    height, width = fit_size(*image.shape[-2:], max_width=max_width)
    return resize(image, height=height, width=width)


def _beside(photo: Path, ending: str) -> Path:
    from PIL import Image

    return cli.beside(photo, ending, {*Image.registered_extensions(), ".heic", ".heif"})


def _check_suffix(output: Path, *known: str) -> None:
    named = output.suffix.lower() in known
    require(named, f"--output is {output}; let its name end in {' or '.join(known)}")
    check_output(output)


def _predict(image: Tensor, prior: cli.PhotoOptions, photo: Path) -> SpectralVolume:
    import torch

    wind, pipeline = prior.strength(), prior.pipeline
    from gidlite.pipeline import Sampling, drawn_wind  # late, for loading spares imports

    if pipeline.representation == "grid" and prior.wind is None:
        wind = None  # a grid knows none
    sampling = Sampling(wind=wind, gain=prior.gain(pipeline, photo, image))
    generator = torch.Generator().manual_seed(prior.seed)
    with cli.progress_bar("Imagining motion") as progress:
        volume = pipeline(
            image, num_inference_steps=prior.steps, guidance_scale=prior.guidance,
            generator=generator, progress=progress, sampling=sampling,
        ).volume  # fmt: skip
    if wind is None and pipeline.representation == "modes":
        cli.say(f"Wind {drawn_wind(prior.seed):.2f} of 1, drawn with the seed.")
    return volume


def _write(image: Tensor, volume: SpectralVolume, output: Path, video: Video) -> float:
    """Close the loop, write video and slice, and return the farthest motion in px of 256."""
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
    farthest = _warn(volume, video.amplify)
    row, lines = liveliest_row(volume.spectral, height=image.shape[-2]), []
    options = {"amplify": video.amplify, "renderer": video.renderer}
    looped = len(times) if video.loop else 0
    with (
        VideoWriter(output, fps=fps, quality=video.quality, loop=looped) as writer,
        cli.progress_bar("Rendering") as progress,
    ):
        for frame in render_frames(image, volume, times, **options):
            writer.write(frame)
            lines.append(frame[:, row].clone())  # of a view, the whole frame would be kept
            progress(len(lines), len(times))
    cli.say(f"{output}  {image.shape[-1]}x{image.shape[-2]}, {writer.frames_held} frames")
    if video.xt is not None:
        write_image(video.xt, torch.stack(lines, dim=1))
        cli.say(f"{video.xt}  row {row} over time, downwards")
    return farthest


def _warn(volume: SpectralVolume, amplify: float) -> float:
    """Return the farthest motion, px of 256, and say so if shapes stretch or it is missed."""
    from gidlite.pipeline import FARTHEST
    from gidlite.render import farthest_motion

    farthest = amplify * farthest_motion(volume)
    if farthest > 1.05 * FARTHEST:  # a volume that is held at it, and its loop closed, may pass it
        cli.say(
            f"Something moves by {farthest:.0f} px of 256: beyond {FARTHEST:.0f}, shapes stretch, "
            "and what they uncover is guessed. A smaller --amplify looks better."
        )
    elif amplify == 1 and farthest > 0.99 * FARTHEST:
        cli.say(f"The motion is held at {FARTHEST:.0f} px of 256, as far as pixels go unharmed.")
    elif 0 < farthest < _SLIGHT:
        cli.say(f"The motion is slight, {farthest:.1f} px of 256: --amplify shows it better.")
    return farthest


@dataclass(frozen=True)
class Animator:
    """Animates one photo after another as the options say."""

    video: Video
    prior: cli.PhotoOptions

    def name(self, photo: Path) -> str:
        """Return what the video of a photo is called if nothing else is asked for."""
        return _beside(photo, f"_{'loop' if self.video.loop else 'video'}.mp4").name

    def __call__(self, photo: Path, output: Path) -> float:
        """Write a video and return the farthest motion in px of 256."""
        image = _read_photo(photo, self.video.width)
        self.video.check(output)
        return _write(image, _predict(image, self.prior, photo), output, self.video)


@cli.command(app, reads=("mask", "model"))
def animate(
    photo: Annotated[
        Path, Argument(metavar="PHOTO|FOLDER", help="JPEG, PNG or WebP of any size, or many.")
    ],
    *,
    output: cli.Output = None,
    workers: Annotated[int | None, Option(help="Processes for a folder; one a core.")] = None,
    video: Video,
    prior: cli.PhotoOptions,
) -> None:
    """Animate a photo: `gidlite animate rose.jpg` writes rose_loop.mp4.

    Or all photos of a folder: `gidlite animate holiday` writes holiday_loops with report.json, and
    called again goes on with what is new, was changed or failed.
    """
    started, animator = time.monotonic(), Animator(video, prior)
    if os.path.isdir(photo):
        from gidlite.cli.folder import animate_folder

        animate_folder(photo, output, animator, workers)
    else:
        require(workers is None, f"--workers is for a folder, and {photo} is none; leave it out")
        with protected(photo):
            animator(photo, output or photo.with_name(animator.name(photo)))
    cli.say(f"Done in {time.monotonic() - started:.0f} s.")


@cli.command(app, reads=("photo", "mask", "model"))
def predict(photo: cli.Photo, *, output: cli.Output = None, prior: cli.PhotoOptions) -> None:
    """Photo to spectral volume: `gidlite predict rose.jpg -o rose.safetensors`."""
    from gidlite.motion import save_volume

    image = _read_photo(photo, 768)
    output = output or _beside(photo, ".safetensors")
    _check_suffix(output, ".safetensors")
    volume = _predict(image, prior, photo)
    save_volume(output, volume)
    bins, _, height, width = volume.spectral.shape
    cli.say(f"{output}  {bins} frequencies at {width}x{height}")


@cli.command(app, reads=("photo", "volume_file"))
def render(
    photo: cli.Photo,
    volume_file: Annotated[Path, Argument(metavar="VOLUME", help="From gidlite predict.")],
    *,
    output: cli.Output = None,
    video: Video,
) -> None:
    """Photo and volume to video: `gidlite render rose.jpg rose.safetensors -o rose.mp4`."""
    from gidlite.motion import load_volume

    image, volume = _read_photo(photo, video.width), load_volume(volume_file)
    output = output or _beside(photo, "_loop.mp4")
    video.check(output, volume)
    _write(image, volume, output, video)


@cli.command(app, reads=("video",))
def reanimate(
    video: Annotated[Path, Argument(metavar="VIDEO", help="A real clip, camera still.")],
    output: cli.Output = None,
    num_frequencies: cli.Bins = 16,
    width: Annotated[int, Option(help="Working width in pixels.")] = 256,
    renderer: cli.Renderer = "softmax",
    xt: cli.SlicePath = None,
) -> None:
    """Re-render a real video from its first frame and K frequencies of its own motion."""
    from gidlite.media import write_image, write_video
    from gidlite.media.video import VIDEO_SUFFIXES
    from gidlite.render import reanimate as run
    from gidlite.viz import compare_slices, liveliest_row

    output = output or cli.beside(video, "_reanimated.mp4", VIDEO_SUFFIXES)
    Video(renderer=renderer, xt=xt).check(output)
    options = {"num_frequencies": num_frequencies, "width": width, "renderer": renderer}
    with cli.progress_bar("Following pixels") as progress:
        result = run(video, progress=progress, **options)
    write_video(output, result.rendered, fps=result.fps)
    cli.say(f"{output}  {len(result.rendered)} frames")
    if xt is not None:
        row = liveliest_row(result.spectral, height=result.real.shape[-2])
        write_image(xt, compare_slices(result.real, result.rendered, row=row))
        cli.say(f"{xt}  row {row}: real above, re-rendered below")
    cli.say(
        f"against the real frames: {result.psnr:.1f} dB PSNR, {result.ssim:.3f} SSIM "
        f"(holding the first frame: {result.still_psnr:.1f} dB, {result.still_ssim:.3f})"
    )


@cli.command(app, reads=("source", "photo", "mask", "model"))
def poke(
    source: Annotated[
        Path, Argument(metavar="PHOTO|VOLUME", help="A photo, or a volume and --photo.")
    ],
    *,
    output: cli.Output = None,
    photo: Annotated[Path | None, Option(help="The photo of a volume.")] = None,
    modes: Annotated[int, Option(help="At most so many modes, the liveliest.")] = 24,
    damping: Annotated[float, Option(help="Damping ratio, 0.005 to 0.5.")] = 0.05,
    width: Annotated[int, Option(help="Largest width of the photo in pixels.")] = 512,
    alt: Annotated[str | None, Option(help="Describes the photo to those not seeing.")] = None,
    prior: cli.PhotoOptions,
) -> None:
    """One page to touch: `gidlite poke rose.jpg` writes rose_poke.html; drag it, let go.

    Nothing is sampled where the pipeline knows the photo's own modes. From a volume: `gidlite poke
    rose.safetensors --photo rose.jpg -o rose.html`.
    """
    import torch

    from gidlite.dynamics import make_scene, write_page
    from gidlite.motion import SpectralVolume, load_volume

    volume = load_volume(source) if source.suffix.lower() == ".safetensors" else None
    if volume is None:
        require(photo is None, f"--photo goes with a volume, and {source} is none; leave it out")
    else:
        require(photo is not None, f"{source} holds motion without a picture; add --photo PHOTO")
    photo = photo or source
    image = _read_photo(photo, max(width, 768))
    output = output or _beside(photo, "_poke.html")
    _check_suffix(output, ".html", ".htm")
    name = photo.stem.replace("_", " ").replace("-", " ").strip()
    options = {"modes": modes, "damping": damping, "width": width, "alt": alt or f"Photo: {name}."}
    if volume is None:
        # Impossible options are refused before minutes are spent on the motion.
        probe = image[0, ::8, ::8].expand(16, 2, -1, -1).to(torch.complex64)
        make_scene(image, SpectralVolume(probe), **options)
        prior.strength()  # refused here, too, although a hand needs no wind
        pipeline = prior.pipeline
        if pipeline.representation == "modes":
            volume = pipeline.basis(image, gain=prior.gain(pipeline, photo, image))
        else:
            volume = _predict(image, prior, photo)
    scene = make_scene(image, volume, **options)
    write_page(output, scene, title=name or "Touch it")
    size = output.stat().st_size / 1e6
    cli.say(f"{output}  {len(scene.header['frequencies'])} modes, {size:.1f} MB")


@cli.command(export, "web", reads=("model",))
def export_web(
    *,
    output: cli.Output = Path("outputs/web"),
    model: Annotated[Path | None, Option(help="Folder of a trained pipeline.")] = None,
) -> None:
    """The prior as ONNX graphs for a web page: `gidlite export web -o graphs`."""
    check_output(output, folder=True)
    from gidlite.web import export_web as write

    cli.say(f"{output}  {write(cli.load_pipeline(model), output) / 1e6:.1f} MB")


@cli.command(app)
def demo(output: cli.Output = Path("outputs/demo")) -> None:
    """Animate the flower photo that scikit-learn ships, in gusty wind."""
    from gidlite.media import sample_photo

    photo, volume = sample_photo(), output / "flower.safetensors"
    predict(photo=photo, output=volume, wind="gusty")
    for name, width, fps, xt in (
        ("flower_loop.mp4", 640, 30.0, output / "flower_xt.png"),
        ("flower.gif", 320, 15.0, None),
        ("flower.webp", 480, 15.0, None),
    ):
        video = {"output": output / name, "width": width, "fps": fps, "xt": xt}
        render(photo=photo, volume_file=volume, **video)
