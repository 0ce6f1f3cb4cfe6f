"""Composing scenes: the traits drawn for every layer, how it sways in the wind, how it is painted.

In its local coordinates (u, s), s runs from 0 at the anchor of a layer to 1 at its tip, u across.
It moves by real mode shapes, each following a damped oscillator: a clamped beam under gusts, as
in Davis et al. 2015.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn import functional

from gidlite.data.world.pieces import ANCHORS, KINDS, Draw, Pieces, kind_numbers
from gidlite.media import resize

NUM_MODES = 6
NUM_HATS = 4  # of these modes, under gusts, are hats over the picture
# Typical amplitude of a stem as tall as the picture, in picture widths per unit coordinate.
_AMPLITUDE = 0.0031
_COPY_SPACING = 1.1
_ASPECT = 1.6  # of the world; a picture of another shape shows it stretched
# Traits that decide how a pixel moves.
_SHAPE_TRAITS = (
    "size", "root_x", "root_y", "angle", "flip", "copies", "still", "beam", "rigid", "is_view",
    "gusty", "apart", "head", "wave_a", "wave_b", "direction", "carry", "turn",
)  # fmt: skip


def draw_traits(draw: Draw, pieces: Pieces, layers: int) -> dict[str, Tensor]:
    """Draw every trait of every layer, back to front; values are ``(batch, layers, ...)``."""
    depth = (torch.arange(layers, device=draw.device) + 1) / layers
    is_view = torch.zeros(draw.batch, layers, dtype=torch.bool, device=draw.device)
    if len(pieces.views):
        is_view[:, 0] = draw.chance(0.15)
    # Some layers ride, each on the nearest layer behind it that does not.
    rides = draw.chance(0.3, layers)
    rides[:, 0] = False
    parent = torch.where(rides, 0, torch.arange(layers, device=draw.device)).cummax(dim=1).values
    loose, anywhere = (pieces.anchor == ANCHORS.index(name) for name in ("none", "any"))
    riders = pieces.weight * (loose.float() + 0.3 * anywhere.float())
    if riders.sum() == 0:
        rides, riders = torch.zeros_like(rides), pieces.weight
    piece = torch.where(rides, draw.index(riders, layers), draw.index(pieces.weight, layers))
    traits = {
        "piece": piece, "is_view": is_view, "rides": rides, "parent": parent,
        "view": (draw(0, 1, layers) * len(pieces.views)).long(),
        "present": draw.chance(0.65, layers) | (depth == 1) | is_view,
        "flip": torch.where(draw.chance(0.5, layers), -1.0, 1.0),
    }  # fmt: skip
    traits["present"] &= ~is_view[:, :1] | is_view | draw.chance(0.25, layers)
    traits |= _draw_place(draw, pieces, traits, depth)
    traits |= _draw_sway(draw, pieces, traits)
    traits |= _draw_look(draw, traits, depth)
    return traits | _draw_riding(draw, traits)


def _draw_place(draw: Draw, pieces: Pieces, traits: dict, depth: Tensor) -> dict[str, Tensor]:
    """Draw size, root and direction; sizes and places are in picture heights, x from the left."""
    layers, is_view = len(depth), traits["is_view"]
    anchor, still = pieces.anchor[traits["piece"]], pieces.still[traits["piece"]]
    # A branch may enter from any border, or stand.
    any_side = draw.index(torch.tensor([0.3, 0.4, 0.3]), layers)
    anchor = torch.where(anchor == ANCHORS.index("any"), any_side, anchor)
    bottom, top, side, loose = (anchor == number for number in range(4))
    # In rows that hang from a line, and of some lamps, each thing swings by itself.
    line = (anchor == ANCHORS.index("line")) & ~is_view
    swings = pieces.kind[traits["piece"]] == list(KINDS).index("pendulum")
    apart = line | (top & swings & ~is_view & draw.chance(0.3, layers))
    row, plumb, top = (bottom & draw.chance(0.28, layers)) | apart, top, top | line
    zoom = draw.log(0.6, 1.8, 1)  # from wide shots to close-ups
    size = torch.where(row, draw.log(0.2, 0.7, layers), draw.log(0.3, 1.0, layers))
    size = (size * zoom * (0.7 + 0.7 * depth) * torch.where(loose | plumb, 1.25, 1.0)).clamp(
        0.12, 2.2
    )
    left = draw.chance(0.5, layers)
    x = torch.where(side, torch.where(left, -0.03, 1.03), draw(0.03, 0.97, layers))
    y = torch.where(bottom, draw(0.72, 1.25, layers), draw(0.65, 1.2, layers))
    y = torch.where(line, draw(0.02, 0.6, layers), y)
    y = torch.where(
        top & ~line, draw(-0.25, 0.1, layers), torch.where(side, draw(0.05, 0.9, layers), y)
    )
    turn = torch.where(side, torch.where(left, 0.5, -0.5), torch.where(top, 1.0, 0.0)) * math.pi
    angle = turn + draw(-0.2, 0.2, layers) * torch.where(loose, 6.0, torch.where(plumb, 0.3, 1.0))
    drawn = {"size": size, "root_x": x, "root_y": y, "angle": angle, "still": still}
    whole = {"size": 1.0, "root_x": 0.5, "root_y": 1.0, "angle": 0.0, "still": 0.0}
    place = {name: torch.where(is_view, whole[name], drawn[name]) for name in whole}
    copies = (draw(2, 8, layers) * torch.where(line, 3, 1)).round()
    return place | {"copies": torch.where(row & ~is_view, copies, 1.0), "apart": apart}


def _draw_sway(draw: Draw, pieces: Pieces, traits: dict) -> dict[str, Tensor]:
    """Draw natural frequencies, dampings, directions and amplitudes."""
    is_view, size, apart = (traits[name] for name in ("is_view", "size", "apart"))
    alone, layers = traits["copies"] == 1, size.shape[1]
    kind = torch.where(is_view, list(KINDS).index("view"), pieces.kind[traits["piece"]])
    of_kind = kind_numbers(kind)
    gusty = (~alone & ~apart) | (is_view & draw.chance(0.7, layers))
    framed = draw.chance(0.05, layers) & alone & ~is_view & ~traits["rides"]
    wind, taste = draw.log(0.22, 4.5, 1), draw.log(0.55, 1.8, layers)
    amplitude = _AMPLITUDE * wind * taste * size**0.7 * ~framed
    hats = gusty[..., None] & (torch.arange(NUM_MODES, device=draw.device) < NUM_HATS)
    hats |= apart[..., None]
    sway, flutter = of_kind["sway"], of_kind["flutter"] * draw.log(0.5, 1.6, layers)
    share = torch.stack([sway, 0.25 * sway, flutter, flutter, 0.6 * flutter, 0.6 * flutter], dim=-1)
    share, fine = torch.where(hats, sway[..., None], share), of_kind["fine"][..., None]
    spread = torch.tensor([0, 0, 0.4, 0.4, 1.2, 1.2], device=draw.device)
    angle = traits["angle"][..., None] + draw(-0.2, 0.2, layers, 1) + torch.where(hats, 0, spread)
    low, high = of_kind["slowest_hz"].log(), of_kind["fastest_hz"].log()
    natural = torch.exp(low + (high - low) * draw(0, 1, layers)) / size.clamp(min=0.3).sqrt()
    factor = torch.tensor([1, 2.5, 1.6, 1.6, 2.6, 2.6], device=draw.device)
    own = draw(0.85, 1.2, layers, NUM_MODES) ** apart[..., None]
    least, most = of_kind["least_damping"][..., None], of_kind["most_damping"][..., None]
    damping = least + (most - least) * draw(0, 1, layers, NUM_MODES)
    damping[..., (3, 5)] = damping[..., (2, 4)]
    delay = draw(0.05, 0.5, layers) * torch.where(draw.chance(0.5, layers), 1.0, -1.0)
    return {
        "rigid": of_kind["rigid"], "beam": of_kind["beam"], "travels": of_kind["travels"],
        "head": of_kind["head"], "frozen": framed | (kind == list(KINDS).index("still")),
        "glows": (kind == list(KINDS).index("flame")).float(), "framed": framed,
        "gusty": gusty.float(), "gust_delay": delay,
        "let_go": (draw.chance(0.08, 1) & ~gusty).float(),
        "direction": torch.stack([angle.cos(), angle.sin()], dim=-1)
        * (amplitude[..., None] * share)[..., None],
        "natural_hz": (natural[..., None] * torch.where(hats, own, factor)).clamp(max=7),
        "damping": torch.where(hats, damping[..., :1], damping),
        "wave_a": draw(-8, 8, layers, 2) * fine, "wave_b": draw(-14, 14, layers, 2) * fine,
    }  # fmt: skip


def _draw_look(draw: Draw, traits: dict, depth: Tensor) -> dict[str, Tensor]:
    """Draw colour, focus and shadow; a flame glows instead of casting one."""
    layers, glows = len(depth), traits["glows"][..., None]
    aperture = torch.where(draw.chance(0.5, 1), draw(0, 1.5, 1), 0.0)
    blur = ((depth - draw(0.45, 1, 1)).abs() * aperture).clamp(max=1)
    dark = draw(0, 0.4, layers)[..., None] * (1 - glows) * ~traits["is_view"][..., None]
    shade = dark - torch.tensor([0.9, 0.5, 0.15], device=draw.device) * glows
    return {
        "gain": draw(0.62, 1.15, layers, 1) * draw(0.88, 1.12, layers, 3), "blur": blur,
        "shade": shade, "shade_offset": draw(-0.04, 0.04, 1, 2) * (1 - glows),
        "card": draw(0.1, 0.95, layers, 3),
    }  # fmt: skip


def _draw_riding(draw: Draw, traits: dict) -> dict[str, Tensor]:
    """Put every rider on its parent, and find how the parent's modes carry and turn it there."""
    scene = torch.arange(draw.batch, device=draw.device)[:, None]
    owner = {name: values[scene, traits["parent"]] for name, values in traits.items()}
    # Nothing rides on a view, on a row of copies, on what is still or on another rider.
    able = owner["present"] & ~owner["is_view"] & (owner["copies"] == 1) & ~owner["frozen"]
    rides = traits["rides"] & able
    u, s = draw(-0.15, 0.15, *rides.shape[1:]), draw(0.55, 0.9, *rides.shape[1:])
    sin, cos = owner["angle"].sin(), owner["angle"].cos()
    x = owner["root_x"] * _ASPECT + owner["size"] * (u * cos + s * sin)
    y = owner["root_y"] + owner["size"] * (u * sin - s * cos)
    smaller = (owner["size"] * draw(0.25, 0.5, *rides.shape[1:])).clamp(0.08, 1)
    scale = torch.where(rides, smaller / traits["size"], 1.0)
    flat = {name: values.flatten(0, 1)[..., None, None] for name, values in owner.items()}

    def modes_at(s: Tensor) -> Tensor:
        local = torch.stack([u, s], dim=-1).flatten(0, 1)[..., None, None]
        shapes = mode_shapes(local, torch.zeros_like(local[:, 0]), flat)
        return shapes[..., 0, 0].unflatten(0, u.shape)

    low, high = modes_at(s - 0.05), modes_at(s + 0.05)
    across = ((high - low) * torch.stack([cos, sin], dim=-1)[:, :, None]).sum(-1)
    carried = rides[..., None].float()
    drawn = {"root_x": x / _ASPECT, "root_y": y, "copies": 1.0}
    return {name: torch.where(rides, value, traits[name]) for name, value in drawn.items()} | {
        "rides": rides, "size": traits["size"] * scale,
        "direction": traits["direction"] * scale[..., None, None],
        "carry": (low + high) / 2 * carried[..., None],
        # Widths per radian: the parent's displacement per picture height along it.
        "turn": across / (0.1 * owner["size"][..., None]) * carried,
    }  # fmt: skip


