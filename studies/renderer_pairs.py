"""Pairs of frames for the renderer, cut from real clips; motion by optical flow.

    python -m studies.renderer_pairs CLIP... -o DIR

Every start frame is cut at another scale, between the whole picture and the clip's own resolution,
so that sharp and soft pictures occur. ``gidlite train renderer --data DIR`` learns from them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gidlite.data import seeded
from gidlite.data.pairs import PAIR_FORMAT, PAIR_TENSORS, Pair
from gidlite.errors import GidliteError, written
from gidlite.media import resize
from gidlite.media.video import find_videos, read_video
from gidlite.motion.flow import consistent, follow, grey, optical_flow_engine

_PER_SHARD = 64
# Frames read of a clip, and followed from each start.
_MOST_FRAMES, _WINDOW = 360, 45


def extract_pairs(
    clips: Sequence[str | Path],
    folder: str | Path,
    *,
    starts: int = 3,
    targets: int = 3,
    size: tuple[int, int] = (160, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Cut pairs from real clips into a folder of small shards; return how many.

    Args:
        clips: Still camera.
        folder: Where shards go.
        starts: First frames per clip.
        targets: Second frames for each, up to 1.5 s later.
        size: (height, width) of pairs.
        seed: Of the choice.
        progress: Called with (clips done, clips in all).

    Raises:
        GidliteError: If a clip cannot be read or is too short or too small.
    """

    def all_pairs() -> Iterator[tuple[str, Pair]]:
        for number, clip in enumerate(map(Path, clips)):
            generator = seeded(seed, number)
            for pair in _clip_pairs(clip, starts, targets, size, generator):
                yield clip.name, pair
            if progress is not None:
                progress(number + 1, len(clips))

    pairs, count, shards = all_pairs(), 0, 0
    while some := list(islice(pairs, _PER_SHARD)):
        write_pairs(Path(folder) / f"pairs_{shards:05d}.safetensors", some)
        count, shards = count + len(some), shards + 1
    return count


def _clip_pairs(
    path: Path, starts: int, targets: int, size: tuple[int, int], generator: torch.Generator
) -> Iterator[Pair]:
    frames = read_video(path, max_frames=_MOST_FRAMES).frames
    rows, columns = frames.shape[-2:]
    if len(frames) < 10 or rows < size[0] * 0.9 or columns < size[1] * 0.9:
        raise GidliteError(
            f"{path} has {len(frames)} frames of {columns}x{rows}; pairs need 10 frames of at "
            f"least {size[1]}x{size[0]}"
        )
    window = min(_WINDOW, len(frames) // 2)
    for start in range(starts):
        place, scale, y, x = torch.rand(4, generator=generator).tolist()
        first = int((start + place) / starts * (len(frames) - window))
        cut = _cut(frames[first : first + window], size, scale, y, x)
        times = torch.randperm(len(cut) - 1, generator=generator)[:targets] + 1
        yield from clip_pairs(cut, times.tolist())


def _cut(frames: Tensor, size: tuple[int, int], scale: float, y: float, x: float) -> Tensor:
    """Return a window of the frames of ``size``; at scale 0 as much as fits, at 1 unscaled."""
    rows, columns = frames.shape[-2:]
    least = max(size[0] / rows, size[1] / columns)
    factor = least + max(0.0, 1 - least) * scale
    rows, columns = max(size[0], round(rows * factor)), max(size[1], round(columns * factor))
    top, left = round(y * (rows - size[0])), round(x * (columns - size[1]))
    cut = []
    for frame in frames:
        resized = resize(frame.float() / 255, height=rows, width=columns)
        window = resized[:, top : top + size[0], left : left + size[1]]
        cut.append((window * 255).round().clamp(0, 255).byte())
    return torch.stack(cut)


def clip_pairs(frames: Tensor, times: Iterable[int]) -> Iterator[Pair]:
    """Yield the pairs (0, t) of real frames, motion by optical flow."""
    greys = [grey(frame) for frame in frames]
    flows, engine = follow(greys), optical_flow_engine()
    metric = flows.norm(dim=1).mean(0, keepdim=True) * (256 / frames.shape[-1])
    nothing = torch.zeros(1, *frames.shape[-2:], dtype=torch.bool)
    for time in times:
        back = engine(greys[time], greys[0], None)
        reliable = consistent(flows[time], back)[None]
        yield Pair(frames[0], frames[time], flows[time], metric, reliable, nothing)


def write_pairs(path: Path, pairs: list[tuple[str, Pair]]) -> None:
    """Write (name of clip, pair) of one size as a shard that ``PairFolder`` reads."""
    tensors = {
        name: torch.stack([getattr(pair, name) for _, pair in pairs]) for name in PAIR_TENSORS
    }
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    sources = json.dumps([source for source, _ in pairs])
    with written(path) as hidden:
        save_file(tensors, hidden, PAIR_FORMAT | {"sources": sources})


def main() -> None:
    """Read the command line, write pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="File, folder or pattern.")
    parser.add_argument("-o", "--output", required=True, help="Folder for shards.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        clips = [path for path, _ in find_videos(options.clips)]
        count = extract_pairs(clips, options.output, seed=options.seed)
    except GidliteError as error:
        parser.error(str(error))
    print(f"{options.output}  {count} pairs of {len(clips)} clips")


if __name__ == "__main__":
    main()
