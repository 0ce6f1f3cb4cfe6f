"""The parts of the prior: what they start as, what they must not change, and exact denoisers."""

import math

import pytest
import torch
from torch.nn import functional

from gidlite.errors import GidliteError
from gidlite.prior import (
    FEATURE_CHANNELS,
    PHOTO_STRIDE,
    AmplitudeNet,
    amplitude_loss,
    drop_features,
    latent_magnitude,
    photo_features,
    whiten,
)
from gidlite.prior.autoencoder import SliceAutoencoder, autoencoder_loss
from gidlite.prior.denoiser import COORDINATIONS, PATCH, Denoiser, GaussianField, cosine_transform
from gidlite.prior.diffusion import (
    PREDICTION_TYPES,
    denoising_loss,
    make_scheduler,
    noise_steps,
    sample,
    signal_levels,
)

BINS, ROWS, COLUMNS = 5, 16, 24


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def denoiser(coordination: str, *, awake: bool = False) -> Denoiser:
    """A small one; ``awake`` gives frequency attention something to say."""
    torch.manual_seed(0)
    model = Denoiser(BINS, (32, 32, 64), 1, coordination).eval()
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.05)
    model.field.log_power.normal_()
    if awake:
        for layer in model.frequency:
            torch.nn.init.normal_(layer.out.weight, std=0.5)
    return model


def problem(generator):
    noisy = torch.randn(2, BINS, 4, ROWS, COLUMNS, generator=generator)
    condition = torch.randn(2, 32, ROWS // PATCH, COLUMNS // PATCH, generator=generator)
    return noisy, torch.tensor([100, 700]), torch.arange(BINS).expand(2, -1), condition


def test_the_autoencoder_starts_as_block_means_and_bilinear_enlargement(generator):
    packed = torch.randn(2, 3, 4, ROWS, COLUMNS, generator=generator)
    photo = torch.rand(2, 3, 2 * ROWS, 2 * COLUMNS, generator=generator)
    for guided in (True, False):
        autoencoder = SliceAutoencoder(guided=guided)
        latents = autoencoder.encode(packed)
        means = functional.avg_pool2d(packed.flatten(0, 1), 2)
        assert torch.allclose(latents.flatten(0, 1), means, atol=1e-6)
        enlarged = functional.interpolate(means, scale_factor=2.0, mode="bilinear")
        decoded = autoencoder.decode(latents, photo).flatten(0, 1)
        assert torch.allclose(decoded, enlarged, atol=1e-5)


def test_scaled_latents_decode_to_the_same(generator):
    packed = torch.randn(1, 2, 4, ROWS, COLUMNS, generator=generator)
    photo = torch.rand(1, 3, 2 * ROWS, 2 * COLUMNS, generator=generator)
    autoencoder = SliceAutoencoder()
    torch.nn.init.normal_(autoencoder.guide.net[-1].weight, std=0.1)
    before = autoencoder.encode(packed)
    decoded = autoencoder.decode(before, photo)
    autoencoder.register_to_config(scaling_factor=3.0)
    after = autoencoder.encode(packed)
    assert torch.allclose(after, 3 * before)
    assert torch.allclose(autoencoder.decode(after, photo), decoded, atol=1e-5)


def test_the_guide_reads_the_photo_and_treats_all_bins_alike(generator):
    """Sharing rules come from the photo: decoding is linear in what the blocks hold."""
    autoencoder = SliceAutoencoder()
    torch.nn.init.normal_(autoencoder.guide.net[-1].weight, std=0.1)
    latents = torch.randn(1, 3, 4, 8, 12, generator=generator)
    photo, other = torch.rand(2, 1, 3, 32, 48, generator=generator)
    spread = autoencoder._spread(latents, photo)
    assert torch.allclose(autoencoder._spread(2 * latents, photo), 2 * spread, atol=1e-5)
    permuted = autoencoder._spread(latents.flip(1), photo)
    assert torch.allclose(permuted, spread.flip(1), atol=1e-5)
    assert not torch.allclose(autoencoder._spread(latents, other), spread, atol=1e-2)


def autoencoder_problem(generator, *, decoded=None):
    """Return an autoencoder, slices and a photo; ``decoded`` is what the decoder shall answer."""
    autoencoder = SliceAutoencoder(guided=False)
    if decoded is not None:
        autoencoder.decode = lambda latents, photo: decoded
    slices = torch.randn(2, 3, 4, ROWS, COLUMNS, generator=generator)
    return autoencoder, slices, torch.rand(2, 3, 2 * ROWS, 2 * COLUMNS, generator=generator)


def test_autoencoder_loss_of_a_ramp_in_closed_form(generator):
    """Off by 0.3 x − 0.2 y, steeper by 2 at every scale; latents far enough out for KL to weigh."""
    x, y = torch.arange(COLUMNS), torch.arange(ROWS)[:, None]
    ramp = (0.3 * x - 0.2 * y).expand(2, 3, 4, -1, -1)
    autoencoder, _, photo = autoencoder_problem(generator, decoded=700 + ramp)
    loss, terms = autoencoder_loss(autoencoder, torch.full_like(ramp, 700.0), photo)
    kl = 0.5 * (700**2 + math.exp(-10) - 1 + 10)
    expected = {"l1": ramp.abs().mean().item(), "gradient": (0.3 + 0.2) * (1 + 2 + 4), "kl": kl}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-3)
    total = expected["l1"] + 0.2 * expected["gradient"] + 1e-6 * kl
    assert loss.item() == pytest.approx(total, rel=1e-3)


