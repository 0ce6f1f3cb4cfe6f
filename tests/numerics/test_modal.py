"""Modal dynamics against closed forms: oscillators, least norm, energy, stationary noise."""

import math

import pytest
import torch
from typecheck import unchecked

from gidlite.dynamics.modal import ModalSystem, dominant_modes, exact_step
from gidlite.errors import GidliteError, ShapeError
from gidlite.motion.spectral import spectral_to_motion

EXACT = {"atol": 1e-11, "rtol": 1e-11}


@pytest.fixture
def modes(generator) -> torch.Tensor:
    return torch.randn(5, 2, 6, 8, dtype=torch.complex128, generator=generator)


@pytest.fixture
def system(modes) -> ModalSystem:
    return ModalSystem(modes, frequencies_hz=torch.arange(5) * 0.6, damping=0.05)


def pixel(system: ModalSystem, x: int, y: int) -> list[float]:
    return system.displacement()[:, y, x].tolist()


@pytest.mark.parametrize("dt", [1e-3, 1 / 30, 0.7, 40.0])
@pytest.mark.parametrize("damping", [0.0, 0.05, 0.9])
def test_step_is_the_closed_form_of_a_damped_oscillator(dt, damping):
    omega, start, speed = 2 * math.pi * 1.3, 0.8, -2.1
    ringing, decay = omega * math.sqrt(1 - damping**2), damping * omega
    envelope = math.exp(-decay * dt)
    other = (speed + decay * start) / ringing
    angle = ringing * dt
    position = envelope * (start * math.cos(angle) + other * math.sin(angle))
    rate = envelope * ringing * (other * math.cos(angle) - start * math.sin(angle))
    system = ModalSystem(
        torch.ones(1, 2, 2, 2, dtype=torch.complex128),
        frequencies_hz=torch.tensor([1.3], dtype=torch.float64),
        damping=damping,
    )
    system.modal_coords = torch.tensor([start], dtype=torch.float64)
    system.modal_velocity = torch.tensor([speed], dtype=torch.float64)
    system.step(dt)
    expected = torch.tensor([position, rate - decay * position], dtype=torch.float64)
    actual = torch.stack([system.modal_coords, system.modal_velocity])[:, 0].real
    torch.testing.assert_close(actual, expected, **EXACT)


def test_steps_compose(system):
    """One long step equals many short ones, with a steady force as well."""
    system.drag(x=3, y=2, dx=4.0, dy=-1.0)
    system.release()
    system.pull(x=1, y=1, ax=5.0, ay=2.0)
    start = system._state.clone()
    system.step(2.0)
    once = system._state.clone()
    system._state = start
    for _ in range(64):
        system.step(2.0 / 64)
    torch.testing.assert_close(system._state, once, **EXACT)


def test_undamped_modes_replay_the_volume(modes):
    """With q = 2 and q̇ = 2iω the displacement is the spectral volume's own motion."""
    hertz = torch.arange(5, dtype=torch.float64) * 30 / 60
    system = ModalSystem(modes, frequencies_hz=hertz, damping=0.0)
    system.modal_coords = torch.full((5,), 2.0 + 0j)
    system.modal_velocity = 2j * 2 * math.pi * hertz
    system.step(7.25 / 30)
    still = modes.clone()
    still[0] = 0
    motion = spectral_to_motion(still, num_frames=60, times=torch.tensor([7.25]).double())
    torch.testing.assert_close(system.displacement(), motion[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (7, 5), (3, 2), (2.25, 4.5)])
def test_held_pixel_is_exactly_at_the_pointer(system, x, y):
    system.drag(x=x, y=y, dx=17.5, dy=-40.0)
    expected = torch.tensor([17.5, -40.0], dtype=torch.float64)
    torch.testing.assert_close(system.displacement_at(x, y), expected, **EXACT)
    system.step(1.0)
    torch.testing.assert_close(system.displacement_at(x, y), expected, **EXACT)


def test_drag_is_the_least_norm_solution(system):
    system.drag(x=3, y=2, dx=2.0, dy=3.0)
    shape = system.mode_at(3, 2)
    matrix = torch.cat([shape.real, -shape.imag]).T
    least = torch.linalg.pinv(matrix) @ torch.tensor([2.0, 3.0], dtype=torch.float64)
    expected = torch.complex(least[:5], least[5:])
    torch.testing.assert_close(system.modal_coords, expected, **EXACT)
    assert system.modal_coords[0] == 0, "bin 0 has no restoring force"


