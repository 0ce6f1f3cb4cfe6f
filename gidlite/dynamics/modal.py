"""Modes of a photo as damped oscillators: hold a pixel, let go, and it rings.

Every bin of a spectral volume is a complex mode shape S_k, that is, a pair of real shapes with
one frequency. Its coordinate q_k obeys

    q̈ + 2 ζ ω q̇ + ω² q = force,        displacement = Re Σ_k S_k q_k.

Under a constant force the step is known exactly, and stable, for any dt. Explicit Euler is stable
only for dt < 2 ζ / ω; at 30 frames per second and 3 Hz with ζ = 0.05 it grows 2·10⁹-fold in 5 s.
Bin 0, the mean displacement, has no restoring force: moved once, it would stay. It takes no part
(its coordinate is always 0), so that rest is the photo itself.

Source: Davis, Chen and Durand 2015 (image-space modal bases); Li et al. 2024, section 6.
Departure: both used a first-order complex state whose imaginary part stands for velocity; then
an impulse moves distant pixels of another phase at once. Here q and q̇ are two complex numbers,
so positions stay continuous, and a point force can only put energy in along its own motion.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from gidlite.errors import ShapeError, all_finite, check_shape, require
from gidlite.motion import ModalBasis

# Directions in which a pixel can move this much less (as a share of its mobility) count as none.
_DEGENERATE = 1e-12


def exact_step(
    omega: Float[Tensor, " modes"], damping: Float[Tensor, " modes"], dt: float
) -> Float[Tensor, "modes 2 2"]:
    """Return the matrices that carry (q, q̇) of unforced oscillators over ``dt`` seconds.

    Undamped angular frequencies ω are in rad/s, > 0; damping ratios ζ in [0, 1); dt has any sign.
    """
    decay = damping * omega
    ringing = omega * (1 - damping.square()).sqrt()
    envelope = (-decay * dt).exp()
    cosine = envelope * (ringing * dt).cos()
    sine = envelope * (ringing * dt).sin() / ringing
    rows = [cosine + decay * sine, sine, -omega.square() * sine, cosine - decay * sine]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


def dominant_modes(
    spectral: Complex[Tensor, "freq 2 height width"],
    *,
    frequencies_hz: Float[Tensor, " freq"],
    count: int,
) -> list[int]:
    """Return the bins with the largest mean squared speed, ``Σ ω² |S|²``, lowest bin first.

    Speed, not displacement: the slowest bins of a real recording are drift under a changing mean
    wind rather than ringing. Bins of frequency 0 are left out.
    """
    speed = frequencies_hz.square().cpu() * spectral.abs().square().mean(dim=(1, 2, 3)).cpu()
    moving = [k for k in range(len(speed)) if frequencies_hz[k] > 0]
    return sorted(sorted(moving, key=lambda k: -float(speed[k]))[:count])


def chief_modes(basis: ModalBasis, *, count: int) -> list[int]:
    """Return the modes that somewhere account for most of what moves, lowest index first.

    A thing's chief shape comes before the second of another, however small the thing is; a place
    that moves less than a tenth as far as the liveliest hardly counts.
    """
    power = basis.spectral.abs().square().sum(1).cpu()
    total = power.sum(0)
    share = power / (total + 0.01 * total.quantile(0.99)).clamp(min=1e-12)
    best = share.flatten(1).quantile(0.995, dim=1).tolist()
    return sorted(sorted(range(len(best)), key=lambda k: -best[k])[:count])


def coordinates_of(
    motion: Float[Tensor, "time 2 height width"], shapes: Complex[Tensor, "modes 2 height width"]
) -> Complex[Tensor, "time modes"]:
    """Return the q by which shapes move as a motion does, ``Re Σ S_k q_k``, by least squares."""
    columns = torch.cat([shapes.real, -shapes.imag]).flatten(1).double().mT
    # Shapes of things that hardly move say the same, and hardly anything: SVD leaves them out.
    found = torch.linalg.lstsq(columns, motion.flatten(1).double().mT, rcond=1e-6, driver="gelsd")
    return torch.complex(*found.solution.mT.chunk(2, dim=1))


def tuned_by_size(basis: ModalBasis) -> Float[Tensor, " modes"]:
    """Return frequencies in Hz at which small things swing faster than large ones, as they do."""
    return by_size(basis.frequencies_hz, basis.spectral.abs().square().sum(1).flatten(1)).cpu()


def by_size(
    frequencies: Float[Tensor, " modes"], power: Float[Tensor, "modes places"]
) -> Float[Tensor, " modes"]:
    """Return frequencies that go with 1 / √size about their mean, too, at most by a factor of 1.7.

    A photo hardly tells the frequencies of its parts apart. The size of a mode is the root of the
    area in which its power, |S|² at every place, would fit evenly.
    """
    area = power.sum(1).square() / power.square().sum(1).clamp(min=1e-30)
    relative = area.clamp(min=1).log() - area.clamp(min=1).log().mean()
    return frequencies * (-relative / 4).exp().clamp(1 / 1.7, 1.7)


def _column(index: int, meaning: str) -> property:
    """Return a property for one column of the state, which stays 0 at 0 Hz."""

    def read(self: ModalSystem) -> Complex[Tensor, " modes"]:
        return self._state[:, index]

    def write(self: ModalSystem, value: Num[Tensor, " modes"]) -> None:
        self._state[:, index] = torch.where(self._swings, value.to(torch.complex128), 0)

    return property(read, write, doc=meaning)


class ModalSystem:
    """A photo's modes in motion. State in float64; shapes, in px, stay as given.

    There is a frequency per mode, ≥ 0; modes at 0 Hz take no part. The damping ratio ζ, 0 ≤ ζ < 1,
    is one for all modes or one per mode. Places (x, y) are columns and rows in px of the modes,
    fractions allowed. Shapes that do not fit raise ``ShapeError``; a place outside the picture and
    a number that is not finite or out of range, ``GidliteError``.

    Examples:
        >>> modes = torch.ones(1, 2, 4, 6, dtype=torch.complex64)
        >>> system = ModalSystem(modes, frequencies_hz=torch.tensor([1.0]))
        >>> system.drag(x=2, y=1, dx=3.0, dy=3.0)
        >>> system.displacement()[:, 0, 0]
        tensor([3., 3.])
        >>> system.release()
        >>> system.step(0.5)  # half a period later it is on the other side, a little less far
        >>> system.displacement()[0, 0, 0] < -2
        tensor(True)
    """

    modal_coords = _column(0, "Coordinates q, complex128.")
    modal_velocity = _column(1, "Rates q̇ per second, complex128.")

    def __init__(
        self,
        spectral: Complex[Tensor, "modes 2 height width"],
        *,
        frequencies_hz: Float[Tensor, " modes"],
        damping: float | Float[Tensor, " modes"] = 0.05,
    ):
        check_shape("spectral", spectral, "modes 2 height width")
        count = len(spectral)
        frequencies = torch.as_tensor(frequencies_hz, dtype=torch.float64).cpu()
        ratios = torch.as_tensor(damping, dtype=torch.float64).cpu().expand(count)
        if frequencies.shape != (count,):
            shape = tuple(frequencies.shape)
            raise ShapeError(f"expected one frequency for each of {count} modes, got shape {shape}")
        finite = all_finite(spectral) and all_finite(frequencies)
        valid = finite and bool((frequencies >= 0).all())
        require(valid, "modes and frequencies must be finite, and frequencies at least 0")
        valid = bool(((ratios >= 0) & (ratios < 1)).all())
        require(valid, f"damping is {damping}; a ratio must lie between 0 and 1")
        self.spectral, self.damping = spectral, ratios.clone()
        self.omega, self._swings = 2 * math.pi * frequencies, frequencies > 0
        self._largest: float | None = None
        self.reset()

    def reset(self) -> None:
        """Return to the photo: no displacement, no velocity, nothing held or pulled."""
        self._state = torch.zeros(len(self.spectral), 2, dtype=torch.complex128)
        self._force = torch.zeros(len(self.spectral), dtype=torch.complex128)
        self._held: tuple[float, float] | None = None

    def mode_at(self, x: float, y: float) -> Complex[Tensor, "modes 2"]:
        """Return the mode shapes at a place, bilinear between pixels; 0 Hz modes are 0."""
        height, width = self.spectral.shape[-2:]
        inside = 0 <= x <= width - 1 and 0 <= y <= height - 1
        require(inside, f"pixel ({x}, {y}) lies outside the {width}×{height} picture")
        left, top = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
        patch = self.spectral[..., top : top + 2, left : left + 2].to("cpu", torch.complex128)
        columns = torch.tensor([1 - (x - left), x - left], dtype=torch.complex128)
        rows = torch.tensor([1 - (y - top), y - top], dtype=torch.complex128)
        patch = (patch * rows[: patch.shape[-2], None]).sum(-2)
        return (patch * columns[: patch.shape[-1]]).sum(-1) * self._swings[:, None]

    def reach(self) -> float:
        """Return the largest displacement in px that coordinates of norm 1 give any pixel."""
        if self._largest is None:
            # The larger eigenvalue of every pixel's 2×2 matrix Re Σ_k S_k S_k*, in px².
            shapes = self.spectral[self._swings].flatten(2)
            xx, yy = shapes.abs().square().double().sum(0)
            xy = (shapes[:, 0] * shapes[:, 1].conj()).sum(0).real.double()
            larger = (xx + yy) / 2 + ((xx - yy).square() / 4 + xy.square()).sqrt()
            self._largest = float(larger.max().sqrt())
        return self._largest

    def _least_norm(self, x: float, y: float, target: tuple[float, float], limit: float) -> Tensor:
        """Return the shortest q with Re Σ S_k(x, y) q_k closest to the target, |q| ≤ limit."""
        shape = self.mode_at(x, y)
        gram = (shape[:, :, None] * shape[:, None, :].conj()).sum(0).real
        mobility, axes = torch.linalg.eigh(gram)
        along = axes.T @ torch.tensor(target, dtype=torch.float64)
        usable = mobility > _DEGENERATE * mobility.max()
        mobility, along = torch.where(usable, mobility, 0), torch.where(usable, along, 0)
        weights = torch.where(usable, along / (mobility + _softening(mobility, along, limit)), 0)
        return shape.conj() @ (axes @ weights).to(torch.complex128)

    def drag(self, *, x: float, y: float, dx: float, dy: float, limit: float | None = None) -> None:
        """Hold pixel (x, y) of the photo at displacement (dx, dy) px, at once and at rest.

        Of all coordinates that do so, those of least norm are taken. A pixel that can move along a
        line only comes as close as it can; one that cannot move stays. With a ``limit``, no pixel
        moves by more than so many px, and the held one comes as close as that allows.
        """
        _check_finite(dx=dx, dy=dy)
        bound = math.inf
        if limit is not None:
            require(limit > 0, f"limit is {limit}; it must be a positive number of px")
            bound = limit / max(self.reach(), 1e-300)
        self._state[:, 0] = self._least_norm(x, y, (dx, dy), bound)
        self._state[:, 1] = 0
        self._held = (x, y)

    def release(self, *, vx: float = 0.0, vy: float = 0.0) -> None:
        """Let go of the held pixel, at rest or thrown with a velocity in px/s."""
        held, self._held = self._held, None
        if held is not None and (vx or vy):
            self.impulse(x=held[0], y=held[1], vx=vx, vy=vy)

    def impulse(self, *, x: float, y: float, vx: float, vy: float) -> None:
        """Change the velocity of pixel (x, y) by (vx, vy) px/s, as by a tap at that pixel."""
        _check_finite(vx=vx, vy=vy)
        self._state[:, 1] += self._least_norm(x, y, (vx, vy), math.inf)

    def pull(self, *, x: float, y: float, ax: float, ay: float) -> None:
        """Accelerate pixel (x, y) by (ax, ay) px/s² with a steady force, until the next pull."""
        _check_finite(ax=ax, ay=ay)
        self._force = self._least_norm(x, y, (ax, ay), math.inf)

    def attract(self, *, x: float, y: float, strength: float, radius: float) -> None:
        """Let everything near (x, y) lean towards it, as towards a soft mass at the pointer.

        A pixel at distance r is drawn in proportion to ``r exp(-r² / 2 radius²)``: not at all at
        the pointer, which may be outside the picture, most at ``radius``. The forces are projected
        on the modes, in such units that the liveliest part of the picture, if it fills one side of
        the pointer and no more, is accelerated by ``strength`` px/s². They are those of the
        picture at rest, wherever it swings meanwhile, so that the step stays exact and nothing can
        be trapped, and last until the next ``attract`` or ``pull``; a strength of 0 ends them.
        """
        _check_finite(x=x, y=y, strength=strength, radius=radius)
        valid, found = strength >= 0 and radius > 0, f"strength is {strength} and radius {radius}"
        require(valid, f"{found}; they must be at least 0 and positive")
        height, width = self.spectral.shape[-2:]
        dx = (x - torch.arange(width, dtype=torch.float64)).expand(height, -1) / radius
        dy = (y - torch.arange(height, dtype=torch.float64))[:, None].expand(-1, width) / radius
        towards = torch.stack([dx, dy]) * torch.exp(-(dx.square() + dy.square()) / 2)
        shapes = self.spectral.to("cpu", torch.complex128).conj()
        drawn = torch.einsum("kchw,chw->k", shapes, towards.to(shapes)) * self._swings
        # Over one side of the pointer, r exp(-r² / 2) across it sums up to √(2π) radius².
        unit = math.sqrt(2 * math.pi) * radius**2 * max(self.reach(), 1e-300) ** 2
        self._force = drawn * (strength / unit)

    def step(
        self, dt: float, *, wind: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        """Advance by ``dt`` seconds, exactly for any dt; a held picture does not move.

        ``wind`` (≥ 0) is the strength of random forcing, white noise in every mode: the RMS of
        every |q| that it keeps up in the long run; 2 is the amplitude of the volume itself. An
        undamped mode takes up no wind.
        """
        valid = math.isfinite(dt) and dt >= 0 and math.isfinite(wind) and wind >= 0
        require(valid, f"dt is {dt} and wind {wind}; both must be numbers of at least 0")
        swings = self._swings
        if self._held is not None or not swings.any():
            return
        omega, state = self.omega[swings], self._state[swings]
        matrices = exact_step(omega, self.damping[swings], dt)
        balance = torch.zeros_like(state)
        balance[:, 0] = self._force[swings] / omega.square()
        state = (matrices.to(state.dtype) @ (state - balance)[..., None])[..., 0] + balance
        if wind > 0:
            factor = _noise_factor(omega, matrices, wind)
            noise = torch.randn(len(omega), 2, 2, generator=generator, dtype=torch.float64)
            state = state + torch.view_as_complex((factor @ noise).contiguous())
        self._state[swings] = state

    def displacement(self) -> Float[Tensor, "2 height width"]:
        """Return the displacement of every pixel, (dx right, dy down) in px."""
        q = self.modal_coords.to(self.spectral.device, self.spectral.dtype)
        return torch.einsum("kchw,k->chw", self.spectral, q).real.contiguous()

    def displacement_at(self, x: float, y: float) -> Float[Tensor, " 2"]:
        """Return the displacement of one place in px, float64."""
        return (self.mode_at(x, y) * self.modal_coords[:, None]).sum(0).real

    def energy(self) -> float:
        """Return ``½ Σ (|q̇|² + ω² |q|²)``, kinetic plus elastic; never grows by itself."""
        speed, stretch = self.modal_velocity.abs(), self.omega * self.modal_coords.abs()
        return float(0.5 * (speed.square() + stretch.square()).sum())


def _check_finite(**numbers: float) -> None:
    for name, value in numbers.items():
        require(math.isfinite(value), f"{name} is {value}; it must be a finite number")


def _softening(mobility: Tensor, along: Tensor, limit: float) -> float:
    """Return the least μ ≥ 0 for which weights along / (mobility + μ) give |q| ≤ limit.

    The q of least distance to the target within a ball has this form, as in a trust region.
    """

    def norm(softening: float) -> float:
        weights = torch.where(mobility > 0, along / (mobility + softening), 0)
        return float((mobility * weights.square()).sum().sqrt())

    if norm(0.0) <= limit:
        return 0.0
    low, high = 0.0, float(mobility.sum().sqrt() * along.norm() / limit)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if norm(middle) > limit else (low, middle)
    return high


def _noise_factor(omega: Tensor, matrices: Tensor, wind: float) -> Float[Tensor, "modes 2 2"]:
    """Return Cholesky factors of what white noise adds to (q, q̇) in a step, per real part.

    White noise keeps up a known covariance P = diag(s², ω² s²); a step shrinks it to Φ P Φᵀ, and
    the noise must make up the difference, whatever dt.
    """
    kept = torch.zeros_like(matrices)
    kept[:, 0, 0] = wind**2 / 2
    kept[:, 1, 1] = omega.square() * wind**2 / 2
    added = kept - matrices @ kept @ matrices.mT
    first = added[:, 0, 0].clamp(min=0).sqrt()
    below = torch.where(first > 0, added[:, 1, 0] / first, 0)
    second = (added[:, 1, 1] - below.square()).clamp(min=0).sqrt()
    rows = [first, torch.zeros_like(first), below, second]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))