def layer_traits(traits: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """Return the traits of one layer, with two trailing axes that broadcast over pixels."""
    return {name: values[:, layer, ..., None, None] for name, values in traits.items()}


def traits_at(traits: dict[str, Tensor], layer: Int[Tensor, "batch h w"]) -> dict[str, Tensor]:
    """Return, for every pixel, what shapes the motion of the layer named there."""
    scene = torch.arange(len(layer), device=layer.device)[:, None, None]
    picked = {name: traits[name][scene, layer] for name in _SHAPE_TRAITS}
    return {n: values.movedim((1, 2), (-2, -1)).contiguous() for n, values in picked.items()}


def local_coordinates(traits: dict[str, Tensor], height: int, width: int) -> tuple[Tensor, ...]:
    """Return (u, s) of every pixel, the same folded for copies, and how far the wind has come.

    The wind, 0 to 1 across the picture, is at a copy that at its middle: each moves as one.
    Where copies swing apart, it is the number of the mode that swings each.
    """
    root_x, size, flip, copies = (traits[n] for n in ("root_x", "size", "flip", "copies"))
    y = ((torch.arange(height, device=size.device) + 0.5) / height)[:, None]
    x = ((torch.arange(width, device=size.device) + 0.5) / width) * _ASPECT
    dx, dy = (x - root_x * _ASPECT) / size, (y - traits["root_y"]) / size
    sin, cos = traits["angle"].sin(), traits["angle"].cos()
    u, s = (dx * cos + dy * sin) * flip, dx * sin - dy * cos
    number = (u * _COPY_SPACING + 0.5).floor()
    middle = root_x + number / _COPY_SPACING * flip * size / _ASPECT
    wind = torch.where(copies > 1, middle, x / _ASPECT + 0.2 * y)
    wind = torch.where(traits["apart"], number.remainder(NUM_MODES), wind)
    folded = torch.where(number.abs() <= copies // 2, u * _COPY_SPACING - number, 9.0)
    folded = torch.where(copies > 1, folded, u)
    return torch.stack([u, s], 1), torch.stack([folded, s], 1), wind


def mode_shapes(
    local: Float[Tensor, "b 2 h w"], wind: Tensor, traits: dict, growth: Tensor | None = None
) -> Float[Tensor, "b modes 2 h w"]:
    """Return the mode shapes at (u, s) of every pixel, in picture widths per unit coordinate.

    Modes 0 and 1 bend a layer like a clamped beam (or swing it, or move it as a body); the rest
    are two pairs of waves. Under gusts, modes 0 to 3 are instead hats along the wind, whose
    coordinates are one trajectory at four delays: the front travels. Copies apart have a mode each
    (every sixth the same). A flower's head moves as a body, and a view by ``growth``.
    """
    u, s = local.unbind(1)
    s = ((s - traits["still"]) / (traits["head"] - traits["still"])).clamp(0, 1.5)
    s = torch.where(traits["head"] < 1, s.clamp(max=1), s)
    u = torch.where(traits["head"] < 1, u * (4 - 4 * s).clamp(max=1), u)
    beam = 0.5 * s * s * (3 - s.clamp(max=1))
    profile = torch.lerp(torch.lerp(s, beam, traits["beam"]), 0.75 + 0.25 * s, traits["rigid"])
    flutter = s.clamp(max=1).sqrt() * (1 - traits["rigid"])
    if growth is not None:
        profile, flutter = (torch.where(traits["is_view"], growth, v) for v in (profile, flutter))
    a, b = (wave[:, 0] * u + wave[:, 1] * s for wave in (traits["wave_a"], traits["wave_b"]))
    waves = [flutter * wave for wave in (a.cos(), a.sin(), b.cos(), b.sin())]
    overtone = s * (s - 0.75) * 3 * (1 - traits["rigid"])
    apart, gusty = traits["apart"], traits["gusty"] > 0
    along = torch.where(apart, wind, wind.clamp(0, 1) * (NUM_HATS - 1))
    hats = [profile * (1 - (along - j).abs()).clamp(min=0) for j in range(NUM_MODES)]
    bends = [profile, overtone, *waves]
    for j, hat in enumerate(hats):
        bends[j] = torch.where(apart | (gusty & (j < NUM_HATS)), hat, bends[j])
    return torch.stack(bends, dim=1)[:, :, None] * traits["direction"]


def wind_driven(
    draw: Draw, traits: dict[str, Tensor], *, num_frames: int = 150, fps: float = 30.0
) -> Float[Tensor, "batch layers modes time"]:
    """Return modal coordinates over time: stationary, of unit variance, 0 at frame 0.

    White noise is shaped in the frequency domain by the wind (falling above 0.1 Hz, with a slow
    swell below 0.25 Hz as real clips have it) and by the oscillator's response. A window of a run
    four times as long is stationary and, like a real clip, not periodic. Waves that travel are a
    pair in quadrature; gusts are one trajectory delayed; a layer that is let go rings down.
    """
    natural, damping = traits["natural_hz"][..., None], traits["damping"][..., None]
    names = ("travels", "gusty", "gust_delay", "let_go")
    travels, gusty, delay, let_go = (traits[name][..., None, None] for name in names)
    run = 4 * num_frames
    noise = torch.fft.rfft(draw.normal(*natural.shape[1:-1], run))
    hz = torch.fft.rfftfreq(run, 1 / fps).to(draw.device)
    turned = -1j * noise[..., (2, 4), :]
    noise[..., (3, 5), :] = torch.where(travels > 0, turned, noise[..., (3, 5), :])
    delay = delay * torch.arange(NUM_HATS, device=draw.device)[:, None]
    gusts = noise[..., :1, :] * torch.exp(-2j * torch.pi * hz * delay)
    noise[..., :NUM_HATS, :] = torch.where(gusty > 0, gusts, noise[..., :NUM_HATS, :])
    path = torch.fft.irfft(noise * gain_of(traits, hz), n=run)
    path = (path / path.std(dim=-1, keepdim=True))[..., num_frames : 2 * num_frames]
    seconds = torch.arange(num_frames, device=draw.device) / fps
    swing = torch.cos(2 * torch.pi * natural * seconds * (1 - damping**2).clamp(min=0.1).sqrt())
    ringing = torch.exp(-2 * torch.pi * natural * damping * seconds) * swing
    path = torch.where(let_go > 0, 1.5 * ringing, path)
    return path - path[..., :1]


def gain_of(traits: dict[str, Tensor], hz: Tensor) -> Complex[Tensor, "batch layers modes freq"]:
    """Return how strongly the wind moves each oscillator at each frequency."""
    ratio, damping = hz / traits["natural_hz"][..., None], traits["damping"][..., None]
    response = torch.complex(1 - ratio**2, 2 * damping * ratio).reciprocal()
    swell = 1 + 0.9 / (1 + (hz / 0.25) ** 2)
    return response * swell / (1 + (hz / 0.1) ** 2) ** 0.2


def draw_backdrop(
    draw: Draw, pieces: Pieces, traits: dict[str, Tensor], height: int, width: int
) -> Float[Tensor, "batch 3 height width"]:
    """Return backdrops: sharp, out of focus (then they may be plants), or dark as of close-ups."""
    size, each = {"height": height, "width": width}, (1, 1, 1)
    picture = resize(pieces.backdrops[draw.index(torch.ones(len(pieces.backdrops)))], **size)
    out_of_focus = draw.chance(0.35, *each)
    if len(pieces.views):
        plants = resize(pieces.views[draw.index(torch.ones(len(pieces.views)))], **size)
        picture = torch.where(out_of_focus & draw.chance(0.5, *each), plants, picture)
    picture = torch.where(draw.chance(0.5, *each), picture.flip(-1), picture)
    coarse = functional.adaptive_avg_pool2d(picture, (max(height // 20, 2), max(width // 20, 2)))
    soft = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    is_dark, dark, light = draw.chance(0.2, *each), draw(0.05, 0.35, *each), draw(0.6, 1.1, *each)
    bright = torch.where(is_dark, dark, light.clamp(max=1))
    picture = torch.where(out_of_focus, soft, picture) * bright
    if len(pieces.views):  # behind a view lies the view itself: its borders uncover it
        view = resize(pieces.views[traits["view"][:, 0]], **size)
        picture = torch.where(traits["is_view"][:, 0].view(-1, *each), view, picture)
    return picture


def paint_layers(
    traits: dict[str, Tensor], pieces: Pieces, background: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch layers 4 height width"]:
    """Return RGBA of every layer, lit like the backdrop and out of focus if it is."""
    mood = background.mean((-2, -1))
    tint = 1 + 0.35 * (mood / mood.mean(1, keepdim=True).clamp(min=0.05) - 1)
    count, size = traits["size"].shape[1], background.shape[-2:]
    painted = [_paint_layer(layer_traits(traits, n), pieces, size, tint) for n in range(count)]
    view = torch.cat([background, torch.ones_like(background[:, :1])], dim=1)
    painted[0] = torch.where(traits["is_view"][:, 0].view(-1, 1, 1, 1), view, painted[0])
    return torch.stack(painted, dim=1)


def _paint_layer(traits: dict, pieces: Pieces, size: torch.Size, tint: Tensor) -> Tensor:
    _, local, wind = local_coordinates(traits, *size)
    # Not quite to the border, beyond which there is nothing: lines go on from copy to copy.
    grid = torch.stack([local[:, 0] * 1.98, 1 - 2 * local[:, 1]], dim=-1)
    cutouts = pieces.cutouts[traits["piece"].flatten()]
    picture = functional.grid_sample(cutouts, grid, align_corners=False)
    color, alpha = picture[:, :3], picture[:, 3:]
    # A painting hangs on the wall: the piece on a card, with a mat around it.
    across, along = local[:, 0].abs(), (local[:, 1] - 0.5).abs()
    hung = ((across < 0.46) & (along < 0.48) & traits["framed"])[:, None]
    mat = ((across < 0.41) & (along < 0.43))[:, None]
    card = traits["card"] * torch.where(mat, 1.0, 0.45)
    color = torch.where(hung, torch.lerp(card, color, alpha * mat), color)
    alpha = torch.where(hung, 1.0, alpha) * traits["present"][:, None]
    light = tint[..., None, None] * traits["gain"]
    # Copies that swing apart may differ in colour, too.
    motley = traits["apart"] * (traits["card"][:, 0] - 0.4).clamp(min=0)
    light = light * (
        1 + (motley * (2.4 * wind + 20 * traits["card"].movedim(1, 0)).sin()).movedim(0, 1)
    )
    light = torch.where(traits["glows"][:, None] > 0, 1.0, light)
    # Out of focus by 0 to about 10 px; colours are premultiplied, so that nothing bleeds in.
    sharp = torch.cat([(color * light).clamp(0, 1) * alpha, alpha], dim=1)
    soft = _box(sharp, 5)
    softer = _box(soft, 9)
    blur = 2 * traits["blur"][:, None]
    seen = torch.lerp(torch.lerp(sharp, soft, blur.clamp(max=1)), softer, (blur - 1).clamp(min=0))
    return torch.cat([seen[:, :3] / seen[:, 3:].clamp(min=1e-3), seen[:, 3:]], dim=1).clamp(0, 1)


def _box(picture: Tensor, size: int) -> Tensor:
    tall = functional.avg_pool2d(picture, (size, 1), 1, (size // 2, 0))
    return functional.avg_pool2d(tall, (1, size), 1, (0, size // 2))
