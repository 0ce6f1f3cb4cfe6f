"""Times FVD from video files, and what its parts take.

    python benchmarks/metrics.py [VIDEO...] --weights FOLDER

Without videos it writes some of its own. Prints clips of 16 frames per second, decoding included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from gidlite.evaluate.networks import load_published
from gidlite.evaluate.videos import Clips, FeatureStore, Reading
from gidlite.media import write_video


def make_videos(folder: Path, count: int) -> list[Path]:
    """Write videos of 33 frames of a drifting pattern."""
    generator = torch.Generator().manual_seed(0)
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for path in paths:
        base = torch.rand(3, 20, 36, generator=generator)
        picture = torch.nn.functional.interpolate(base[None], (160, 288), mode="bicubic")[0]
        frames = [picture.roll(t // 2, -1)[..., :256] for t in range(33)]
        write_video(path, (torch.stack(frames).clamp(0, 1) * 255).to(torch.uint8), fps=30)
    return paths


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    i3d, inception = (load_published(name, options.weights) for name in ("i3d", "inception"))
    i3d(torch.zeros(1, 16, 3, 160, 256, dtype=torch.uint8))  # first use sets things up
    reading = Reading(max_frames=33)
    with tempfile.TemporaryDirectory() as folder:
        videos = options.videos or make_videos(Path(folder), 6)
        store = FeatureStore(Path(folder) / "cache", reading)
        wall = time.perf_counter()
        for video in videos:
            list(reading.frames(video))
        print(f"decoding and scaling to 256x160: {time.perf_counter() - wall:.2f} s")
        for name, clips, network in (
            ("FVD, clips of 16", Clips(16, 16), i3d), ("FID, frames", Clips(1, 5), inception)
        ):  # fmt: skip
            wall, cpu = time.perf_counter(), time.process_time()
            count = sum(map(len, store.features(videos, clips, network)))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(f"{name}: {count / wall:.2f} per second, {cpu / count:.2f} CPU-seconds each")


if __name__ == "__main__":
    main()
