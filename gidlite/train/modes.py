"""Learning a photo's own modes, and how their coordinates are drawn."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gidlite import prior
from gidlite.data import held_out
from gidlite.data.shards import Progress
from gidlite.pipeline import GidPipeline
from gidlite.prior import modes
from gidlite.prior.diffusion import denoising_loss, make_scheduler
from gidlite.prior.drawer import Drawer, ModesPrior
from gidlite.prior.modes import Evidence, ModesNet
from gidlite.train.tasks import Batch, Task, on_device, sampled_columns

# Weights of the losses beside the likelihood.
_LEVEL, _EDGES, _AMOUNT, _THINGS, _PAIRS, _AXIS = 0.3, 0.3, 0.02, 0.3, 1.0, 0.5
_PAIRED = 192  # cells of a scene that are compared with each other
_TOGETHER, _APART = 0.9, 0.6  # coherence above which two cells belong together; below: do not


class ModesTask(Task):
    """Level, amount, parts and shapes from the photo."""

    keys = ("image", "spectral", "reliable", "level")

    def network(self) -> ModesNet:
        config = self.config
        return ModesNet(config.num_frequencies, config.parts, config.modes_per_part)

    def measure(self, tell: Progress | None = None) -> None:
        items = held_out(self.dataset, 128, self.workers, tell=tell)
        self.model.scale.copy_(self.fit_scale(items))

    @torch.no_grad()
    def fit_scale(self, items: Iterable[Batch]) -> Float[Tensor, " bins"]:
        """Return s_k: the RMS of bins over what moves, every scene equally, with 8 Σ s_k² = 1."""
        powers = []
        for item in items:
            made = self.make([item])
            total = modes.total_level(made["motion"])
            amount = modes.scene_amount(total, made["reliable"])[:, None, None]
            moving = ((total > 0.3 * amount) * made["reliable"])[:, None, None, None]
            own = made["motion"] / total.clamp(min=1e-3)[:, None, None, None]
            powers.append((own.square() * moving).sum((0, 1, 3, 4, 5)) / moving.sum().clamp(min=1))
        scale = torch.stack(powers).mean(0).sqrt()
        return scale / (8 * scale.square().sum()).sqrt()

    @torch.no_grad()
    def make(self, items: list[Batch]) -> Batch:
        batch = self.stack(items)
        with self.autocast():
            taps = prior.image_taps(batch["image"])
        cells = taps[0].shape[-2:]
        stride = batch["level"].shape[-1] // cells[1]
        middle = slice(stride // 2, None, stride)
        return {
            "image": (batch["image"] * 255).round().byte(),
            "motion": modes.split_volume(batch["spectral"], tuple(cells)),
            "level": batch["level"][:, middle, middle] * (prior.PHOTO_STRIDE / stride),
            "reliable": batch["reliable"][:, middle, middle].float(),
            **{f"tap{n}": tap.half() for n, tap in enumerate(taps)},
        }  # fmt: skip

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the surprise of a motion at the photo's modes, and errors of level and amount."""
        batch = _mirrored(batch, generator)
        taps = [batch[f"tap{n}"].float() for n in range(4)]
        found = self.model(batch["image"].float() / 255, taps)
        motion, reliable = batch["motion"].float(), batch["reliable"]
        with torch.autocast(self.device.type, enabled=False):
            surprise = Evidence(found, motion, reliable).surprise().mean()
            level = level_loss(found.level, batch["level"].float(), reliable)
            total = modes.total_level(motion)
            amount = modes.scene_amount(total, reliable).log()
            mean, log_variance = found.amount.unbind(1)
            missed = functional.gaussian_nll_loss(mean, amount, log_variance.exp().clamp(0.02, 4))
            cells = draw_cells(total * reliable, generator)
            series, shapes, about = (
                at_cells(maps, cells) for maps in (motion, found.shapes, found.embedding)
            )
            apart = things_loss(modes.square_distances(about, about), series)
            pairs, axis = pairs_loss(shapes, series), axis_loss(shapes, series)
        together = _THINGS * apart + _PAIRS * pairs + _AXIS * axis
        return surprise + level + _AMOUNT * missed + together

    def columns(self, model: ModesNet, batch: Batch) -> list[Tensor]:
        """Return photo, true and predicted level, and the parts, each in a grey of its own."""
        photos, true = batch["image"], batch["level"]
        with torch.no_grad():
            found = model(photos)
        true = true / modes.scene_amount(true, batch["reliable"].float())[:, None, None]
        shades = found.parts.argmax(1) / (found.parts.shape[1] - 1)
        return [photos, true, found.level, shades * found.level.clamp(max=1).sqrt()]


