"""How things sway: mode shapes in the coordinates of a part, driven by stochastic wind.

A part has local coordinates (u, s): s runs from 0 at its anchor to 1 at its tip, u across. Its
displacement is a sum of ``NUM_MODES`` real mode shapes, each following a damped oscillator.
Source of the physics: a clamped beam under gusts, as in Davis et al. 2015; the rest is standard.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gidlite.data.world.pieces import ANCHORS, KINDS, Pieces, kind_table
from gidlite.media import resize

NUM_MODES = 6
# With gusts, the first of the six modes are hats over the picture, each delayed by the wind.
NUM_HATS = 4
_WAVE_A, _WAVE_B = (2, 3), (4, 5)


def mode_shapes(
    local: Float[Tensor, "batch 2 height width"],
    part: dict[str, Tensor],
    *,
    wind_position: Float[Tensor, "batch height width"],
    growth: Float[Tensor, "batch height width"] | None = None,
) -> Float[Tensor, "batch modes 2 height width"]:
    """Return the mode shapes of one part of every scene, in units of the picture's width.

    Modes 0 and 1 bend the part like a clamped beam (or swing it, or move it as a body); the rest
    are two pairs of waves. Under gusts, modes 0 to 3 are instead hats along the wind, whose
    coordinates are one trajectory at four delays: the front travels.

    Args:
        local: (u, s) of every pixel.
        part: Parameters of the part (see ``compose.draw_parts``), with two trailing axes that
            broadcast against the pixels: one part for all, or for every pixel its own.
        wind_position: Where the wind has got to, 0 to 1 across the picture.
        growth: Amplitude instead of the profile along s, for a view that moves where it will.
    """
    u, s = local.unbind(1)
    s = ((s - part["still"]) / (1 - part["still"])).clamp(0, 1.5)
    beam = 0.5 * s * s * (3 - s.clamp(max=1))
    profile = torch.lerp(torch.lerp(s, beam, part["beam"]), 0.75 + 0.25 * s, part["rigid"])
    flutter = s.clamp(max=1).sqrt() * (1 - part["rigid"])
    if growth is not None:
        profile = torch.where(part["is_view"] > 0, growth, profile)
        flutter = torch.where(part["is_view"] > 0, growth, flutter)
    waves = []
    for name in ("wave_a", "wave_b"):
        phase = part[name][:, 0] * u + part[name][:, 1] * s
        waves += [flutter * phase.cos(), flutter * phase.sin()]
    overtone = s * (s - 0.75) * 3 * (1 - part["rigid"])
    along = wind_position.clamp(0, 1) * (NUM_HATS - 1)
    hats = [profile * (1 - (along - j).abs()).clamp(min=0) for j in range(NUM_HATS)]
    bends = [profile, overtone, waves[0], waves[1]]
    gusty = part["gusty"] > 0
    shapes = [torch.where(gusty, hat, bend) for hat, bend in zip(hats, bends, strict=True)]
    return torch.stack([*shapes, *waves[2:]], dim=1)[:, :, None] * part["direction"]


def wind_driven(
    part: dict[str, Tensor],
    *,
    num_frames: int,
    fps: float,
    generator: torch.Generator | None,
) -> Float[Tensor, "*batch modes time"]:
    """Return modal coordinates over time: stationary, of unit variance, 0 at frame 0.

    White noise is shaped in the frequency domain by the wind (falling above 0.1 Hz, with a slow
    swell below 0.25 Hz as real clips have it) and by the oscillator's response. A window of a run
    four times as long is stationary and, like a real clip, not periodic. Waves that travel are a
    pair in quadrature; gusts are one trajectory delayed; a part let go by a gust (``let_go``)
    rings down instead.

    Args:
        part: ``natural_hz``, ``damping`` (..., M) and ``travels``, ``gusty``, ``gust_delay``,
            ``let_go`` (...).
        num_frames: T.
        fps: Frames per second.
        generator: Source of randomness.
    """
    natural, damping = part["natural_hz"][..., None], part["damping"][..., None]
    run = 4 * num_frames
    place = generator.device if generator is not None else natural.device
    white = torch.randn(*natural.shape[:-1], run, generator=generator, device=place)
    noise = torch.fft.rfft(white.to(natural.device))
    hz = torch.fft.rfftfreq(run, 1 / fps).to(natural.device)
    for first, second in (_WAVE_A, _WAVE_B):
        noise[..., second, :] = torch.where(
            part["travels"][..., None] > 0, -1j * noise[..., first, :], noise[..., second, :]
        )
    delay = part["gust_delay"][..., None, None] * torch.arange(NUM_HATS, device=hz.device)[:, None]
    gusts = noise[..., :1, :] * torch.exp(-2j * torch.pi * hz * delay)
    noise[..., :NUM_HATS, :] = torch.where(
        part["gusty"][..., None, None] > 0, gusts, noise[..., :NUM_HATS, :]
    )
    ratio = hz / natural
    response = torch.complex(1 - ratio**2, 2 * damping * ratio).reciprocal()
    swell = 1 + 0.9 / (1 + (hz / 0.25) ** 2)
    wind = swell / (1 + (hz / 0.1) ** 2) ** 0.2
    path = torch.fft.irfft(noise * response * wind, n=run)
    path = (path / path.std(dim=-1, keepdim=True))[..., num_frames : 2 * num_frames]
    seconds = torch.arange(num_frames, device=hz.device) / fps
    ringing = torch.exp(-2 * torch.pi * natural * damping * seconds) * torch.cos(
        2 * torch.pi * natural * seconds * (1 - damping**2).clamp(min=0.1).sqrt()
    )
    path = torch.where(part["let_go"][..., None, None] > 0, 1.5 * ringing, path)
    return path - path[..., :1]


# Typical amplitude of a stem as tall as the picture, in picture widths per unit coordinate.
_AMPLITUDE = 0.0031
_COPY_SPACING = 1.1
# Of the world; a picture of another shape shows it stretched.
_ASPECT = 1.6


class Draw:
    """Uniform numbers for a batch of scenes, on the device of the pieces."""

    def __init__(self, batch: int, device: torch.device, generator: torch.Generator | None) -> None:
        self.batch, self.device, self.generator = batch, device, generator
        self._place = generator.device if generator is not None else device

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Return ``(batch, *shape)`` numbers between low and high."""
        numbers = torch.rand(self.batch, *shape, generator=self.generator, device=self._place)
        return low + (high - low) * numbers.to(self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Return ``(batch, *shape)`` booleans."""
        return self(0, 1, *shape) < probability

    def log(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers whose logarithm is uniform."""
        return self(math.log(low), math.log(high), *shape).exp()

    def index(self, weight: Tensor, *shape: int) -> Tensor:
        """Return ``(batch, *shape)`` indices drawn in proportion to ``weight``."""
        levels = (weight.cumsum(0) / weight.sum()).to(self.device)
        return torch.searchsorted(levels, self(0, 1, *shape)).clamp(max=len(weight) - 1)


def draw_parts(draw: Draw, pieces: Pieces, layers: int) -> dict[str, Tensor]:
    """Draw every parameter of every layer, back to front; values are ``(batch, layers, ...)``."""
    depth = (torch.arange(layers, device=draw.device) + 1) / layers
    is_view = torch.zeros(draw.batch, layers, dtype=torch.bool, device=draw.device)
    if len(pieces.views):
        is_view[:, 0] = draw.chance(0.15)
    in_view = is_view[:, :1]
    rides, parent = _draw_family_tree(draw, layers)
    riders = pieces.weight * (pieces.anchor == ANCHORS.index("none")).float()
    riders = riders + 0.3 * pieces.weight * (pieces.anchor == ANCHORS.index("any")).float()
    if riders.sum() == 0:
        rides, riders = torch.zeros_like(rides), pieces.weight
    piece = torch.where(rides, draw.index(riders, layers), draw.index(pieces.weight, layers))
    part = {
        "piece": piece, "is_view": is_view, "rides": rides, "parent": parent,
        "view": (draw(0, 1, layers) * len(pieces.views)).long(),
        "present": draw.chance(0.65, layers) | (depth == 1) | is_view,
        "flip": torch.where(draw.chance(0.5, layers), -1.0, 1.0),
        "still": pieces.still[piece],
    }  # fmt: skip
    part["present"] &= ~in_view | is_view | draw.chance(0.25, layers)
    part |= _draw_place(draw, pieces, part, depth)
    part |= _draw_sway(draw, pieces, part)
    part |= _draw_look(draw, part, depth, pieces)
    _attach(draw, part)
    return part


def _draw_family_tree(draw: Draw, layers: int) -> tuple[Tensor, Tensor]:
    """Return which layers ride, and each layer's nearest layer behind it that does not ride."""
    rides = draw.chance(0.3, layers)
    rides[:, 0] = False
    number = torch.arange(layers, device=draw.device).expand(draw.batch, -1)
    parent = torch.where(rides, 0, number).cummax(dim=1).values
    return rides, parent


def _draw_place(draw: Draw, pieces: Pieces, part, depth: Tensor) -> dict[str, Tensor]:
    """Draw size, root and direction; sizes and places are in picture heights, x from the left."""
    layers = len(depth)
    anchor = pieces.anchor[part["piece"]]
    # A branch may enter from any border, or stand.
    any_side = draw.index(torch.tensor([0.3, 0.4, 0.3]), layers)
    anchor = torch.where(anchor == ANCHORS.index("any"), any_side, anchor)
    loose = anchor == ANCHORS.index("none")
    bottom, top, side = (anchor == ANCHORS.index(n) for n in ("bottom", "top", "side"))
    row = bottom & draw.chance(0.28, layers)
    zoom = draw.log(0.6, 1.8, 1)  # from wide shots to close-ups
    size = torch.where(row, draw.log(0.2, 0.7, layers), draw.log(0.3, 1.0, layers))
    size = (size * zoom * (0.7 + 0.7 * depth) * torch.where(loose, 1.2, 1.0)).clamp(0.12, 2.2)
    left = draw.chance(0.5, layers)
    x = torch.where(side, torch.where(left, -0.03, 1.03), draw(0.03, 0.97, layers))
    y = torch.where(bottom, draw(0.72, 1.25, layers), draw(0.65, 1.2, layers))
    y = torch.where(top, draw(-0.25, 0.1, layers), torch.where(side, draw(0.05, 0.9, layers), y))
    turn = torch.where(side, torch.where(left, 0.5, -0.5), torch.where(top, 1.0, 0.0)) * math.pi
    tilt = draw(-0.2, 0.2, layers) * torch.where(loose, 6.0, 1.0)
    is_view = part["is_view"]
    fixed = {"size": (size, 1.0), "root_x": (x, 0.5), "root_y": (y, 1.0), "angle": (turn + tilt, 0)}
    place = {name: torch.where(is_view, value, v) for name, (v, value) in fixed.items()}
    copies = torch.where(row & ~is_view, draw(2, 8, layers).round(), torch.ones_like(size))
    return place | {"copies": copies, "still": torch.where(is_view, 0.0, part["still"])}


def _draw_sway(draw: Draw, pieces: Pieces, part) -> dict[str, Tensor]:
    """Draw natural frequencies, dampings, directions and amplitudes."""
    layers = part["size"].shape[1]
    kind = torch.where(part["is_view"], list(KINDS).index("view"), pieces.kind[part["piece"]])
    names = ("rigid", "beam", "slow", "fast", "least", "most", "sway", "flutter", "travels")
    of_kind = dict(zip(names, kind_table().to(draw.device)[kind].unbind(-1), strict=True))
    gusty = (part["copies"] > 1) | (part["is_view"] & draw.chance(0.7, layers))
    framed = draw.chance(0.05, layers) & (part["copies"] == 1) & ~part["is_view"] & ~part["rides"]
    wind, taste = draw.log(0.22, 4.5, 1), draw.log(0.55, 1.8, layers)
    amplitude = _AMPLITUDE * wind * taste * part["size"] ** 0.7 * ~framed
    sway, flutter = of_kind["sway"], of_kind["flutter"] * draw.log(0.5, 1.6, layers)
    share = torch.stack([sway, 0.25 * sway, flutter, flutter, 0.6 * flutter, 0.6 * flutter], dim=-1)
    hats = torch.arange(NUM_MODES, device=draw.device) < NUM_HATS
    share = torch.where(gusty[..., None] & hats, sway[..., None], share)
    spread = torch.tensor([0, 0, 0.4, 0.4, 1.2, 1.2], device=draw.device)
    angle = part["angle"][..., None] + draw(-0.35, 0.35, layers, 1) + spread
    low, high = of_kind["slow"].log(), of_kind["fast"].log()
    natural = (
        torch.exp(low + (high - low) * draw(0, 1, layers)) / part["size"].clamp(min=0.3).sqrt()
    )
    factor = torch.tensor([1, 2.5, 1.6, 1.6, 2.6, 2.6], device=draw.device)
    factor = torch.where(gusty[..., None] & hats, 1.0, factor)
    least, most = of_kind["least"][..., None], of_kind["most"][..., None]
    damping = least + (most - least) * draw(0, 1, layers, NUM_MODES)
    damping[..., (3, 5)] = damping[..., (2, 4)]
    damping = torch.where(gusty[..., None] & hats, damping[..., :1], damping)
    return {
        "rigid": of_kind["rigid"], "beam": of_kind["beam"], "travels": of_kind["travels"],
        "glows": (kind == list(KINDS).index("flame")).float(), "framed": framed,
        "gusty": gusty.float(), "gust_delay": draw(0.05, 0.5, layers) * torch.where(
            draw.chance(0.5, layers), 1.0, -1.0),
        "let_go": (draw.chance(0.08, 1) & ~gusty).float(),
        "direction": torch.stack([angle.cos(), angle.sin()], dim=-1)
        * (amplitude[..., None] * share)[..., None],
        "natural_hz": (natural[..., None] * factor).clamp(max=7), "damping": damping,
        "wave_a": draw(-8, 8, layers, 2), "wave_b": draw(-14, 14, layers, 2),
    }  # fmt: skip


def _draw_look(draw: Draw, part, depth: Tensor, pieces: Pieces) -> dict[str, Tensor]:
    """Draw colour, focus and shadow."""
    layers = len(depth)
    aperture = torch.where(draw.chance(0.5, 1), draw(0, 1.5, 1), 0.0)
    blur = ((depth - draw(0.45, 1, 1)).abs() * aperture).clamp(max=1)
    glow = -torch.tensor([0.9, 0.5, 0.15], device=draw.device) * part["glows"][..., None]
    dark = (draw(0, 0.4, layers) * (1 - part["glows"]) * ~part["is_view"])[..., None]
    return {
        "gain": draw(0.62, 1.15, layers, 1) * draw(0.88, 1.12, layers, 3),
        "blur": blur, "shade": dark + glow, "shade_offset": draw(-0.04, 0.04, 1, 2).expand(
            -1, layers, -1) * (1 - part["glows"][..., None]),
        "card": draw(0.1, 0.95, layers, 3),
    }  # fmt: skip


def _attach(draw: Draw, part: dict[str, Tensor]) -> None:
    """Put every rider on its parent, and note how the parent's modes carry and turn it there."""
    layers = part["size"].shape[1]
    # Nothing rides on a view, on a row of copies, on a painting or on another rider.
    owner = {k: torch.gather(v, 1, _like(part["parent"], v)) for k, v in part.items()}
    able = owner["present"] & ~owner["is_view"] & (owner["copies"] == 1) & ~owner["framed"]
    rides = part["rides"] & able
    grip = torch.stack([draw(-0.15, 0.15, layers), draw(0.55, 0.9, layers)], dim=-1)
    u, s = grip.unbind(-1)
    sin, cos = owner["angle"].sin(), owner["angle"].cos()
    x = owner["root_x"] * _ASPECT + owner["size"] * (u * cos + s * sin)
    y = owner["root_y"] + owner["size"] * (u * sin - s * cos)
    smaller = (owner["size"] * draw(0.25, 0.5, layers)).clamp(0.08, 1)
    part["root_x"] = torch.where(rides, x / _ASPECT, part["root_x"])
    part["root_y"] = torch.where(rides, y, part["root_y"])
    part["copies"] = torch.where(rides, 1.0, part["copies"])
    scale = torch.where(rides, smaller / part["size"], 1.0)
    part["size"] = part["size"] * scale
    part["direction"] = part["direction"] * scale[..., None, None]
    flat = {k: v.flatten(0, 1)[..., None, None] for k, v in owner.items()}
    low, high = (
        mode_shapes(
            (grip + torch.tensor([0.0, step], device=draw.device)).flatten(0, 1)[:, :, None, None],
            flat, wind_position=torch.zeros(draw.batch * layers, 1, 1, device=draw.device),
        )[..., 0, 0].unflatten(0, (draw.batch, layers))
        for step in (-0.05, 0.05)
    )  # fmt: skip
    across = torch.stack([cos, sin], dim=-1)[:, :, None]
    carried = rides[..., None].float()
    part["carry"] = (low + high) / 2 * carried[..., None]
    # Widths per radian: the parent's displacement per picture height along it.
    part["turn"] = ((high - low) * across).sum(-1) / (0.1 * owner["size"][..., None]) * carried
    part["rides"] = rides


def _like(index: Tensor, values: Tensor) -> Tensor:
    return index.reshape(*index.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])


