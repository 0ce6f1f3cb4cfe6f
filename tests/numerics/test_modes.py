"""A photo's own modes: the exact likelihood, what shapes and levels promise, and the drawer."""

import math
from dataclasses import replace

import pytest
import torch

from gidlite.prior.denoiser import COORDINATIONS
from gidlite.prior.drawer import Drawer, ModesPrior
from gidlite.prior.modes import (
    STILL,
    UNEXPLAINED,
    Evidence,
    ModesNet,
    gather_parts,
    scene_amount,
    split_volume,
    square_distances,
    swing_axis,
    total_level,
)
from gidlite.train.modes import at_cells, draw_cells, level_loss, pairs_loss, things_loss

BINS, PARTS, EACH = 4, 5, 2


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def net() -> ModesNet:
    torch.manual_seed(0)
    net = ModesNet(BINS + 1, PARTS, EACH).eval().requires_grad_(False)
    net.scale.copy_(torch.tensor([0.2, 0.1, 0.05, 0.02]))
    net.scale /= (8 * net.scale.square().sum()).sqrt()
    for head in (net.mix, net.envelope):
        torch.nn.init.normal_(head[1].weight, std=0.2)
    return net


@pytest.fixture(scope="module")
def modes(net):
    photo = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    return net(photo)


def white(generator, scenes: int = 2) -> torch.Tensor:
    return torch.randn(scenes, BINS, 2, PARTS * EACH, generator=generator)


def test_what_a_photo_says_is_normalized(modes):
    assert modes.shapes.shape == (2, PARTS * EACH, 2, 16, 24)
    power = modes.shapes.square().sum((1, 2)) / 2
    torch.testing.assert_close(power, torch.ones_like(power))
    torch.testing.assert_close(modes.parts.sum(1), torch.ones(2, 16, 24))
    kept = (modes.scale.square() * modes.envelope.square()).sum(-1) / modes.scale.square().sum()
    torch.testing.assert_close(kept, torch.ones_like(kept))
    assert modes.envelope.std() > 0.05 and modes.level.min() > 0


def test_the_level_is_the_expected_displacement(modes, generator):
    """White coordinates move every cell by its level times the amount, in the mean of squares."""
    amount = torch.tensor([2.0, 5.0])
    draws = [total_level(modes.compose(white(generator), amount)).square() for _ in range(400)]
    found = torch.stack(draws).mean(0).sqrt()
    ratio = found / (modes.level * amount[:, None, None])
    assert ratio.mean().item() == pytest.approx(1, abs=0.01) and (ratio - 1).abs().max() < 0.25


def test_the_likelihood_is_that_of_a_dense_gaussian(modes, generator):
    motion = modes.compose(white(generator), torch.tensor([3.0, 1.0]))
    motion = motion + 0.05 * torch.randn(motion.shape, generator=generator)
    reliable = (torch.rand(2, 16, 24, generator=generator) > 0.2).float()
    evidence = Evidence(modes, motion, reliable)
    total = total_level(motion)
    own = total + STILL * scene_amount(total, reliable)[:, None, None]
    for scene in range(2):
        weight, surprise = evidence.weight[scene], 0.0
        for number in range(BINS):
            shapes = (
                modes.shapes[scene] * weight * modes.envelope[scene, :, number, None, None, None]
            )
            rows = shapes.flatten(1).double()
            noise = UNEXPLAINED**2 * torch.eye(rows.shape[1], dtype=torch.float64)
            covariance = rows.T @ rows + noise
            free = rows.shape[1] * math.log(UNEXPLAINED**2)
            for part in range(2):
                y = motion[scene, part, number] / own[scene] / modes.scale[number] * weight
                y = y.clamp(-8 * UNEXPLAINED, 8 * UNEXPLAINED).flatten().double()
                surprise += 0.5 * (y @ torch.linalg.solve(covariance, y))
                surprise += 0.5 * (torch.logdet(covariance) - free)
        count = 2 * BINS * (2 * weight.square().sum() + 50)
        assert evidence.surprise()[scene].item() == pytest.approx(
            (surprise / count).item(), rel=1e-4
        )


