"""Checks of lesson 06: the scene and the network are asked again, by other routes."""

import torch

from gidlite.data.splits import HELD_OUT_SEED
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.evaluate.scenes import things
from gidlite.media import fit_size, read_image, resize, sample_photo
from gidlite.motion.spectral import motion_amplitude, resize_spectral
from gidlite.pipeline import GidPipeline, Sampling
from gidlite.prior.modes import STILL, UNEXPLAINED, split_volume, total_level


def _scene():
    """Return the photo, volume and things of scene 9."""
    pieces = Pieces.painted(generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    seeded = torch.Generator().manual_seed(HELD_OUT_SEED + 9)
    scene = make_scenes(1, pieces, generator=seeded)
    truth = scene.spectral(16)[0]
    cells = resize_spectral(truth, height=40, width=64)
    masks = things(motion_amplitude(cells), scene.depth[0][2::4, 2::4])
    return scene.photo[0], truth, cells, masks


def _needed(answer):
    _, _, cells, masks = _scene()
    rows = cells[1:, :, max(masks, key=torch.sum)].flatten(1)
    # Eigenvalues of the Gram matrix are the squares of singular values.
    parts = torch.cat([rows.real, rows.imag]).double()
    shares = torch.linalg.eigvalsh(parts @ parts.T).flip(0).cumsum(0)
    needed = 1 + sum(share < 0.99 * shares[-1] for share in shares).item()
    if int(answer) == needed:
        return None
    left = "too many" if int(answer) > needed else "too few"
    return f"{int(answer)} are {left}; add up squares, largest first, and compare with 99 % of all."


def _wind(answer):
    flower = read_image(sample_photo())
    height, width = fit_size(*flower.shape[-2:], max_width=256)
    flower = resize(flower, height=height, width=width)
    pipeline, rms = GidPipeline.from_pretrained("modes"), []
    for wind in (0.5, float(answer)):
        seeded = torch.Generator().manual_seed(0)
        output = pipeline(flower, generator=seeded, sampling=Sampling(wind=wind))
        rms.append(motion_amplitude(output.spectral).square().mean().sqrt().item())
    if abs(rms[1] / rms[0] - 2) < 0.04:
        return None
    return f"at this wind it moves {rms[1] / rms[0]:.2f} times as far; ln g is a Gaussian."


def _explained(answer):
    photo, truth, _, masks = _scene()
    motion = split_volume(truth[None], (40, 64))
    with torch.no_grad():
        told = GidPipeline.from_pretrained("modes").prior.modes(photo[None])
    level = total_level(motion)[0]
    amount = level.flatten().quantile(0.95).clamp(min=0.15)
    weight = (level / amount).square() / ((level / amount).square() + 0.01)
    again = torch.zeros_like(motion[0])
    for k, scale in enumerate(told.scale):  # least squares, damped: every bin and part by itself
        shapes = told.shapes[0] * told.envelope[0, :, k, None, None, None]
        seen = (shapes * weight / UNEXPLAINED).flatten(1).double()
        for part in range(2):
            y = motion[0, part, k] / (level + STILL * amount) / scale * weight / UNEXPLAINED
            y = y.clamp(-8, 8).flatten().double()
            damped = seen @ seen.T + torch.eye(len(seen))
            coords = torch.linalg.solve(damped, seen @ y).float()
            again[part, k] = level * scale * torch.einsum("m,mchw->chw", coords, shapes)
    inside = sum(masks) > 0
    pair = torch.stack([again[..., inside].flatten(), motion[0][..., inside].flatten()])
    expected = (pair[0] @ pair[1] / pair.norm(dim=1).prod()).item()
    if abs(float(answer) - expected) < 0.01:
        return None
    return "it is another number; is the level the observed one, and are all things counted?"


CHECKS = {"1": _needed, "2": _wind, "3": _explained}