def test_the_autoencoder_learns_against_latent_noise(generator):
    """A constant comes back but for noise of deviation e^-5, spread by bilinear enlargement."""
    autoencoder, slices, photo = autoencoder_problem(generator)
    _, terms = autoencoder_loss(
        autoencoder, torch.full_like(slices, 0.7), photo, generator=generator
    )
    spread = 0.75**2 + 0.25**2
    expected = math.sqrt(2 / math.pi) * math.exp(-5) * spread
    assert terms["l1"].item() == pytest.approx(expected, rel=0.1)


def slow_terms(gap, reliable):
    """Return L1 and gradient of trusted pixels, place by place."""
    total, l1 = 0.0, gap.movedim(2, -1)[reliable[:, None].expand(-1, 3, -1, -1)].abs().mean()
    for _ in range(3):
        for down, across in ((0, 1), (1, 0)):
            found = [
                (gap[b, :, :, i + down, j + across] - gap[b, :, :, i, j]).abs().mean()
                for b, i, j in reliable.nonzero().tolist()
                if i + down < gap.shape[-2] and j + across < gap.shape[-1]
                and reliable[b, i + down, j + across]
            ]  # fmt: skip
            total = total + torch.stack(found).mean()
        gap = gap.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-3, -1))
        reliable = reliable.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).all(-1).all(-2)
    return l1.item(), total.item()


def test_only_trusted_pixels_make_the_autoencoder_loss(generator):
    decoded = torch.randn(2, 3, 4, ROWS, COLUMNS, generator=generator)
    autoencoder, clean, photo = autoencoder_problem(generator, decoded=decoded)
    reliable = torch.rand(2, ROWS, COLUMNS, generator=generator) < 0.98
    reliable[1, :, 17:] = False
    _, terms = autoencoder_loss(autoencoder, clean, photo, reliable=reliable)
    expected = slow_terms(decoded - clean, reliable)
    assert (terms["l1"].item(), terms["gradient"].item()) == pytest.approx(expected, rel=1e-4)


