"""Pictures: X-t slices, maps of amount, sign, phase and flow, contact sheets."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Complex, Float, UInt8
from torch import Tensor
from torch.nn import functional

from gidlite.errors import ShapeError, check_shape
from gidlite.media import xt_slice
from gidlite.motion.spectral import motion_amplitude

# Underscored axes may differ between the arguments of one function.
Frames = UInt8[Tensor, "_time 3 _height _width"]
_LINE = torch.tensor([255, 64, 32], dtype=torch.uint8)[:, None]
AMOUNT, SIGNED, PHASE = "magma", "RdBu_r", "hsv"  # the colour maps of every figure


def style() -> None:
    """Give matplotlib the look of the course, in a notebook and outside one.

    Colours that everyone can tell apart (Okabe and Ito 2008), 110 dots per inch on white, titles
    that do not touch. A notebook stores its figures as JPEG: photos as PNG would be too large.
    """
    from cycler import cycler
    from IPython import get_ipython
    from matplotlib import pyplot

    colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"]
    pyplot.rcParams.update({
        "axes.prop_cycle": cycler(color=colours), "axes.spines.right": False,
        "axes.spines.top": False, "axes.titlesize": 10, "axes.labelsize": 9, "font.size": 9,
        "legend.fontsize": 8, "legend.frameon": False, "figure.dpi": 110,
        "figure.facecolor": "white", "figure.constrained_layout.use": True,
        "image.cmap": AMOUNT, "image.interpolation": "nearest",
    })  # fmt: skip
    if get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 82, "optimize": True})


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
    axis.imshow((image.movedim(0, -1) * 0.4).numpy())
    amplitude = amplitude_map(spectral, height=image.shape[-2], width=image.shape[-1])
    drawn = axis.imshow(amplitude.numpy(), cmap=AMOUNT, alpha=0.7, vmin=0)
    axis.figure.colorbar(drawn, ax=axis, label="RMS motion (px at 256 wide)", shrink=0.7)
    axis.set_axis_off()
    return axis


def show_picture(axis, picture: Tensor, title: str = ""):
    """Draw a picture ``(3, H, W)`` or, in gray, ``(H, W)`` in [0, 1] on an axis and return it."""
    colour = picture.movedim(0, -1) if picture.ndim == 3 else picture
    axis.imshow(colour.float().clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title), axis.set_axis_off()
    return axis


def show_map(
    axis, values: Tensor, title: str = "", *, top: float | None = None, label: str | None = None
):
    """Draw amounts ``(H, W)``, from 0 to ``top``, on an axis and return it.

    ``label`` adds a bar of colours that is named so, with the unit.
    """
    drawn = axis.imshow(values.detach().numpy(), cmap=AMOUNT, vmin=0, vmax=top)
    if label:
        axis.figure.colorbar(drawn, ax=axis, label=label, shrink=0.8)
    axis.set_title(title), axis.set_axis_off()
    return axis


def show_signed(axis, values: Tensor, title: str = "", *, top: float | None = None):
    """Draw signed values ``(H, W)`` on an axis and return it: red above 0, blue below, white 0."""
    top = values.abs().max().item() if top is None else top
    axis.imshow(values.detach().numpy(), cmap=SIGNED, vmin=-top, vmax=top)
    axis.set_title(title), axis.set_axis_off()
    return axis


def show_phase(axis, values: Tensor, title: str = "", *, top: float | None = None):
    """Draw complex values ``(H, W)`` on an axis and return it.

    Hue is phase; brightness is the root of magnitude, full at ``top``.
    """
    top = values.abs().max().item() if top is None else top
    bright = (values.abs() / max(top, 1e-12)).clamp(0, 1).sqrt()
    axis.imshow(_hue(values.angle()) * bright[..., None].numpy())
    axis.set_title(title), axis.set_axis_off()
    return axis


def _hue(angle: Float[Tensor, "rows columns"]):
    from matplotlib import pyplot

    return pyplot.get_cmap(PHASE)(((angle / (2 * torch.pi)) % 1).numpy())[..., :3]


def _directions(motion: Float[Tensor, "2 rows columns"], top: float):
    """Return colours: the hue of the direction, white where nothing moves."""
    amount = (motion.norm(dim=0) / max(top, 1e-12)).clamp(0, 1)[..., None].numpy()
    return 1 - amount * (1 - _hue(torch.atan2(motion[1], motion[0])))


def show_flow(
    axis, motion: Float[Tensor, "2 rows columns"], title: str = "", *, top: float | None = None
):
    """Draw displacements (px) on an axis and return it: colours by a wheel, and arrows.

    Hue is the direction, white stands still, full colour moves by ``top`` px (default: the 99th
    percentile). Arrows are enlarged so that ``top`` is as long as they are apart.
    """
    speed = motion.norm(dim=0)
    top = speed.flatten().quantile(0.99).item() if top is None else top
    axis.imshow(_directions(motion, top))
    every = max(1, round(speed.shape[1] / 16))
    y, x = (torch.arange(every // 2, size, every) for size in speed.shape)
    y, x = torch.meshgrid(y, x, indexing="ij")
    moves = speed[y, x] > 0.1 * top
    dx, dy = motion[:, y[moves], x[moves]] * every / max(top, 1e-12)
    axis.quiver(
        x[moves], y[moves], dx, dy, angles="xy", scale_units="xy", scale=1, width=0.004, alpha=0.7
    )
    wheel = axis.inset_axes((0.85, 0.02, 0.13, 0.13 * speed.shape[1] / speed.shape[0]))
    disc = torch.stack(torch.meshgrid(*2 * [torch.linspace(-1, 1, 61)], indexing="xy"))
    inside = (disc.norm(dim=0) <= 1)[..., None].numpy()
    wheel.imshow(_directions(disc, 1.0) * inside + 0.85 * ~inside)
    wheel.set_title(f"{top:.1f} px", fontsize=7, pad=1)
    for each in (axis, wheel):
        each.set_axis_off()
    axis.set_title(title)
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