def test_degenerate_pixels(system):
    still, line = system.spectral[..., 0, 0], system.spectral[..., 1, 1]
    still.zero_()
    line[:, 1] = 2 * line[:, 0]
    system.drag(x=0, y=0, dx=50.0, dy=50.0)
    assert system.energy() == 0
    system.drag(x=1, y=1, dx=5.0, dy=0.0)  # the line is (1, 2): closest point (1, 2)
    torch.testing.assert_close(
        system.displacement_at(1, 1), torch.tensor([1.0, 2.0]).double(), **EXACT
    )
    line[:, 1] = 2 * line[:, 0] * (1 + 1e-4 * torch.arange(5))  # barely not a line: still exact
    system.drag(x=1, y=1, dx=5.0, dy=0.0)
    torch.testing.assert_close(
        system.displacement_at(1, 1), torch.tensor([5.0, 0.0]).double(), atol=1e-5, rtol=0
    )


def test_limit_bounds_every_pixel_and_is_the_closest_within(system):
    system.drag(x=3, y=2, dx=30.0, dy=-10.0, limit=6.0)
    assert system.displacement().norm(dim=0).max() <= 6 + 1e-9
    radius = 6.0 / system.reach()
    torch.testing.assert_close(system.modal_coords.norm().item(), radius, **EXACT)
    target = torch.tensor([30.0, -10.0], dtype=torch.float64)
    best = (system.displacement_at(3, 2) - target).norm()
    q = system.modal_coords.clone()
    for _ in range(200):
        other = q + 0.05 * radius * torch.randn(5, dtype=torch.complex128)
        system.modal_coords = other * (radius / other.norm()).clamp(max=1)
        assert (system.displacement_at(3, 2) - target).norm() >= best - 1e-9
    system.drag(x=3, y=2, dx=0.1, dy=0.0, limit=6.0)
    torch.testing.assert_close(
        system.displacement_at(3, 2), torch.tensor([0.1, 0.0]).double(), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("dt", [1e-3, 1 / 30, 0.31, 1e3])
def test_energy_never_grows_without_force(system, dt):
    system.drag(x=3, y=2, dx=4.0, dy=-1.0)
    system.release(vx=100.0, vy=-30.0)
    before = system.energy()
    for _ in range(300):
        system.step(dt)
        after = system.energy()
        assert after <= before * (1 + 1e-12)
        before = after


def test_energy_is_lost_at_the_rate_of_the_damping_work(system):
    system.drag(x=3, y=2, dx=4.0, dy=-1.0)
    system.release()
    system.step(0.2)
    before, dt = system.energy(), 1e-5
    power = -(2 * system.damping * system.omega * system.modal_velocity.abs().square()).sum()
    system.step(dt)
    assert (system.energy() - before) / dt == pytest.approx(float(power), rel=1e-3)


def test_rest_stays_at_rest_and_ringing_dies_out(system):
    system.step(5.0)
    assert system.energy() == 0
    system.drag(x=3, y=2, dx=4.0, dy=-1.0)
    system.release()
    system.step(60.0)
    assert system.displacement().abs().max() < 1e-3


def test_release_at_rest_keeps_place_and_starts_without_speed(system):
    system.drag(x=3, y=2, dx=4.0, dy=-1.0)
    before = system.displacement()
    system.release()
    torch.testing.assert_close(system.displacement(), before)
    dt = 1e-4
    system.step(dt)
    assert (system.displacement() - before).abs().max() / dt < 0.5  # px/s: starts from rest


def test_impulse_gives_velocity_at_the_pixel_and_moves_nothing_at_once(system):
    system.impulse(x=3, y=2, vx=50.0, vy=20.0)
    assert system.displacement().abs().max() == 0
    system.step(1e-6)
    speed = system.displacement_at(3, 2) / 1e-6
    torch.testing.assert_close(speed, torch.tensor([50.0, 20.0]).double(), rtol=1e-4, atol=0)


def test_steady_pull_settles_at_its_static_displacement(system):
    system.pull(x=3, y=2, ax=9.0, ay=4.0)
    system.step(200.0)
    shape, omega = system.mode_at(3, 2)[1:], system.omega[1:]
    weight = torch.linalg.solve(
        torch.einsum("ka,kb->ab", shape, shape.conj()).real, torch.tensor([9.0, 4.0]).double()
    )
    expected = (shape * (shape.conj() @ weight.to(shape.dtype) / omega**2)[:, None]).sum(0).real
    torch.testing.assert_close(system.displacement_at(3, 2), expected, atol=1e-8, rtol=0)


def test_one_side_of_the_pointer_is_attracted_as_stated():
    """What fills the right half swings along (1, 0.5): its acceleration and place at rest."""
    modes = torch.zeros(1, 2, 120, 160, dtype=torch.complex128)
    modes[0, :, :, 80:] = 3 * torch.tensor([[[1.0]], [[0.5]]])
    system = ModalSystem(modes, frequencies_hz=torch.tensor([0.7]), damping=0.2)
    system.attract(x=79.5, y=60.0, strength=40.0, radius=9.0)
    system.step(1e-4)
    # Drawn along -x only, it moves along its line: 1 of the mobility 1 + 0.25 answers.
    expected = -40 / 1.25 * torch.tensor([1.0, 0.5], dtype=torch.float64)
    found = 2 * system.displacement_at(120, 30) / 1e-8
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)
    system.step(300.0)
    still = expected / (2 * math.pi * 0.7) ** 2
    torch.testing.assert_close(system.displacement_at(120, 30), still, rtol=2e-3, atol=0)
    system.attract(x=79.5, y=60.0, strength=0.0, radius=9.0)
    system.step(300.0)
    assert system.displacement().abs().max() < 1e-9