def _mirrored(batch: Batch, generator: torch.Generator) -> Batch:
    """Return the batch, half the time mirrored left and right; dx changes sign."""
    if torch.rand(1, generator=generator) < 0.5:
        return batch
    batch = {name: value.flip(-1) for name, value in batch.items()}
    sign = torch.tensor([-1.0, 1.0], device=batch["motion"].device)[:, None, None]
    return batch | {"motion": batch["motion"] * sign}


def level_loss(
    level: Float[Tensor, "batch rows columns"],
    true: Float[Tensor, "batch rows columns"],
    reliable: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, ""]:
    """Return the L1 error of the log of relative levels, and of their gradient at three scales."""
    true = (true / modes.scene_amount(true, reliable)[:, None, None]).clamp(max=2)
    # What moves is rarer than what does not, and matters as much.
    weight = reliable * (1 + 2 * true)
    gap = ((level + modes.STILL).log() - (true + modes.STILL).log()).abs()
    total = _LEVEL * (gap * weight).sum() / weight.sum().clamp(min=1)
    error = ((level - true) * reliable)[:, None]
    for _ in range(3):
        total = total + _EDGES / 3 * (
            error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        )
        error = functional.avg_pool2d(error, 2)
    return total


def draw_cells(
    weight: Float[Tensor, "batch rows columns"], generator: torch.Generator
) -> Int[Tensor, "batch cells"]:
    """Return cells drawn by weight, none twice (Efraimidis and Spirakis 2006)."""
    weight = weight.flatten(1) + 1e-6
    order = torch.rand(weight.shape, generator=generator).to(weight.device).log() / weight
    return order.topk(min(_PAIRED, weight.shape[1]), dim=1).indices


def at_cells(maps: Tensor, cells: Int[Tensor, "batch cells"]) -> Tensor:
    """Return maps ``(batch, ..., rows, columns)`` at cells: ``(batch, ..., cells)``."""
    flat = maps.flatten(-2)
    index = cells.view(len(cells), *(1,) * (flat.ndim - 2), -1)
    return flat.gather(-1, index.expand(*flat.shape[:-1], -1))


def things_loss(
    distance: Float[Tensor, "batch cells cells"], series: Float[Tensor, "batch 2 bins 2 cells"]
) -> Float[Tensor, ""]:
    """Return how badly d² tells what moves together: a cross-entropy over pairs of cells.

    Two belong together if they are coherent over bins and directions, up to a factor; in between,
    nobody knows.
    """
    series = torch.complex(*series.unbind(1)).flatten(1, 2)
    series = series / series.abs().square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)
    coherence = (series.mH @ series).abs()
    together, apart = (coherence > _TOGETHER).float(), (coherence < _APART).float()
    found = (together * distance.clamp(max=25)).sum() / together.sum().clamp(min=1)
    unlike = torch.log(-torch.expm1(-distance) + 1e-3)
    return found - (apart * unlike).sum() / apart.sum().clamp(min=1)


