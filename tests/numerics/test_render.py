"""The renderer: what must hold whatever the network has learned."""

import threading

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from gidlite import render
from gidlite.data.pairs import Pair, PairFolder
from gidlite.errors import GidliteError
from gidlite.motion import SpectralVolume
from gidlite.render import render_frame, render_frames
from gidlite.render.network import REACH, NeuralRenderer, SynthesisNet, load_renderer, motion_gate
from gidlite.render.photo import GuidedUpsampling, halve, splat_photo
from studies.renderer_pairs import write_pairs


def untrained(seed=0):
    """A network whose last layer is not 0, as it is before training."""
    torch.manual_seed(seed)
    net = SynthesisNet((8, 8, 8)).eval().requires_grad_(False)
    torch.nn.init.normal_(net.out.weight, std=0.05)
    torch.nn.init.normal_(net.order[-1].weight, std=0.3)
    return net


def smooth(generator, channels, height, width, cell=16):
    """Random maps without detail."""
    coarse = torch.randn(1, channels, height // cell + 2, width // cell + 2, generator=generator)
    return functional.interpolate(coarse, (height, width), mode="bicubic")[0]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def single(monkeypatch):
    """The network in float32, as on a CPU that has nothing faster."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)


def swaying(size=(96, 128), frequencies=4):
    """A photo, and a volume whose left half is still."""
    image = smooth(generator(), 3, *size, cell=8).sigmoid()
    parts = torch.stack([smooth(generator(s), 2 * frequencies, 48, 64) for s in (1, 2)])
    parts = (parts * (torch.arange(64) > 32)).view(2, frequencies, 2, 48, 64)
    return image, SpectralVolume(torch.complex(*parts), num_frames=20, fps=10.0)


@pytest.fixture
def cores():
    """Two threads, whatever was set, and as many afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads(2)
    torch.set_num_threads(before)


@pytest.mark.parametrize("renderer", ["softmax", "neural"])
def test_frames_made_at_the_same_time_are_those_made_in_turn(renderer, cores, monkeypatch):
    """Bit for bit, after the same preparations."""
    image, volume = swaying()
    times, made = torch.arange(11, dtype=torch.float64), []

    def twice(make, inputs):
        inputs = list(inputs)
        together = list(in_threads(make, iter(inputs)))
        torch.set_num_threads(1)
        made.append(list(map(make, inputs)))
        return together

    in_threads = render._in_threads
    monkeypatch.setattr(render, "_in_threads", twice)
    made.append(list(render_frames(image, volume, times, renderer=renderer)))
    assert len(made[0]) == 11 and (made[0][3] - made[0][8]).abs().max() > 0.05
    assert all(map(torch.equal, *made))


@pytest.mark.parametrize("end", ["close", "interrupt", "forget"])
def test_frames_nobody_takes_leave_no_thread_behind(end, cores):
    image, volume = swaying()
    before = set(threading.enumerate())
    frames = render_frames(image, volume, torch.arange(1000, dtype=torch.float64))
    next(frames)
    assert set(threading.enumerate()) > before and torch.get_num_threads() == 2
    if end == "close":
        frames.close()
    elif end == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            frames.throw(KeyboardInterrupt())
    del frames
    assert set(threading.enumerate()) == before and torch.get_num_threads() == 2
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counts == [2]


def test_a_frame_that_fails_raises_in_its_place(cores, monkeypatch):
    image, _ = swaying()
    before, made = set(threading.enumerate()), []

    def fail(sharp, motion, metric):
        if float(motion.abs().max()) > 20:
            raise MemoryError
        return splat_photo(sharp, motion, metric)

    monkeypatch.setattr(render, "splat_photo", fail)
    still = SpectralVolume(torch.zeros(2, 2, 48, 64, dtype=torch.complex64), num_frames=9, fps=1.0)
    still.spectral[1, 0] = 8.0  # cos: 32 px of the photo at first, under 20 px in frame 2
    times = torch.tensor([2.0, 2.1, 2.2, 0.0, 2.0], dtype=torch.float64)
    with pytest.raises(MemoryError):
        for frame in render_frames(image, still, times):
            made.append(frame)
    assert len(made) == 3 and set(threading.enumerate()) == before


def test_a_decoder_in_bfloat16_is_not_seen(monkeypatch):
    """Also not as flicker: the difference hardly differs from one frame to the next."""
    image, volume = swaying()
    times, frames = torch.arange(6, dtype=torch.float64), []
    for fast in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda f=fast: f, raising=False)
        frames.append(torch.stack(list(render_frames(image, volume, times, renderer="neural"))))
    gap = (frames[0] - frames[1]).double()
    assert 0 < gap.square().mean().sqrt() < 10 ** (-55 / 20)
    assert gap.diff(dim=0).square().mean().sqrt() < 10 ** (-55 / 20)
    assert (gap[..., :40] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3), (7, 8)])
