"""Pictures: X-t slices, amplitude maps, contact sheets."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Complex, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gidlite.errors import GidliteError, ShapeError, check_shape
from gidlite.media import to_bytes, xt_slice
from gidlite.motion.spectral import motion_amplitude

# Underscored axes may differ between the arguments of one function.
Frames = UInt8[Tensor, "_time 3 _height _width"]
_LINE = torch.tensor([255, 64, 32], dtype=torch.uint8)[:, None]


def liveliest_row(spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int) -> int:
    """Return the row, in a picture of the given height, with the most horizontal motion."""
    power = spectral[1:, 0].abs().square().sum(dim=(0, 2))
    margin = len(power) // 10  # flow and splatting are least certain along the border
    power = power[margin : len(power) - margin]
    return int((power.argmax() + margin + 0.5) * height / (len(power) + 2 * margin))


def liveliest_line(frames: Frames, *, columns: bool = False) -> int:
    """Return the row, or column, whose pixels change most over time, without knowing the motion.

    Its mean at each time is taken off, so that flicker of the light does not count, and a tenth of
    the picture along either border is left out.
    """
    check_shape("frames", frames, "time 3 height width")
    gray = frames.float().mean(1)
    lines = gray.transpose(1, 2) if columns else gray
    change = (lines - lines.mean(-1, keepdim=True)).var(dim=0, correction=0).sum(-1)
    margin = len(change) // 10
    return int(change[margin : len(change) - margin].argmax()) + margin


def liveliest_slice(frames: Frames) -> dict[str, int]:
    """Return ``{"row": y}`` or ``{"column": x}``: where motion is seen best, to be passed on.

    Of the liveliest row and the liveliest column, see ``liveliest_line``, the one in whose slice
    things travel. Across the direction of motion they only come and go.
    """
    lines = {"row": liveliest_line(frames), "column": liveliest_line(frames, columns=True)}
    kind = max(lines, key=lambda kind: _travel(xt_slice(frames, **{kind: lines[kind]})))
    return {kind: lines[kind]}


def _travel(picture: UInt8[Tensor, "3 time length"]) -> float:
    """Return the share of the change in a slice that movement along it explains, in [0, 1].

    What moves by u a frame changes by ``p_t = -u p_x``: in every window, the share of p_t² that is
    gone with the best u.
    """
    gray = picture.float().mean(0)
    along = (gray[1:] + gray[:-1]).diff(dim=1) / 2  # both at the centres of 2 × 2 pixels
    over = (gray[:, 1:] + gray[:, :-1]).diff(dim=0) / 2
    products = torch.stack([along * over, along * along, over * over])
    both, steep, change = functional.avg_pool2d(products, 5, 1, 2)
    return ((both.square() / (steep + 1)).sum() / (change.sum() + 1)).item()


def compare_slices(*clips: Frames, **line: int) -> Float[Tensor, "3 rows width"]:
    """Return the X-t slices, at a ``row`` or ``column``, of videos of one size, one below another.

    White lines lie between.
    """
    _check_one_size(clips)
    slices = [xt_slice(frames, **line).float() / 255 for frames in clips]
    between = torch.ones_like(slices[0][:, :1]).expand(-1, 3, -1)
    return torch.cat([strip for piece in slices for strip in (between, piece)][1:], dim=1)


def _check_one_size(clips: Collection[Frames]) -> None:
    if len({clip.shape[1:] for clip in clips}) != 1:
        raise ShapeError(f"expected videos of one size, got {[tuple(c.shape) for c in clips]}")


def amplitude_map(
    spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int, width: int
) -> Float[Tensor, "height width"]:
    """Return RMS motion in px of a picture 256 wide, resampled to the given size."""
    rms = motion_amplitude(spectral) * (256 / spectral.shape[-1])
    return functional.interpolate(rms[None, None], (height, width), mode="bilinear")[0, 0]


def motion_tile(
    spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int, width: int
) -> Float[Tensor, "3 height width"]:
    """Return a picture of RMS motion: white is 4 px at 256 wide, brightness its square root."""
    motion = amplitude_map(spectral, height=height, width=width)
    return (motion / 4).clamp(0, 1).sqrt().expand(3, -1, -1)


def contact_sheet(
    pictures: list[Float[Tensor, "3 height width"]], *, columns: int = 4, gap: int = 4
) -> Float[Tensor, "3 rows columns"]:
    """Return equally sized pictures side by side on white, filled row by row."""
    blank = torch.ones_like(pictures[0])
    padded = pictures + [blank] * (-len(pictures) % columns)
    framed = [functional.pad(picture, (gap,) * 4, value=1.0) for picture in padded]
    rows = [torch.cat(framed[i : i + columns], dim=-1) for i in range(0, len(framed), columns)]
    return torch.cat(rows, dim=-2)


def show_xt_slice(axis, frames: Frames, *, fps: float, **line: int):
    """Draw a ``row`` or ``column`` over time on a matplotlib axis and return it; px and seconds."""
    picture = xt_slice(frames, **line).movedim(0, -1).numpy()
    extent = (0, picture.shape[1], len(frames) / fps, 0)
    axis.imshow(picture, aspect="auto", extent=extent, interpolation="nearest")
    [(kind, at)] = line.items()
    across, along = ("x", "y") if kind == "row" else ("y", "x")
    title = f"{across.upper()}-t slice at {along} = {at} px"
    axis.set(xlabel=f"{across} (px)", ylabel="time (s)", title=title)
    return axis


def show_amplitude(axis, image: Float[Tensor, "3 height width"], spectral):
    """Draw RMS motion over a darkened photo on a matplotlib axis and return it."""
    axis.imshow(image.movedim(0, -1) * 0.4)
    amplitude = amplitude_map(spectral, height=image.shape[-2], width=image.shape[-1])
    drawn = axis.imshow(amplitude, cmap="magma", alpha=0.7, vmin=0)
    axis.figure.colorbar(drawn, ax=axis, label="RMS motion (px at 256 wide)", shrink=0.7)
    axis.set_axis_off()
    return axis


def show_slices(clips: Mapping[str, Frames], *, fps: float, **line: int):
    """Draw the slices of videos of one size, by title, side by side; return the figure.

    They have one scale. With neither ``row`` nor ``column``, it is the ``liveliest_slice`` of the
    first video.
    """
    from matplotlib import pyplot

    _check_one_size(clips.values())
    line = line or liveliest_slice(next(iter(clips.values())))
    figure, axes = pyplot.subplots(
        1, len(clips), figsize=(3 * len(clips), 3.2), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (title, frames) in zip(axes[0], clips.items(), strict=True):
        show_xt_slice(axis, frames, fps=fps, **line).set_title(title, parse_math=False)
        axis.label_outer()
    axes[0, 0].set_ylim(max(map(len, clips.values())) / fps, 0)
    [(kind, at)] = line.items()
    figure.suptitle(f"{kind} {'y' if kind == 'row' else 'x'} = {at} px")
    return figure


def slice_view(
    clips: Mapping[str, Frames], *, time: int, row: int | None = None, column: int | None = None
) -> UInt8[Tensor, "3 rows columns"]:
    """Return frames above their slices, videos side by side, with the line and the time drawn in.

    Frame ``time`` is shown; of a shorter video, its last one. Of a column the slice is turned, to
    stand beside the frame, and the videos are one below the other.
    """
    if column is not None:  # the row of frames that lie on their side
        turned = {title: frames.mT for title, frames in clips.items()}
        return slice_view(turned, time=time, row=column).mT
    gap, tallest, tiles = 4, max(map(len, clips.values())), []
    for frames in clips.values():
        now = min(time, len(frames) - 1)
        picture, frame = xt_slice(frames, row=row).clone(), frames[now].clone()
        picture[:, now] = frame[:, row] = _LINE
        frame = functional.pad(frame, (0, 0, 0, gap), value=255)
        padding = (0, gap, 0, tallest - len(frames) + gap)
        tiles.append(functional.pad(torch.cat([frame, picture], 1), padding, value=255))
    return torch.cat(tiles, dim=2)


def explore_slices(clips: Mapping[str, Frames], *, fps: float):
    """Return a notebook widget: choose row or column and the frame; the ``slice_view`` follows.

    It starts at the ``liveliest_slice`` of the first video. The play button runs at ``fps``.
    """
    try:
        import ipywidgets
    except ImportError as error:
        raise GidliteError("explore_slices needs ipywidgets; pip install ipywidgets") from error
    _check_one_size(clips.values())
    first = next(iter(clips.values()))
    [(begin, position)] = liveliest_slice(first).items()
    length = {"row": first.shape[2], "column": first.shape[3]}
    kind = ipywidgets.ToggleButtons(options=["row", "column"], value=begin, description="follow a")
    line = ipywidgets.IntSlider(position, 0, length[begin] - 1, description="at (px)")
    time = ipywidgets.IntSlider(0, 0, max(map(len, clips.values())) - 1, description="frame")
    play = ipywidgets.Play(0, 0, time.max, interval=round(1000 / fps))
    ipywidgets.jslink((play, "value"), (time, "value"))
    picture = ipywidgets.Image(format="png")

    def draw(_=None) -> None:
        view = slice_view(clips, time=time.value, **{kind.value: line.value})
        stream = io.BytesIO()
        Image.fromarray(to_bytes(view)).save(stream, "PNG")
        picture.value = stream.getvalue()

    def turn(_) -> None:
        line.max = length[kind.value] - 1
        line.value = liveliest_line(first, columns=kind.value == "column")
        draw()

    kind.observe(turn, "value")
    for slider in (line, time):
        slider.observe(draw, "value")
    draw()
    titles = ipywidgets.Label(", ".join(clips))
    rows = [ipywidgets.HBox([kind, line]), ipywidgets.HBox([play, time]), titles, picture]
    return ipywidgets.VBox(rows)
