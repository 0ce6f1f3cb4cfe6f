"""Extraction: its time against bare decoding and flow, and one worker against two.

python benchmarks/extract.py                 # on a painted video made here
python benchmarks/extract.py VIDEO [VIDEO…]  # on real ones
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch
from rich.console import Console
from rich.table import Table

from gidlite.data.extract import Settings, run_extraction
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.media import stream_video, write_video
from gidlite.motion.flow import follow, grey

STARTS = 8


def painted_videos(folder: Path, count: int) -> list[Path]:
    """Film one scene and save it under different beginnings."""
    pieces = Pieces.painted(count=17, generator=torch.Generator().manual_seed(0))
    frames = 150 + 10 * (STARTS - 1)
    scene = make_scenes(1, pieces, num_frames=frames, generator=torch.Generator().manual_seed(30))
    film = [scene.frame(t)[0] for t in range(frames)]
    videos = [folder / f"{number}.mp4" for number in range(count)]
    for number, video in enumerate(videos):
        write_video(video, [frame.roll(16 * number, -1) for frame in film], fps=30)
    return videos


def bare(video: Path, settings: Settings) -> float:
    """Return the seconds that decoding and flow alone take, on one core."""
    started = time.perf_counter()
    size = (settings.height, settings.width)
    greys = [grey(frame) for frame in stream_video(video, fps=settings.fps, size=size)]
    for start in range(0, len(greys) - settings.num_frames + 1, settings.every):
        follow(greys[start : start + settings.num_frames])
    return time.perf_counter() - started


def timed(videos: list[Path], out: Path, workers: int, settings: Settings) -> float:
    """Return wall seconds, starting the processes included."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    run_extraction(videos, out, settings=settings, workers=workers)
    return time.perf_counter() - started


def main() -> None:
    """Print both tables."""
    console, settings = Console(), Settings()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        videos = [Path(v) for v in sys.argv[1:]] or painted_videos(folder, 8)
        table = Table("video", "extract (s)", "decode + flow (s)", "ratio (target 1.3)")
        for video in videos[:2]:
            floor = bare(video, settings)
            whole = timed([video], folder / "one", 1, settings)
            table.add_row(video.name, f"{whole:.1f}", f"{floor:.1f}", f"{whole / floor:.2f}")
        console.print(table)
        table = Table("workers", "wall (s)", "speed-up (target 1.7)")
        walls = [timed(videos, folder / f"w{n}", n, settings) for n in (1, 2)]
        for workers, wall in enumerate(walls, start=1):
            table.add_row(str(workers), f"{wall:.1f}", f"{walls[0] / wall:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