def test_garbage_in_untrusted_pixels_changes_neither_loss_nor_gradient(generator):
    autoencoder, clean, photo = autoencoder_problem(generator)
    reliable = torch.rand(2, ROWS, COLUMNS, generator=generator) < 0.7
    found = []
    for garbage in (None, 1e4, math.nan):
        slices = clean
        if garbage is not None:
            slices = torch.where(reliable[:, None, None], clean, garbage)
        loss, _ = autoencoder_loss(
            autoencoder, slices, photo, reliable=reliable,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        slope = torch.autograd.grad(loss, autoencoder.residual.encoder.conv_out.bias)[0]
        found.append((loss.item(), slope))
    for loss, slope in found[1:]:
        assert loss == found[0][0] and torch.equal(slope, found[0][1])
    whole, _ = autoencoder_loss(
        autoencoder, clean, photo, generator=torch.Generator().manual_seed(1)
    )
    assert abs(whole.item() - found[0][0]) > 1e-3


def test_without_attention_the_denoiser_is_the_plain_unet_beside_the_gaussian_one(generator):
    noisy, step, freq_index, condition = problem(generator)
    model = denoiser("independent")
    ours = model(noisy, step, freq_index, torch.zeros_like(condition))
    signal = signal_levels()[step]
    estimate = model.field.denoise(noisy, freq_index, signal)
    signal, sigma = (s[:, None, None, None, None] for s in (signal, (1 - signal**2).sqrt()))
    ours = ours - (signal * (noisy - signal * estimate) / sigma - sigma * estimate)
    both = torch.cat([noisy, estimate], dim=2)
    patches = functional.pixel_unshuffle(both.flatten(0, 1), PATCH)
    plain = model.unet(
        patches, step.repeat_interleave(BINS), class_labels=freq_index.flatten()
    ).sample
    assert plain.std() > 0.1
    assert torch.allclose(ours.flatten(0, 1), functional.pixel_shuffle(plain, PATCH), atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_untrained_it_draws_the_field_it_was_fitted_to(prediction_type, generator):
    """Few solver steps keep the power of every mode, from the strongest to the weakest."""
    torch.manual_seed(0)
    model = Denoiser(2, (32, 32, 32), 1, "independent", prediction_type).eval()
    slope = torch.linspace(6, -3, model.field.log_power.shape[-1])
    model.field.log_power.copy_(slope.expand_as(model.field.log_power))
    freq_index = torch.arange(2).expand(24, -1)
    start = model.shape_noise(torch.randn(24, 2, 4, ROWS, COLUMNS, generator=generator), freq_index)
    drawn = sample(
        lambda z, step: model(z, step.expand(24), freq_index, torch.zeros(24, 32, 8, 12)),
        start, scheduler=make_scheduler("dpm", prediction_type), num_steps=15,
    )  # fmt: skip
    power = cosine_transform(drawn).square().mean((0, 1, 2))
    ratio = power / model.field.power(ROWS, COLUMNS)[0, 0]
    for chosen in (model.field.power(ROWS, COLUMNS)[0, 0] > p for p in (100, 3, 0)):
        assert ratio[chosen].mean().item() == pytest.approx(1, abs=0.12)


def test_silent_attention_is_bit_identical_to_independence(generator):
    arguments = problem(generator)
    alone, together = denoiser("independent"), denoiser("attention")
    missing = together.load_state_dict(alone.state_dict(), strict=False)
    assert all(key.startswith("frequency.") for key in missing.missing_keys)
    assert torch.equal(alone(*arguments), together(*arguments))


@pytest.mark.parametrize("coordination", ["attention", "independent"])
def test_permuted_bins_give_permuted_outputs(coordination, generator):
    noisy, step, freq_index, condition = problem(generator)
    model = denoiser(coordination, awake=True)
    order = torch.randperm(BINS, generator=generator)
    straight = model(noisy, step, freq_index, condition)
    permuted = model(noisy[:, order], step, freq_index[:, order], condition)
    assert torch.allclose(permuted, straight[:, order], atol=1e-4)


@pytest.mark.parametrize("coordination", COORDINATIONS)
def test_who_hears_whom(coordination, generator):
    """A change in one bin reaches other bins unless they are independent; never other photos."""
    noisy, step, freq_index, condition = problem(generator)
    model = denoiser(coordination, awake=True)
    changed = noisy.clone()
    changed[0, 1] += 1
    gap = (
        model(changed, step, freq_index, condition) - model(noisy, step, freq_index, condition)
    ).abs()
    gap = gap.amax((2, 3, 4))
    assert gap[0, 1] > 1e-3 and gap[1].max() == 0
    others = gap[0, torch.arange(BINS) != 1]
    assert (others == 0).all() if coordination == "independent" else (others > 1e-5).all()


def test_unknown_coordination_is_refused():
    with pytest.raises(GidliteError, match="coordination 'none' is unknown"):
        Denoiser(coordination="none")
    with pytest.raises(GidliteError, match="give two widths"):
        SliceAutoencoder((16, 32, 64))
    with pytest.raises(GidliteError, match="solver 'euler' is unknown; use one of ddim, dpm, ddpm"):
        make_scheduler("euler")
    with pytest.raises(GidliteError, match="prediction type 'x' is unknown"):
        make_scheduler("dpm", "x")


def test_cosine_modes_are_orthonormal_and_match_their_definition(generator):
    field = torch.randn(3, 5, 7, generator=generator)
    modes = cosine_transform(field)
    assert torch.allclose(cosine_transform(modes, inverse=True), field, atol=1e-5)
    assert torch.allclose(modes.square().sum(), field.square().sum())
    i, j = torch.arange(5)[:, None] + 0.5, torch.arange(7) + 0.5
    wave = torch.cos(math.pi * 2 * i / 5) * torch.cos(math.pi * 3 * j / 7) * 2 / math.sqrt(35)
    assert torch.allclose(modes[:, 2, 3], (field * wave).sum((1, 2)), atol=1e-5)


def test_the_gaussian_denoiser_is_the_conditional_mean(generator):
    """Against the textbook formula with explicit covariance matrices."""
    rows, columns, signal = 4, 6, 0.6
    field = GaussianField(1)
    field.log_power.copy_(torch.linspace(2, -2, field.log_power.shape[-1]).expand(1, 4, -1))
    modes = cosine_transform(torch.eye(rows * columns).view(-1, rows, columns)).flatten(1)
    covariance = modes @ field.power(rows, columns)[0, 0].flatten().diag() @ modes.T
    noisy = torch.randn(2, 1, 4, rows, columns, generator=generator)
    observed = signal**2 * covariance + (1 - signal**2) * torch.eye(len(covariance))
    expected = signal * noisy.flatten(-2) @ (covariance @ observed.inverse()).T
    index = torch.zeros(2, 1, dtype=torch.long)
    ours = field.denoise(noisy, index, torch.tensor([signal, signal]))
    assert torch.allclose(ours.flatten(-2), expected, atol=1e-4)
    white = torch.randn(20_000, 1, 4, rows, columns, generator=generator)
    drawn = field.draw_noisy(white, index[:1].expand(20_000, -1), torch.full((20_000,), signal))
    assert torch.allclose(drawn[:, 0, 0].flatten(1).T.cov(), observed, atol=0.12)


def test_a_field_is_fitted_at_one_size_and_used_at_another(generator):
    """Also when half of every example is missing."""
    truth, fitted = GaussianField(1), GaussianField(1)
    truth.log_power.copy_(torch.linspace(4, -2, truth.log_power.shape[-1]).expand(1, 4, -1))
    index, clean = torch.zeros(1, 1, dtype=torch.long), torch.ones(1)
    white = torch.randn(200, 1, 4, 40, 64, generator=generator)
    drawn = truth.draw_noisy(white, index.expand(200, -1), clean.expand(200))
    whole = torch.ones(200, 40, 64, dtype=torch.bool)
    fitted.fit(drawn, whole)
    gap = (fitted.power(24, 32) / truth.power(24, 32)).log()
    assert gap[..., 2:, 2:].abs().max() < 0.5 and gap.square().mean().sqrt() < 0.2
    small = GaussianField(1)
    small.fit(drawn[..., :12, :16], whole[:, :12, :16])  # no modes near some knots
    assert (small.power(12, 16) / truth.power(12, 16)).log().abs().mean() < 0.5
    half = whole.clone()
    half[..., :32] = False
    masked = GaussianField(1)
    masked.fit(drawn, half)
    total = masked.power(40, 64).sum() / fitted.power(40, 64).sum()
    assert total.item() == pytest.approx(1, abs=0.15)


def test_noise_levels_are_even_in_log_signal_to_noise():
    steps = noise_steps(torch.linspace(0, 1, 30))
    signal = signal_levels()[steps]
    ratio = torch.log(signal / (1 - signal**2).sqrt())
    assert ratio.diff().min() > 0
    # Neighbouring levels of the table are up to 0.2 apart where the noise is strongest.
    assert (ratio.diff() - (ratio[-1] - ratio[0]) / 29).abs().max() < 0.2


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("solver", "recurrence"), [("dpm", 1), ("ddim", 1), ("dpm", 3)])
def test_the_exact_denoiser_of_a_gaussian_gives_that_gaussian(
    solver, recurrence, prediction_type, generator
):
    """Mean and covariance come out of the sampler when the network knows the answer."""
    mean = torch.tensor([0.5, -0.3])
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.7]])
    scheduler = make_scheduler(solver, prediction_type)

    def predict(noisy, step):
        signal = scheduler.alphas_cumprod[step].sqrt()
        sigma = (1 - signal**2).sqrt()
        gain = signal * covariance @ (signal**2 * covariance + sigma**2 * torch.eye(2)).inverse()
        clean = mean + (noisy - signal * mean) @ gain.mT
        noise = (noisy - signal * clean) / sigma
        return noise if prediction_type == "epsilon" else signal * noise - sigma * clean

    drawn = sample(
        predict, torch.randn(20_000, 2, generator=generator), scheduler=scheduler,
        num_steps=40 if solver == "dpm" else 250, recurrence=recurrence, generator=generator,
    )  # fmt: skip
    assert torch.allclose(drawn.mean(0), mean, atol=0.03)
    assert torch.allclose(drawn.T.cov(), covariance, atol=0.06)