def test_attraction_is_the_sum_over_pixels_and_its_potential_only_falls(system):
    x, y, strength, radius = 3.2, -1.5, 60.0, 2.5
    force = torch.zeros(5, dtype=torch.complex128)
    for row in range(6):
        for column in range(8):
            shape = system.mode_at(column, row)
            away = torch.tensor([column - x, row - y], dtype=torch.float64) / radius
            pull = -away * torch.exp(-away.square().sum() / 2)
            force += (shape.conj() * pull).sum(1)
    force *= strength / (math.sqrt(2 * math.pi) * radius**2 * system.reach() ** 2)
    system.impulse(x=3, y=2, vx=20.0, vy=5.0)
    system.attract(x=x, y=y, strength=strength, radius=radius)
    torch.testing.assert_close(system._force, force, **EXACT)
    held = lambda: system.energy() - float((force.conj() * system.modal_coords).real.sum())  # noqa: E731
    before = held()
    for _ in range(100):
        system.step(0.07)
        assert held() <= before + 1e-12
        before = held()


@pytest.mark.parametrize("dt", [0.05, 3.0])
def test_wind_keeps_up_the_stated_amplitude_at_any_step(dt, generator):
    many = torch.ones(2000, 2, 1, 1, dtype=torch.complex64)
    system = ModalSystem(many, frequencies_hz=torch.full((2000,), 0.5), damping=0.3)
    for _ in range(200 if dt < 0.1 else 20):
        system.step(dt, wind=2.0, generator=generator)
    assert system.modal_coords.abs().square().mean().sqrt() == pytest.approx(2.0, rel=0.05)
    speed = system.modal_velocity.abs().square().mean().sqrt()
    assert speed == pytest.approx(2.0 * math.pi, rel=0.05)


def test_explicit_euler_blows_up_as_the_module_says():
    omega, damping, dt = 2 * math.pi * 3, 0.05, 1 / 30
    q, rate = 1.0, 0.0
    for _ in range(150):
        q, rate = q + dt * rate, rate - dt * (2 * damping * omega * rate + omega**2 * q)
    assert 1e9 < math.hypot(q, rate / omega) < 4e9
    one, half = torch.ones(1).double(), torch.full((1,), damping).double()
    exact = torch.linalg.matrix_power(exact_step(omega * one, half, dt), 150)
    assert exact.abs().max() < omega * math.exp(-damping * omega * 5) * 1.1


def test_dominant_modes_are_the_fastest_moving():
    spectral = torch.zeros(4, 2, 2, 2, dtype=torch.complex64)
    spectral[:] = torch.tensor([9.0, 4.0, 1.0, 1.5]).view(4, 1, 1, 1)
    hertz = torch.tensor([0.0, 0.2, 0.4, 0.6])
    assert dominant_modes(spectral, frequencies_hz=hertz, count=2) == [1, 3]
    assert dominant_modes(spectral, frequencies_hz=hertz, count=9) == [1, 2, 3]


def test_refusals(modes, system):
    hertz = torch.ones(5)
    with pytest.raises(ShapeError, match="one frequency for each of 5 modes"):
        unchecked(ModalSystem)(modes, frequencies_hz=torch.ones(4))
    for damping in (1.0, -0.1, math.nan):
        with pytest.raises(GidliteError, match="ratio must lie between 0 and 1"):
            ModalSystem(modes, frequencies_hz=hertz, damping=damping)
    with pytest.raises(GidliteError, match="must be finite"):
        ModalSystem(modes * math.nan, frequencies_hz=hertz)
    with pytest.raises(GidliteError, match="outside the 8×6 picture"):
        system.drag(x=8, y=0, dx=1, dy=0)
    with pytest.raises(GidliteError, match="dx is nan"):
        system.drag(x=1, y=0, dx=math.nan, dy=0)
    with pytest.raises(GidliteError, match="limit is 0"):
        system.drag(x=1, y=0, dx=1, dy=0, limit=0)
    with pytest.raises(GidliteError, match="at least 0"):
        system.step(-0.1)
    for strength, radius in ((-1, 5), (1, 0)):
        with pytest.raises(GidliteError, match="at least 0 and positive"):
            system.attract(x=1, y=1, strength=strength, radius=radius)
