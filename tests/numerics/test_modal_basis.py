"""A photo's own modes under a hand: bodies of a synthetic basis, answers known exactly."""

import pytest
import torch

from gidlite.dynamics.modal import ModalSystem, chief_modes, tuned_by_size
from gidlite.motion import ModalBasis

LEFT, RIGHT = slice(4, 20), slice(40, 44)  # a large body and a small, calmer one


@pytest.fixture
def basis() -> ModalBasis:
    """Two real shapes, along x and along y, for each of two bodies; nothing else moves."""
    modes = torch.zeros(2, 2, 24, 48, dtype=torch.complex64)
    for k, (body, far) in enumerate(((LEFT, 3.0), (RIGHT, 0.5))):
        modes[k, :, 4 : 20 if k == 0 else 8, body] = far * torch.tensor([1.0, 1j])[:, None, None]
    return ModalBasis(modes, torch.full((2,), 1.5))


@pytest.mark.parametrize(("x", "body"), [(10, LEFT), (42, RIGHT)])
def test_a_dragged_body_follows_as_a_whole_and_no_other_moves(basis, x, body):
    system = ModalSystem(basis.spectral, frequencies_hz=basis.frequencies_hz)
    system.drag(x=x, y=6, dx=12.0, dy=-7.0)
    belongs = basis.spectral[:, 0].abs().sum(0) > 0
    belongs &= torch.zeros(24, 48, dtype=torch.bool).index_fill_(
        1, torch.arange(48)[body], torch.tensor(True)
    )
    expected = torch.tensor([12.0, -7.0])[:, None, None] * belongs
    torch.testing.assert_close(system.displacement(), expected, atol=1e-5, rtol=0)
    system.release()
    system.step(0.4)
    assert system.displacement()[:, ~belongs].abs().max() < 1e-6, "nor does it ring"


def test_the_only_shape_of_a_small_thing_comes_before_the_second_of_a_large_one(basis):
    second = basis.spectral[:1] * 0.7  # slighter, but it has far more power than the small body
    crowded = ModalBasis(torch.cat([second, basis.spectral]), torch.full((3,), 1.5))
    assert chief_modes(crowded, count=2) == [1, 2]
    assert chief_modes(crowded, count=9) == [0, 1, 2]
    still = ModalBasis(
        crowded.spectral * torch.tensor([1, 1, 1e-3]).view(3, 1, 1, 1), torch.ones(3)
    )
    assert chief_modes(still, count=2) == [0, 1], "what moves invisibly comes last"


def test_small_things_swing_faster_by_the_root_of_their_size(basis):
    hertz = tuned_by_size(basis)
    # Sides 16 and 4: the geometric mean stays, and the ratio is the root of 4.
    torch.testing.assert_close(hertz, 1.5 * torch.tensor([2**-0.5, 2**0.5]))
    uneven = ModalBasis(basis.spectral[:, :, :, :44], torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(
        tuned_by_size(uneven)[1] / tuned_by_size(uneven)[0], torch.tensor(4.0)
    )