def test_recurrence_repeats_every_step_with_new_noise(generator):
    """A network that always says 0: a step to and fro scales and renoises, in closed form."""
    asked = []

    def predict(noisy, step):
        asked.append((int(step), noisy))
        return torch.zeros_like(noisy)

    start, fresh = torch.randn(2, 5, generator=generator)
    options = {"scheduler": make_scheduler("dpm", "epsilon"), "num_steps": 3}
    sooner = torch.Generator().manual_seed(0)
    torch.randn(5, generator=sooner)
    sample(predict, start, recurrence=2, generator=sooner, **options)
    assert [step for step, _ in asked] == sorted((step for step, _ in asked), reverse=True)
    assert len(asked) == 6 and len({step for step, _ in asked}) == 3
    kept = signal_levels()[asked[0][0]] / signal_levels()[asked[2][0]]
    # Without noise predicted, going ahead divides by the ratio of signals, and back multiplies.
    torch.testing.assert_close(asked[0][1], start)
    torch.testing.assert_close(asked[1][1], start + (1 - kept**2).sqrt() * fresh)

    asked.clear()
    before = generator.get_state()
    sample(predict, start, generator=generator, **options)
    assert len(asked) == 3
    assert torch.equal(generator.get_state(), before), "taken once, no noise is drawn"
    with pytest.raises(GidliteError, match="recurrence is 0"):
        sample(predict, start, recurrence=0, **options)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_loss_is_zero_for_who_knows_and_ignores_what_is_unreliable(prediction_type, generator):
    latents = torch.randn(3, BINS, 4, ROWS, COLUMNS, generator=generator)
    scheduler = make_scheduler("ddpm", prediction_type)
    reliable = torch.zeros(3, ROWS, COLUMNS, dtype=torch.bool)
    reliable[:, :4] = True

    def oracle(noisy, step, freq_index, condition):
        signal = scheduler.alphas_cumprod[step].sqrt()[:, None, None, None, None]
        sigma = (1 - signal**2).sqrt()
        noise = (noisy - signal * latents) / sigma
        answer = noise if prediction_type == "epsilon" else signal * noise - sigma * latents
        return torch.where(reliable[:, None, None], answer, 7.0)

    options = {"scheduler": scheduler, "generator": generator}
    condition = torch.zeros(3, 1, 8, 12)
    freq_index = torch.arange(BINS).expand(3, -1)
    masked = denoising_loss(oracle, latents, freq_index, condition, weight=reliable, **options)
    whole = denoising_loss(oracle, latents, freq_index, condition, **options)
    assert masked < 1e-3 and whole > 1


