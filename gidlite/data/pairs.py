"""Pairs of frames with the motion between them, for the renderer: of scenes and of real clips.

A folder of real pairs holds ``pairs_*.safetensors``, each with, for its N pairs, JPEG bytes of the
first and the second frame, and compressed 8-bit motion and metric at half resolution; metadata
hold ``format``, ``version`` and ``pairs``, a JSON list.
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from gidlite.data import seeded
from gidlite.data.world import Scenes, make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError
from gidlite.media import resize
from gidlite.media.reader import probe_video, read_video
from gidlite.motion.flow import consistent, follow, grey, optical_flow_engine
from gidlite.motion.spectral import resize_motion

_FORMAT, _VERSION = "gidlite-pairs", "1"
_PER_SHARD = 64
_QUALITY = 92
# Motion of scenes is multiplied by up to this, but no pixel is moved farther than so many px.
_AMPLIFY, _FARTHEST = 6.0, 24.0
_GRAIN = 0.03
_METRIC_TIMES = 8
# Frames followed from each start of a real clip.
_WINDOW = 45


@dataclass(frozen=True)
class Pair:
    """Two frames and the motion between them.

    Attributes:
        first: ``(3, H, W)``, the photo.
        second: ``(3, H, W)``, what it should become.
        motion: ``(2, H, W)`` px, of pixels of the first.
        metric: ``(1, H, W)`` W, mean over time of |F_t|, px at 256 px wide.
        reliable: ``(1, H, W)`` of the *first*, where the motion can be trusted.
        hidden: ``(1, H, W)`` of the *second*, what the first does not show; false if unknown.
    """

    first: UInt8[Tensor, "3 height width"]
    second: UInt8[Tensor, "3 height width"]
    motion: Float[Tensor, "2 height width"]
    metric: Float[Tensor, "1 height width"]
    reliable: Bool[Tensor, "1 height width"]
    hidden: Bool[Tensor, "1 height width"]


class PairSource(Protocol):
    """Where pairs come from: any number gives a pair, the same number the same one."""

    def pair(self, number: int, seed: int) -> Pair:
        """Return the numbered pair of a seed."""
        ...


def scene_pairs(
    scenes: Scenes, times: Sequence[int], *, amplify: Float[Tensor, " batch"], grain: Tensor
) -> list[Pair]:
    """Return the pairs (0, t) of scenes with amplified motion, rendered with true occlusions.

    Args:
        scenes: With labels at full resolution.
        times: Frames that become second frames; the metric is a mean over these and others.
        amplify: Factor per scene; lowered where it would move a pixel by more than 24 px.
        grain: Noise ``(B, 1, H, W)`` painted onto everything, to move with it.
    """
    frames, width = scenes.coords.shape[-1], scenes.background.shape[-1]
    others = [frames * n // _METRIC_TIMES for n in range(_METRIC_TIMES)]
    motion = scenes.motion([*times, *others])
    length = motion.square().sum(2).sqrt()
    amplify = torch.minimum(amplify, _FARTHEST / length.amax((1, 2, 3)).clamp(min=1e-3))
    factor = amplify[:, None, None, None]
    motion, metric = motion * factor[..., None], length.mean(1) * factor[:, 0] * (256 / width)
    layers = scenes.layers.clone()
    layers[:, :, :3] = (layers[:, :, :3] + grain[:, None]).clamp(0, 1)
    background = (scenes.background + grain).clamp(0, 1)
    scenes = replace(scenes, layers=layers, background=background, coords=scenes.coords * factor)
    first, sure = _bytes(scenes.image), torch.ones_like(metric[:1], dtype=torch.bool)
    pairs = []
    for place, time in enumerate(times):
        second, hidden = _bytes(scenes.frame(time)), scenes.disoccluded(time)
        rows = zip(first, second, motion[:, place], metric[:, None], hidden[:, None], strict=True)
        pairs += [Pair(*row[:4], sure, row[4]) for row in rows]
    return pairs


def _bytes(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).byte()


class ScenePairs:
    """Endless pairs of synthetic scenes, a few scenes at a time on the device of the pieces.

    Args:
        pieces: What to compose scenes from.
        height: Rows.
        width: Columns.
        scenes: Made together.
        times: Second frames of each of them.
    """

    def __init__(
        self, pieces: Pieces, *, height: int = 160, width: int = 256, scenes: int = 4,
        times: int = 4,
    ) -> None:  # fmt: skip
        self.pieces, self.scenes, self.times = pieces, scenes, times
        self.size = {"height": height, "width": width}
        self._made: tuple[tuple[int, int], list[Pair]] = ((-1, -1), [])

    def pair(self, number: int, seed: int) -> Pair:
        """Return pair ``number`` of a seed; neighbours of one block are made together."""
        count = self.scenes * self.times
        key = (number // count, seed)
        if self._made[0] != key:
            self._made = (key, self._make(*key))
        return self._made[1][number % count]

    @torch.no_grad()
    def _make(self, block: int, seed: int) -> list[Pair]:
        device = self.pieces.device
        generator = seeded(seed, block, device)
        scenes = make_scenes(self.scenes, self.pieces, generator=generator, **self.size)
        frames = scenes.coords.shape[-1]
        chosen = torch.randperm(frames - 1, generator=seeded(seed, block))[: self.times] + 1
        draw = torch.rand(2, self.scenes, generator=generator, device=device)
        noise = torch.randn(
            self.scenes, 1, *scenes.grid, generator=generator, device=device
        )  # fmt: skip
        grain = _GRAIN * (2 * draw[0] - 1).clamp(min=0)[:, None, None, None] * noise
        amplify = torch.exp(draw[1] * math.log(_AMPLIFY))
        return scene_pairs(scenes, chosen.tolist(), amplify=amplify, grain=grain)


class PairFolder:
    """Real pairs that ``extract_pairs`` wrote, held in memory as bytes, in a seeded order.

    Args:
        folder: Of ``pairs_*.safetensors``.
        device: Where pairs are kept.

    Raises:
        GidliteError: If the folder holds no readable pairs.
    """

    def __init__(self, folder: str | Path, *, device: torch.device | str = "cpu") -> None:
        paths = sorted(Path(folder).glob("pairs_*.safetensors"))
        if not paths:
            raise GidliteError(f"{folder} holds no pairs_*.safetensors; run extract_pairs first")
        self.sources: list[str] = []
        self._pairs: list[Pair] = []
        for path in paths:
            for info, pair in _read_shard(path):
                self.sources.append(info["source"])
                self._pairs.append(Pair(*(getattr(pair, k).to(device) for k in vars(pair))))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> Pair:
        """Return a pair in the order of the folder."""
        return self._pairs[number]

    def pair(self, number: int, seed: int) -> Pair:
        """Return one pair; every pair once before any comes again."""
        order = torch.randperm(len(self), generator=seeded(seed, number // len(self)))
        return self._pairs[int(order[number % len(self)])]


class PairDataset:
    """Pairs from scenes and folders, drawn by weight; item i depends on the seed and i alone.

    Args:
        sources: Of pairs of one size, on one device.
        weights: How often each is drawn.
        seed: Another seed is another dataset of the same kind.
    """

    def __init__(
        self, sources: Sequence[PairSource], *, weights: Sequence[float], seed: int = 0
    ) -> None:
        self.sources, self.seed = list(sources), seed
        self._shares = torch.tensor(weights).cumsum(0) / sum(weights)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return a pair as a dictionary; motion and metric in half precision."""
        place = torch.rand(1, generator=seeded(self.seed, number))
        chosen = min(int(torch.searchsorted(self._shares, place)), len(self.sources) - 1)
        pair = vars(self.sources[chosen].pair(number, self.seed))
        return {k: v.half() if v.is_floating_point() else v for k, v in pair.items()}


