"""How things sway: mode shapes in the coordinates of a part, driven by stochastic wind.

A part has local coordinates (u, s): s runs from 0 at its anchor to 1 at its tip, u across. Its
displacement is a sum of ``NUM_MODES`` real mode shapes, each following a damped oscillator.
Source of the physics: a clamped beam under gusts, as in Davis et al. 2015; the rest is standard.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["KINDS", "NUM_MODES", "kind_table", "mode_shapes", "wind_driven"]

NUM_MODES = 6
# With gusts, the first of the six modes are hats over the picture, each delayed by the wind.
NUM_HATS = 4
_WAVE_A, _WAVE_B = (2, 3), (4, 5)


@dataclass(frozen=True)
class Kind:
    """How one kind of thing sways.

    Attributes:
        rigid: 0 for a profile that grows from the anchor, 1 for a body that moves as one.
        beam: 1 for the bending of a clamped beam, 0 for a pendulum.
        slowest_hz: Natural frequencies of a part as tall as the picture lie between this ...
        fastest_hz: ... and this; smaller parts are faster.
        least_damping: Damping ratios lie between this ...
        most_damping: ... and this.
        sway: Amplitude of the swinging of the whole, relative to a stem's.
        flutter: Amplitude of waves within it, relative to a stem's swing.
        travels: 1 if its waves run through it, 0 if they stand.
    """

    rigid: float
    beam: float
    slowest_hz: float
    fastest_hz: float
    least_damping: float
    most_damping: float
    sway: float
    flutter: float
    travels: float


KINDS = {
    "stem": Kind(0, 1, 0.4, 3.2, 0.06, 0.3, 1.0, 0.25, 0),
    "leafy": Kind(0, 1, 0.4, 3.0, 0.08, 0.4, 0.8, 0.5, 0),
    "tree": Kind(0, 1, 0.3, 1.8, 0.1, 0.4, 0.6, 0.55, 0),
    "pendulum": Kind(0, 0, 0.35, 1.2, 0.02, 0.1, 1.0, 0.04, 0),
    "cloth": Kind(0, 0, 0.4, 2.0, 0.1, 0.4, 0.7, 0.9, 1),
    "flame": Kind(0, 1, 1.0, 3.0, 0.2, 0.6, 0.45, 0.35, 1),
    "body": Kind(1, 1, 0.4, 3.0, 0.06, 0.3, 0.7, 0.08, 0),
    "view": Kind(0, 0, 0.35, 2.4, 0.12, 0.4, 0.75, 0.45, 0),
}


def kind_table() -> Float[Tensor, "kinds 9"]:
    """Return the numbers of every kind, in the order of ``KINDS``."""
    return torch.tensor([astuple(kind) for kind in KINDS.values()], dtype=torch.float32)


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