def test_magnitudes_and_whitening(generator):
    latents = torch.zeros(1, 2, 4, 1, 1)
    latents[0, 1, :, 0, 0] = torch.tensor([3.0, 4.0, 0.0, 2.0])
    latents[0, 0, 0] = 5.0  # at 0 Hz there is no imaginary part to average with
    magnitude = latent_magnitude(latents)[0, :, :, 0, 0]
    expected = torch.tensor([[5.0, 0.0], [12.5**0.5, 2**0.5]])
    assert torch.allclose(magnitude, expected)
    scale = torch.rand(1, 2, 4, 1, 1, generator=generator) + 1
    assert torch.allclose(whiten(latents, scale) * scale, latents)
    for far in (1e3, -1e3):
        limited = whiten(torch.full_like(scale, far), scale)
        assert torch.equal(limited, torch.full_like(scale, math.copysign(6, far)))


def test_amplitudes_are_learned_from_what_is_reliable():
    """A few steps towards a target that is right on one half and wrong on the other."""
    torch.manual_seed(0)
    net = AmplitudeNet(2, width=16)
    features = torch.randn(1, FEATURE_CHANNELS, 8, 12)
    latents = torch.full((1, 2, 4, 8, 12), 0.5)
    latents[..., 6:] = 100.0
    reliable = torch.ones(1, 8, 12, dtype=torch.bool)
    reliable[..., 6:] = False
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = amplitude_loss(net, features, latents, reliable)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0] < 0.1
    assert net.scale(features).min() > 0
    assert net(features)[..., :6].mean().item() == pytest.approx(0.5, abs=0.15)


def test_features_have_one_cell_per_stride(generator):
    image = torch.rand(2, 3, 64, 96, generator=generator)
    features = photo_features(image)
    assert features.shape == (2, FEATURE_CHANNELS, 64 // PHOTO_STRIDE, 96 // PHOTO_STRIDE)
    colour = functional.avg_pool2d((image * 255 - 127) / 128, PHOTO_STRIDE)
    assert torch.allclose(features[:, :3], colour, atol=1e-5)
    # A photo's features do not depend on its neighbours in the batch.
    assert torch.allclose(photo_features(image[:1]), features[:1], atol=1e-3)


def test_dropped_features_are_whole_maps_and_keep_the_mean(generator):
    features = torch.rand(4, 2000, 2, 3, generator=generator) + 1
    dropped = drop_features(features, 0.3, generator=generator)
    gone = (dropped == 0).flatten(2)
    assert torch.equal(gone.all(2), gone.any(2))  # a map goes as a whole, or stays
    assert 0.27 < gone.float().mean() < 0.33
    assert not torch.equal(gone[0], gone[1])  # other ones for every photo
    assert torch.allclose(dropped[dropped != 0], (features / 0.7)[dropped != 0])
    assert torch.equal(drop_features(features, 0.0, generator=generator), features)