def extract_pairs(
    clips: Sequence[str | Path],
    folder: str | Path,
    *,
    starts: int = 3,
    targets: int = 3,
    height: int = 160,
    width: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Cut pairs from real clips, motion by optical flow, into a folder of small shards.

    Every start frame is cut at another scale, between the whole picture and the clip's own
    resolution, so that sharp and soft pictures occur.

    Args:
        clips: Still camera.
        folder: Where shards go.
        starts: First frames per clip.
        targets: Second frames for each, up to 1.5 s later.
        height: Rows of pairs.
        width: Columns of pairs.
        seed: Of the choice.
        progress: Called with (clips done, clips in all).

    Returns:
        The number of pairs.

    Raises:
        GidliteError: If a clip cannot be read or is too short or too small.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    waiting: list[tuple[dict, Pair]] = []
    shards = count = 0

    def flush() -> None:
        nonlocal shards
        _write_shard(Path(folder) / f"pairs_{shards:05d}.safetensors", waiting)
        shards += 1
        waiting.clear()

    for number, clip in enumerate(clips):
        generator = seeded(seed, number)
        for pair in _clip_pairs(Path(clip), starts, targets, (height, width), generator):
            waiting.append(({"source": Path(clip).name}, pair))
            count += 1
            if len(waiting) == _PER_SHARD:
                flush()
        if progress is not None:
            progress(number + 1, len(clips))
    if waiting:
        flush()
    return count


def _clip_pairs(path: Path, starts: int, targets: int, size, generator):
    info = probe_video(path)
    frames = read_video(path, max_frames=360).frames
    if len(frames) < 10 or frames.shape[-2] < size[0] * 0.9 or frames.shape[-1] < size[1] * 0.9:
        raise GidliteError(
            f"{path} has {len(frames)} frames of {info.width}x{info.height}; pairs need 10 frames "
            f"of at least {size[1]}x{size[0]}"
        )
    window = min(_WINDOW, len(frames) // 2)
    for start in range(starts):
        place, scale, y, x = torch.rand(4, generator=generator).tolist()
        first = int((start + place) / starts * (len(frames) - window))
        cut = _cut(frames[first : first + window], size, scale, y, x)
        yield from _window_pairs(cut, targets, generator)


def _cut(frames: Tensor, size: tuple[int, int], scale: float, y: float, x: float) -> Tensor:
    """Return a part of the frames of ``size``; at scale 0 as much as fits, at 1 unscaled."""
    rows, columns = frames.shape[-2:]
    least = max(size[0] / rows, size[1] / columns)
    factor = least + max(0.0, 1 - least) * scale
    rows, columns = max(size[0], round(rows * factor)), max(size[1], round(columns * factor))
    top, left = round(y * (rows - size[0])), round(x * (columns - size[1]))
    resized = (resize(frame.float() / 255, height=rows, width=columns) for frame in frames)
    part = slice(top, top + size[0]), slice(left, left + size[1])
    return torch.stack([_bytes(frame[:, part[0], part[1]]) for frame in resized])


def _window_pairs(frames: Tensor, targets: int, generator):
    greys = [grey(frame) for frame in frames]
    flows, engine = follow(greys), optical_flow_engine()
    metric = flows.norm(dim=1).mean(0, keepdim=True) * (256 / frames.shape[-1])
    chosen = torch.randperm(len(frames) - 1, generator=generator)[:targets] + 1
    nothing = torch.zeros(1, *frames.shape[-2:], dtype=torch.bool)
    for time in chosen.tolist():
        back = engine(greys[time], greys[0], None)
        reliable = consistent(flows[time], back)[None]
        yield Pair(frames[0], frames[time], flows[time], metric, reliable, nothing)


def _write_shard(path: Path, pairs: list[tuple[dict, Pair]]) -> None:
    tensors, infos, known = {}, [], {}
    for number, (info, pair) in enumerate(pairs):
        height, width = pair.first.shape[-2:]
        motion = resize_motion(pair.motion, height=height // 2, width=width // 2)
        metric = functional.avg_pool2d(pair.metric, 2)
        # Outliers of the flow would cost everything else its precision.
        step, top = (max(float(x.abs().flatten().quantile(0.999)), 0.1) for x in (motion, metric))
        outlier = functional.interpolate(
            (motion.abs().amax(0) > step)[None, None].float(), (height, width)
        )[0].bool()
        raw = {
            "first": _jpeg(pair.first),
            "second": _jpeg(pair.second),
            "motion": _packed((motion / step).clamp(-1, 1).mul(127).round().char()),
            "metric": _packed((metric / top).clamp(0, 1).mul(255).round().byte()),
            "reliable": _packed(torch.from_numpy(np.packbits((pair.reliable & ~outlier).numpy()))),
        }
        # Pairs of one start share the first frame and the metric, which are kept once.
        names = {k: known.setdefault(v.numpy().tobytes(), f"{number}.{k}") for k, v in raw.items()}
        tensors |= {names[k]: v for k, v in raw.items()}
        scales = {"step": step / 127, "top": top / 255, "size": [height, width]}
        infos.append(info | scales | {"tensors": names})
    metadata = {"format": _FORMAT, "version": _VERSION, "pairs": json.dumps(infos)}
    save_file(tensors, path, metadata)


def _read_shard(path: Path):
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
                raise GidliteError(f"{path} is no shard of pairs of version {_VERSION}")
            for info in json.loads(metadata["pairs"]):
                raw = {k: file.get_tensor(name) for k, name in info["tensors"].items()}
                yield info, _unpack_pair(raw, info)
    except (OSError, SafetensorError) as error:
        raise GidliteError(f"{path} cannot be read ({error}); extract the pairs again") from None


def _unpack_pair(raw: dict[str, Tensor], info: dict) -> Pair:
    height, width = info["size"]
    half = (height // 2, width // 2)
    motion = _unpacked(raw["motion"], np.int8).view(2, *half).float() * info["step"]
    metric = _unpacked(raw["metric"], np.uint8).view(1, *half).float() * info["top"]
    bits = np.unpackbits(_unpacked(raw["reliable"], np.uint8).numpy(), count=height * width)
    return Pair(
        *(_picture(raw[k]) for k in ("first", "second")),
        resize_motion(motion, height=height, width=width),
        functional.interpolate(metric[None], (height, width), mode="bilinear")[0],
        torch.from_numpy(bits).view(1, height, width).bool(),
        torch.zeros(1, height, width, dtype=torch.bool),
    )


def _jpeg(frame: Tensor) -> Tensor:
    stream = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=_QUALITY)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)


def _picture(data: Tensor) -> Tensor:
    image = Image.open(io.BytesIO(data.numpy().tobytes())).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _packed(values: Tensor) -> Tensor:
    content = zlib.compress(values.contiguous().numpy().tobytes(), 9)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _unpacked(data: Tensor, kind: type) -> Tensor:
    content = zlib.decompress(data.numpy().tobytes())
    return torch.from_numpy(np.frombuffer(content, dtype=kind).copy())