def pairs_loss(
    shapes: Float[Tensor, "batch modes 2 cells"], series: Float[Tensor, "batch 2 bins 2 cells"]
) -> Float[Tensor, ""]:
    """Return the squared error of how any two cells move together, in every pair of directions.

    What shapes expect, Σ_m ψ_m(p) ψ_m(q)ᵀ, is compared with what was seen, the mean over bins. It
    is what the likelihood wants, too, but tells where to go from far away: which cells are one
    thing, and along which axis it swings.
    """
    size = series.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
    series = (series / size).flatten(1, 2).flatten(2)  # batch, 2 bins, 2 cells
    shapes = shapes.flatten(2)
    return (shapes.mT @ shapes - 2 * series.mT @ series).square().mean()


def axis_loss(
    shapes: Float[Tensor, "batch modes 2 cells"], series: Float[Tensor, "batch 2 bins 2 cells"]
) -> Float[Tensor, ""]:
    """Return the squared error of the axis along which cells swing, see ``modes.swing_axis``."""
    seen = series.flatten(1, 2)
    return (modes.swing_axis(shapes) - modes.swing_axis(seen)).square().sum(1).mean()


class DrawerTask(ModesTask):
    """How coordinates are drawn: denoising of posterior draws; the modes are finished."""

    def network(self) -> Drawer:
        known = self.parts["modes"].config
        sizes = known.num_frequencies, known.parts, known.modes_per_part
        return Drawer(*sizes, coordination=self.config.coordination)

    def measure(self, tell: Progress | None = None) -> None:
        items = held_out(self.dataset, 64, self.workers, tell=tell)
        shown = [self.make([item]) for item in items]
        tokens = torch.cat([item["tokens"] for item in shown]).float().flatten(0, 1)
        self.model.middle.copy_(tokens.mean(0))
        self.model.spread.copy_(tokens.std(0).clamp(min=1e-3))

    @torch.no_grad()
    def make(self, items: list[Batch]) -> Batch:
        made = super().make(items)
        taps = [made[f"tap{n}"].float() for n in range(4)]
        found = self.parts["modes"](made["image"].float() / 255, taps)
        evidence = Evidence(found, made["motion"], made["reliable"])
        generator = torch.Generator().manual_seed(int(made["image"].long().sum()))
        noise = torch.randn(2, *evidence.seen.shape, generator=generator).to(self.device)
        draws = [evidence.draw(each) for each in noise]
        energy = (found.shapes * found.level[:, None, None]).square().sum((2, 3, 4))
        parts = energy.unflatten(1, (found.parts.shape[1], -1)).sum(2)
        share = (parts / parts.mean(1, keepdim=True)).clamp(0.02, 4)
        weight = share.repeat_interleave(energy.shape[1] // share.shape[1], 1)
        return {"coords": torch.stack(draws, 1).half(), "tokens": found.tokens, "weight": weight}

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the denoising error, of what a part moves by, at another moment of the motion."""
        count, device = len(batch["tokens"]), self.device
        which = torch.randint(2, (count,), generator=generator)
        coords = batch["coords"][torch.arange(count), which].float().clamp(-6, 6)
        turn = 2 * torch.pi * torch.rand(count, 1, generator=generator)
        angle = (turn * torch.arange(1, coords.shape[1] + 1)).to(device)[..., None]
        real, imaginary = coords.unbind(2)
        coords = torch.stack([
            real * angle.cos() - imaginary * angle.sin(),
            real * angle.sin() + imaginary * angle.cos(),
        ], dim=2)  # fmt: skip
        condition = self.model.embed(batch["tokens"])
        kept = torch.rand(count, 1, 1, generator=generator) >= self.config.condition_dropout
        bins = torch.arange(coords.shape[1], device=device).expand(count, -1)
        with torch.autocast(device.type, enabled=False):
            return denoising_loss(
                self.model, coords, bins, condition * kept.to(device),
                scheduler=make_scheduler("ddpm"), weight=batch["weight"],
                generator=on_device(device, generator),
            )  # fmt: skip

    def columns(self, model: Drawer, batch: Batch) -> list[Tensor]:
        return sampled_columns(GidPipeline(ModesPrior(self.parts["modes"], model)), batch)