def test_the_posterior_is_exact(modes, generator):
    """Its mean explains the motion; without evidence, draws are white."""
    coords = white(generator)
    motion = modes.compose(coords, torch.tensor([3.0, 1.0]))
    evidence = Evidence(modes, motion, torch.ones(2, 16, 24))
    # The level of one motion is not the expected one, so compare what moves how, not how much.
    again = modes.compose(evidence.draw(), torch.tensor([3.0, 1.0]))
    ours, theirs = (v.flatten(1) / v.flatten(1).norm(dim=1, keepdim=True) for v in (again, motion))
    assert ((ours * theirs).sum(1) > 0.8).all()
    blind = Evidence(modes, motion, torch.zeros(2, 16, 24))
    noise = torch.randn(2, BINS, PARTS * EACH, 2, generator=generator)
    torch.testing.assert_close(blind.draw(noise), noise.mT)
    assert blind.surprise().abs().max() < 1e-6


def test_somebody_elses_modes_surprise_more(modes, generator):
    motion = modes.compose(white(generator), torch.tensor([2.0, 2.0]))
    other = replace(modes, shapes=modes.shapes.roll(5, 3).flip(0))
    reliable = torch.ones(2, 16, 24)
    gain = (
        Evidence(other, motion, reliable).surprise() - Evidence(modes, motion, reliable).surprise()
    )
    assert gain.min() > 0.01


def test_volumes_are_split_cell_by_cell(generator):
    real = torch.randn(1, 3, 2, 32, 48, generator=generator)
    spectral = torch.complex(real, 2 * real)
    motion = split_volume(spectral, (16, 24))
    assert motion.shape == (1, 2, 2, 2, 16, 24)
    torch.testing.assert_close(motion[:, 1], 2 * motion[:, 0])
    torch.testing.assert_close(motion[0, 0, :, :, 3, 4], real[0, 1:, :, 7, 9] * 2)


def test_amounts_are_quantiles(modes):
    assert (
        modes.draw_amount(torch.zeros(2)).tolist() == modes.draw_amount(torch.ones(2), 0.5).tolist()
    )
    amounts = [
        modes.draw_amount(torch.zeros(2), wind)[0].item() for wind in (0, 0.15, 0.5, 0.85, 1)
    ]
    assert amounts == sorted(amounts) and all(map(math.isfinite, amounts))
    spread = modes.amount[0, 1].exp().clamp(0.02, 4).sqrt().item()
    assert math.log(amounts[3] / amounts[2]) == pytest.approx(1.0364 * spread, rel=1e-3)


def test_the_losses_know_the_truth(generator):
    level = torch.rand(2, 16, 24, generator=generator)
    reliable = torch.ones_like(level)
    true = level / scene_amount(level, reliable)[:, None, None]
    assert (
        level_loss(true, level, reliable) < 1e-6 < 0.1 < level_loss(level.flip(2), level, reliable)
    )
    # Two bodies, each of one motion: parts that are the bodies, all one, or halves across.
    body = torch.zeros(1, 16, 24, dtype=torch.long)
    body[..., 12:] = 1
    series = torch.randn(1, 2, 12, 2, 2, generator=generator)
    motion = series[..., 0, None, None] * (body == 0)[:, None, None, None]
    motion = motion + series[..., 1, None, None] * (body == 1)[:, None, None, None]

    cells = draw_cells(total_level(motion), torch.Generator().manual_seed(0))
    series = at_cells(motion, cells)
    axis = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    straight = (axis[body] * 2**0.5).movedim(-1, 1)[:, None]

    def losses(parts: torch.Tensor) -> list[float]:
        shares = torch.nn.functional.one_hot(parts, 4).movedim(-1, 1).float()
        shapes, about = (at_cells(m, cells) for m in (shares[:, :, None] * straight, 3 * shares))
        found = things_loss(square_distances(about, about), series), pairs_loss(shapes, seen)
        return [value.item() for value in found]

    # Each body swings along its own axis.
    seen = at_cells(motion[:, :, :, :1] * straight[:, :, None], cells)
    across = (torch.arange(16)[:, None] > 7).long().expand(1, 16, 24)
    right, joined, halves = map(losses, (body, torch.zeros_like(body), across))
    assert right[0] < 0.01 < 1 < min(joined[0], halves[0])
    assert right[1] < 0.05 < 0.3 < min(joined[1], halves[1])


