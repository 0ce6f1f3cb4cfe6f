"""Flow, metrics, the synthetic world and the renderer against known motion."""

import math

import pytest
import torch
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio

from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError
from gidlite.evaluate import endpoint_error
from gidlite.media import write_video
from gidlite.motion import SpectralVolume
from gidlite.motion.flow import motion_texture, optical_flow
from gidlite.motion.spectral import anchor, motion_to_spectral, spectral_to_motion
from gidlite.render import close_for, frame_times, reanimate, render_frames


def psnr(image, reference):
    return peak_signal_noise_ratio(image, reference, data_range=1.0).item()


def analytic_texture(x, y, generator_seed=0):
    """A band-limited picture that can be read at any real position."""
    g = torch.Generator().manual_seed(generator_seed)
    picture = torch.zeros_like(x)
    for _ in range(40):
        fx, fy, phase = (torch.rand(3, generator=g) * torch.tensor([0.9, 0.9, 6.3])).tolist()
        picture = picture + torch.cos(fx * x + fy * y + phase) + torch.cos(fx * x - fy * y + phase)
    return (0.5 + picture / 40).clamp(0, 1).expand(3, -1, -1)


@pytest.mark.parametrize(("shift", "limit"), [(0.5, 0.06), (1.0, 0.08), (2.0, 0.1), (4.0, 0.15)])
def test_flow_of_a_translation(shift, limit):
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    truth = torch.tensor([0.8 * shift, -0.6 * shift])[:, None, None].expand(2, 96, 128)
    source, target = analytic_texture(x, y), analytic_texture(x - truth[0], y - truth[1])
    found = optical_flow(source, target)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert endpoint_error(found[inner], truth[inner]) < limit


def test_long_oscillation_does_not_drift():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    path = 4 * torch.sin(2 * math.pi * torch.arange(60.0) / 30)
    frames = torch.stack([analytic_texture(x - p, y) for p in path])
    observed = motion_texture(frames)
    assert observed.motion[0].abs().max() == 0
    found = observed.motion[:, 0, 12:-12, 12:-12].mean(dim=(1, 2))
    assert (found - path).abs().max() < 0.25
    assert observed.reliable[12:-12, 12:-12].float().mean() > 0.9


def test_a_flat_picture_is_not_reliable():
    assert not motion_texture(torch.full((3, 3, 40, 40), 0.5)).reliable.any()
    with pytest.raises(GidliteError, match="at least 2 frames"):
        motion_texture(torch.zeros(1, 3, 40, 40))


@pytest.fixture(scope="module")
def scenes():
    generator = torch.Generator().manual_seed(3)
    pieces = Pieces.painted(count=12, generator=generator)
    return make_scenes(3, pieces, height=96, width=128, generator=generator)


def test_whole_chain_from_video_to_video(scenes):
    """Frames → flow → 16 frequencies → splat comes closer than holding still."""
    count = 60
    real = torch.stack([scenes.frame(t)[0] for t in range(count)])
    observed = motion_texture(real)
    volume = SpectralVolume(motion_to_spectral(observed.motion, num_frequencies=16), count)
    times = torch.arange(count, dtype=torch.float64)
    rendered = torch.stack(list(render_frames(real[0], volume, times)))
    assert psnr(rendered, real) > psnr(real[:1].expand_as(real), real) + 1


def valid_ssim(frames, real):
    """Oracle, Wang et al. 2004: mean over the places where an 11×11 window (σ = 1.5) fits."""
    line = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2)[None, None]
    x, y = (z.double().reshape(-1, 1, *z.shape[-2:]) / 255 for z in (frames, real))
    means = [functional.conv2d(z, window.double()) for z in (x, y, x * x, y * y, x * y)]
    mean_x, mean_y, square_x, square_y, both = means
    top = (2 * mean_x * mean_y + 0.01**2) * (2 * (both - mean_x * mean_y) + 0.03**2)
    bottom = mean_x**2 + mean_y**2 + 0.01**2, square_x - mean_x**2 + square_y - mean_y**2 + 0.03**2
    return (top / (bottom[0] * bottom[1])).mean().item()


def test_a_reanimated_clip_is_compared_inside_its_border(scenes, tmp_path):
    frames = torch.stack([scenes.frame(t)[0] for t in range(12)])
    frames[1:, :, :3] *= 0.5  # a border that no motion explains
    write_video(tmp_path / "clip.mp4", (frames * 255).byte(), fps=12)
    result = reanimate(tmp_path / "clip.mp4", num_frequencies=4, width=128)
    real, still = result.real[1:], result.real[:1].expand_as(result.real[1:])
    assert result.ssim == pytest.approx(valid_ssim(result.rendered[1:], real), abs=1e-4)
    assert result.still_ssim == pytest.approx(valid_ssim(still, real), abs=1e-4)


def test_rendering_no_motion_returns_the_photo(generator):
    image = torch.rand(3, 40, 60, generator=generator)
    still = SpectralVolume(torch.zeros(4, 2, 10, 15, dtype=torch.complex64))
    frame = next(render_frames(image, still, torch.tensor([7.0])))
    assert psnr(frame, image) > 45


def test_a_constant_picture_has_no_dark_holes(generator):
    volume = anchor(torch.randn(4, 2, 10, 15, dtype=torch.complex64, generator=generator))
    frames = render_frames(
        torch.ones(3, 40, 60), SpectralVolume(volume), torch.tensor([20.0, 75.0])
    )
    assert all(frame.min() > 0.999 for frame in frames)


def test_loop_times_hold_whole_periods():
    volume = SpectralVolume(torch.zeros(4, 2, 2, 2, dtype=torch.complex64))
    for options in ({}, {"seconds": 5.2}, {"seconds": 10, "fps": 24}, {"slow": 2.0}):
        times = frame_times(volume, **options)
        after_last = times[-1] + times[1]
        assert (after_last / 150).item() == pytest.approx(
            round((after_last / 150).item()), abs=1e-9
        )
    assert frame_times(volume, slow=2.0)[1].item() == pytest.approx(0.5)
    free = frame_times(volume, seconds=7, loop=False)
    assert len(free) == 210 and free[1] == 1
    with pytest.raises(GidliteError, match="positive"):
        frame_times(volume, seconds=float("nan"))


def test_a_loop_has_no_seam(generator):
    volume = SpectralVolume(torch.randn(16, 2, 3, 3, dtype=torch.complex64, generator=generator))
    times = frame_times(volume, seconds=4)
    closed = close_for(volume, times)
    motion = spectral_to_motion(closed.spectral, num_frames=150, times=times)
    steps = (motion.roll(-1, 0) - motion).abs().mean(dim=(1, 2, 3))
    assert steps[-1] < 1.5 * steps[:-1].max()