def test_halving_is_the_mean_of_what_is_there(size):
    x = torch.rand(2, 3, *size, generator=generator())
    expected = functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    assert torch.allclose(halve(x), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (37, 51), (5, 3)])
def test_a_photo_that_does_not_move_is_returned_bit_for_bit(size):
    image = torch.rand(3, *size, generator=generator())
    metric = torch.rand(1, *size, generator=generator(1))
    frame = NeuralRenderer(image, untrained())(torch.zeros(2, *size), metric)
    assert torch.equal(frame, image)


def test_static_pixels_are_bit_stable_and_moving_ones_change():
    image, metric = torch.rand(3, 64, 96, generator=generator()), torch.zeros(1, 64, 96)
    render = NeuralRenderer(image, untrained())
    frames = []
    for shift in (0.7, 1.3):
        tremble = torch.rand(2, 64, 96, generator=generator(int(10 * shift)))
        motion = 0.02 * (tremble - 0.5)
        motion[0, 20:40, 20:40] = shift
        frames.append(render(motion, metric))
    moved = (frames[0] != frames[1]).any(0)
    assert moved[20:40, 20:40].float().mean() > 0.95
    assert not moved[:, 52:].any() and not moved[:12].any() and not moved[48:].any()


def test_gate_is_zero_where_nothing_near_moves_one_where_something_does_and_smooth_between():
    motion, coverage = torch.zeros(1, 2, 40, 60), torch.ones(1, 1, 40, 60)
    motion[..., :20] = 0.5
    gate = motion_gate(motion, motion, coverage)[0, 0]
    assert (gate[:, 25:] == 0).all() and (gate[:, :22] == 1).all()
    assert gate.diff(dim=1).abs().max() < 0.5
    still = motion_gate(0.01 * motion, 0.01 * motion, coverage)
    assert (still == 0).all()
    coverage[..., 30, 30] = 0
    hole = motion_gate(0 * motion, 0 * motion, coverage)[0, 0]
    assert hole[30, 30] == 1 and hole[30, 36] == 0 and hole[0, 0] == 0


def test_tiles_equal_the_whole(single):
    size = (2 * REACH + 150, 3 * REACH + 170)
    image = smooth(generator(), 3, *size).sigmoid()
    motion = 3 * smooth(generator(1), 2, *size, cell=64)
    metric = smooth(generator(2), 1, *size, cell=64).sigmoid()
    net = untrained()
    whole = NeuralRenderer(image, net)(motion, metric)
    tiled = NeuralRenderer(image, net, tile=128)(motion, metric)
    assert (whole - image).abs().max() > 0.05
    assert (whole - tiled).abs().max() < 1e-4