@pytest.mark.parametrize("coordination", COORDINATIONS)
def test_bins_hear_of_each_other_only_if_coordinated(coordination, generator):
    torch.manual_seed(0)
    drawer = Drawer(
        BINS + 1, PARTS, EACH, features=7, width=16, layers=2, coordination=coordination
    )
    bins, condition = torch.arange(BINS)[None], torch.randn(1, PARTS, 7, generator=generator)
    noisy, step = white(generator, 1), torch.tensor([500])
    assert (drawer(noisy, step, bins, condition) == 0).all()  # untrained, coordinates stay white
    for name, value in drawer.named_parameters():
        if "modulate" in name or "leave" in name:
            torch.nn.init.normal_(value, std=0.3)
    changed = noisy.clone()
    changed[:, 2] += 1
    gap = (drawer(noisy, step, bins, condition) - drawer(changed, step, bins, condition)).abs()
    heard = gap.amax((0, 2, 3)) > 1e-6
    assert heard.tolist() == [coordination != "independent"] * 2 + [
        True,
        coordination != "independent",
    ]


def test_a_basis_has_the_shapes_in_pairs(net, modes):
    shapes, places = modes.basis()
    assert shapes.shape == (PARTS * EACH // 2, 2, 16, 24) and shapes.is_complex()
    torch.testing.assert_close(shapes[1].real, modes.shapes[0, 2] * modes.level[0])
    torch.testing.assert_close(shapes[1].imag, modes.shapes[0, 3] * modes.level[0])
    assert (places >= 1).all() and (places <= BINS).all()


def test_the_axis_of_a_swing():
    """Along x, along y, along a diagonal, and in a circle."""
    moves = torch.tensor([[[1.0, 0, 1, 1], [0, 1, 1, 0]], [[2, 0, 3, 0], [0, -3, 3, 1]]])[None]
    expected = torch.tensor([[[1.0, -1, 0, 0], [0, 0, 1, 0]]])
    torch.testing.assert_close(swing_axis(moves), expected)
    assert (swing_axis(torch.zeros(1, 2, 2, 4)) == 0).all()


def test_parts_gather_around_things():
    """Three flat things, of which one stands still: what moves is told apart first."""
    thing = torch.zeros(1, 12, 18, dtype=torch.long)
    thing[..., 6:], thing[..., 12:] = 1, 2
    embedding = 3.0 * torch.nn.functional.one_hot(thing, 4).movedim(-1, 1).float()
    level = torch.tensor([1.0, 0.0, 0.6])[thing]
    parts = gather_parts(embedding, level, 5)
    torch.testing.assert_close(parts.sum(1), torch.ones(1, 12, 18))
    owners = [set(parts.argmax(1)[thing == n].tolist()) for n in range(3)]
    assert owners[0] == {0} and owners[2] == {1} and owners[1] == {2}
    assert parts.amax(1).min() > 0.99


def test_a_region_holds_its_point(net):
    prior = ModesPrior(net, Drawer(BINS + 1, PARTS, EACH))
    level, (region,) = prior.things(torch.rand(1, 3, 64, 96), [(0.5, 0.25)])
    assert level.shape == region.shape == (16, 24)
    assert region[4, 12].item() == pytest.approx(1) and 0 <= region.min() <= region.max() <= 1