def local_coordinates(
    part: dict[str, Tensor], height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (u, s) of every pixel, the same folded for copies, and how far the wind has come.

    Returns:
        ``(B, 2, h, w)``, ``(B, 2, h, w)`` and ``(B, h, w)`` in 0 to 1 across the picture; for
        copies the last is that of the copy, so that each moves as one.
    """
    device = part["size"].device
    y = ((torch.arange(height, device=device) + 0.5) / height)[:, None]
    x = ((torch.arange(width, device=device) + 0.5) / width) * _ASPECT
    dx = (x - part["root_x"] * _ASPECT) / part["size"]
    dy = (y - part["root_y"]) / part["size"]
    sin, cos = part["angle"].sin(), part["angle"].cos()
    u, s = (dx * cos + dy * sin) * part["flip"], dx * sin - dy * cos
    number = (u * _COPY_SPACING + 0.5).floor()
    inside = number.abs() <= part["copies"] // 2
    folded = torch.where(inside, u * _COPY_SPACING - number, 9.0)
    many = part["copies"] > 1
    middle = part["root_x"] + number / _COPY_SPACING * part["flip"] * part["size"] / _ASPECT
    wind = torch.where(many, middle, x / _ASPECT + 0.2 * y)
    return torch.stack([u, s], 1), torch.stack([torch.where(many, folded, u), s], 1), wind


def part_of(parts: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """Return the parameters of one layer, with two trailing axes that broadcast over pixels."""
    return {name: value[:, layer, ..., None, None] for name, value in parts.items()}


def part_at(parts: dict[str, Tensor], layer: Int[Tensor, "batch h w"]) -> dict[str, Tensor]:
    """Return for every pixel the parameters of the layer named there, for ``mode_shapes``."""
    flat = layer.flatten(1)[:, None]
    picked = {}
    for name in _SHAPE_PARAMETERS:
        values = parts[name].flatten(2) if parts[name].ndim > 2 else parts[name][..., None]
        values = values.movedim(1, -1).float()
        taken = values.gather(2, flat.expand(-1, values.shape[1], -1))
        picked[name] = taken.reshape(len(layer), *parts[name].shape[2:], *layer.shape[1:])
    return picked


_SHAPE_PARAMETERS = (
    "size", "root_x", "root_y", "angle", "flip", "copies", "still", "beam", "rigid", "is_view",
    "gusty", "wave_a", "wave_b", "direction", "carry", "turn",
)  # fmt: skip


def paint_layer(
    part: dict[str, Tensor], pieces: Pieces, height: int, width: int, mood: Tensor
) -> Float[Tensor, "batch 4 height width"]:
    """Return RGBA of one layer of every scene, lit like the backdrop and out of focus if it is.

    Args:
        part: Parameters of the layer, from ``part_of``.
        pieces: Where its picture comes from.
        height: Rows.
        width: Columns.
        mood: ``(batch, 3)`` mean colour of the backdrop.
    """
    _, local, _ = local_coordinates(part, height, width)
    grid = torch.stack([local[:, 0] * 2, 1 - 2 * local[:, 1]], dim=-1)
    picture = functional.grid_sample(
        pieces.cutouts[part["piece"].flatten()].float(), grid, align_corners=False
    )
    across, along = local[:, 0].abs(), (local[:, 1] - 0.5).abs()
    hung = ((across < 0.46) & (along < 0.48) & part["framed"])[:, None]
    mat = ((across < 0.41) & (along < 0.43))[:, None]
    card = part["card"] * torch.where(mat, 1.0, 0.45)
    color = torch.lerp(card, picture[:, :3], picture[:, 3:] * mat)
    color = torch.where(hung, color, picture[:, :3])
    alpha = torch.where(hung, 1.0, picture[:, 3:]) * part["present"][:, None]
    tone = 1 + 0.35 * (mood / mood.mean(1, keepdim=True).clamp(min=0.05) - 1)
    tone = torch.where(part["glows"][:, None] > 0, 1.0, tone[..., None, None] * part["gain"])
    picture = torch.cat([(color * tone).clamp(0, 1) * alpha, alpha], dim=1)
    picture = _defocus(picture, part["blur"][:, None])
    picture = torch.cat([picture[:, :3] / picture[:, 3:].clamp(min=1e-3), picture[:, 3:]], dim=1)
    if len(pieces.views):
        view = resize(pieces.views[part["view"].flatten()], height=height, width=width)
        view = torch.cat([view, torch.ones_like(view[:, :1])], dim=1)
        picture = torch.where(part["is_view"][:, None], view, picture)
    return picture.clamp(0, 1)


def _defocus(premultiplied: Tensor, blur: Tensor) -> Tensor:
    """Blur by 0 to about 10 px; colours are premultiplied, so that nothing bleeds in."""
    soft = functional.avg_pool2d(premultiplied, 5, 1, 2)
    softer = functional.avg_pool2d(soft, 9, 1, 4)
    mild, strong = (2 * blur).clamp(max=1), (2 * blur - 1).clamp(min=0)
    return torch.lerp(torch.lerp(premultiplied, soft, mild), softer, strong)


def draw_backdrop(
    draw: Draw, pieces: Pieces, part: dict[str, Tensor], height: int, width: int
) -> Float[Tensor, "batch 3 height width"]:
    """Return backdrops: sharp, out of focus, or dark, as behind close-ups.

    What is out of focus may be plants, too. Behind a view lies the view itself, so that its
    borders uncover something plausible.
    """
    index = draw.index(torch.ones(len(pieces.backdrops)))
    picture = resize(pieces.backdrops[index].float(), height=height, width=width)
    column = lambda v: v[:, None, None, None]  # noqa: E731
    out_of_focus = draw.chance(0.35)
    if len(pieces.views):
        plants = pieces.views[draw.index(torch.ones(len(pieces.views)))].float()
        plants = resize(plants, height=height, width=width)
        picture = torch.where(column(out_of_focus & draw.chance(0.5)), plants, picture)
    flipped = torch.where(column(draw.chance(0.5)), picture.flip(-1), picture)
    coarse = functional.adaptive_avg_pool2d(flipped, (max(height // 20, 2), max(width // 20, 2)))
    soft = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    focused = torch.where(column(out_of_focus), soft, flipped)
    dim = torch.where(draw.chance(0.2), draw(0.05, 0.35), draw(0.6, 1.1).clamp(max=1))
    picture = focused * column(dim)
    if len(pieces.views):
        view = resize(pieces.views[part["view"][:, 0]], height=height, width=width)
        picture = torch.where(column(part["is_view"][:, 0]), view, picture)
    return picture