def test_influence_ends_within_reach():
    """Oracle of ``REACH``: a changed pixel of the photo changes nothing farther away."""
    side = 2 * REACH + 65
    image = torch.rand(3, side, side, generator=generator())
    motion, metric = torch.full((2, side, side), 0.5), torch.ones(1, side, side)
    other = image.clone()
    other[:, side // 2, side // 2] += 0.5
    net = untrained()
    one, two = (NeuralRenderer(x, net)(motion, metric) for x in (image, other))
    rows, columns = (one != two).any(0).nonzero(as_tuple=True)
    assert len(rows) > 50
    for places in (rows, columns):
        assert (places - side // 2).abs().max() <= REACH


def test_gradients_reach_the_scale_of_the_metric_on_every_level():
    net = untrained().requires_grad_(True)
    image = torch.rand(1, 3, 32, 32, generator=generator())
    motion = torch.zeros(1, 2, 32, 32)
    motion[:, 0, :, :16] = 4.0  # the left half runs over the right one
    metric = motion[:, :1] / 40
    net(net.encode(image), motion, metric).square().mean().backward()
    assert net.log_scale.grad.isfinite().all() and (net.log_scale.grad != 0).all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_without_weights_the_message_says_what_to_do(tmp_path):
    with pytest.raises(GidliteError, match="use --renderer softmax, or train one"):
        load_renderer(tmp_path)
    with pytest.raises(GidliteError, match="'splat' is unknown; use one of softmax"):
        render_frame(
            torch.rand(3, 8, 8), torch.zeros(2, 8, 8), torch.zeros(1, 8, 8), renderer="splat"
        )
    untrained().half().save_pretrained(tmp_path / "net")
    net = load_renderer(tmp_path / "net")
    assert net.log_scale.dtype == torch.float32 and net.config.channels == [8, 8, 8]


def test_guided_upsampling_is_exact_at_equal_resolution_and_for_constants():
    image = torch.rand(3, 24, 40, generator=generator())
    motion = torch.randn(2, 24, 40, generator=generator(1))
    assert torch.equal(GuidedUpsampling(image, 24, 40).motion(motion), motion)
    constant = torch.tensor([1.0, -2.0])[:, None, None].expand(2, 6, 10)
    grown = GuidedUpsampling(image, 6, 10).motion(constant)
    assert torch.allclose(grown, 4 * constant[:, :1, :1].expand(2, 24, 40), atol=1e-5)
    plain = functional.interpolate(constant[None], (3, 5), mode="bilinear", antialias=True)[0]
    assert torch.allclose(GuidedUpsampling(image[:, :3, :5], 6, 10)(constant), plain)


def test_guided_upsampling_follows_the_edge_of_the_photo():
    """A bright disc moves, the dark rest does not: coarse motion is blurred, fine is not."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(160.0), indexing="ij")
    disc = ((y - 47) ** 2 + (x - 81) ** 2).sqrt() < 30
    image = (0.2 + 0.6 * disc).expand(3, -1, -1)
    motion = torch.stack([disc.float(), torch.zeros(96, 160)])
    coarse = functional.interpolate(motion[None], (24, 40), mode="bilinear", antialias=True)[0]
    guided = GuidedUpsampling(image, 24, 40)(coarse)
    plain = functional.interpolate(coarse[None], (96, 160), mode="bilinear")[0]
    errors = [(m - motion).square().mean().sqrt().item() for m in (guided, plain)]
    assert errors[0] < 0.5 * errors[1]


def test_pairs_survive_their_shard(tmp_path):
    image = smooth(generator(), 3, 64, 96).sigmoid()
    frames = [(frame * 255).byte() for frame in (image, image.flip(-1), image.flip(-2))]
    motion = 3 * smooth(generator(1), 2, 64, 96, cell=32).clamp(-2, 2)
    metric = motion.norm(dim=0, keepdim=True)
    reliable = torch.rand(1, 64, 96, generator=generator(2)) > 0.3
    nothing = torch.zeros_like(reliable)
    pairs = [Pair(frames[0], second, motion, metric, reliable, nothing) for second in frames[1:]]
    path = tmp_path / "pairs_00000.safetensors"
    write_pairs(path, [(f"{n}.mp4", pair) for n, pair in enumerate(pairs)])
    folder = PairFolder(tmp_path, size=(64, 96))
    with safe_open(path, "pt") as file:
        assert file.metadata()["sources"] == '["0.mp4", "1.mp4"]'
    drawn = [folder.example(number, seed=0) for number in range(2)]  # each once before any again
    drawn.sort(key=lambda pair: torch.equal(pair.second, pairs[1].second))
    for before, after in zip(pairs, drawn, strict=True):
        for name in ("first", "second", "reliable", "hidden"):
            assert torch.equal(getattr(before, name), getattr(after, name))
        for name in ("motion", "metric"):
            assert torch.equal(getattr(before, name).half(), getattr(after, name))
    with pytest.raises(GidliteError, match="holds no pairs"):
        PairFolder(tmp_path / "other", size=(64, 96))
    for metadata in ({}, {"format": "gidlite-pairs", "version": "1"}):
        save_file({"x": torch.zeros(1)}, path, metadata)
        with pytest.raises(GidliteError, match="no shard of pairs of version 2"):
            PairFolder(tmp_path, size=(64, 96))


def test_a_renderer_that_lacks_weights_is_refused(tmp_path):
    with pytest.raises(GidliteError, match="no trained renderer in"):
        load_renderer(tmp_path / "nowhere")
    SynthesisNet((8, 8, 8)).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["out.bias"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(GidliteError, match=r"lacks 1 weights, such as out\.bias"):
        load_renderer(tmp_path)


def test_a_hole_is_filled_from_what_lies_behind():
    """A red board slides off a green wall: nothing of its red may stay in the hole."""
    image = torch.zeros(3, 48, 64)
    image[1] = 0.6
    image[:, 12:36, 16:32] = torch.tensor([0.9, 0.0, 0.0])[:, None, None]
    motion = torch.zeros(2, 48, 64)
    motion[0, 12:36, 16:32] = 16.0
    metric = motion.norm(dim=0)[None]
    frame = render_frame(image, motion, metric)
    assert frame[0, 12:36, 16:32].max() < 0.02
    assert (frame[1, 12:36, 16:32] - 0.6).abs().max() < 0.02
    assert render_frame(image, motion, metric, renderer="average")[0, 12:36, 16:32].max() > 0.2


def test_nothing_is_painted_beyond_the_border():
    """What comes in from outside is continued; the network's correction stays inside."""
    image = torch.full((3, 64, 64), 0.5)
    motion = torch.zeros(2, 64, 64)
    motion[0] = 8.0
    frame = NeuralRenderer(image, untrained())(motion, torch.ones(1, 64, 64))
    assert (frame[:, 8:-8, :6] - 0.5).abs().max() < 1e-5
    assert (frame[:, 8:-8, 16:-8] - 0.5).abs().max() > 1e-3
