"""A folder of photos: one call of the command that has all cores, against a call for each photo.

python benchmarks/folder.py                       # 8 photos made of the one that scikit-learn ships
python benchmarks/folder.py --width 640 --seconds 5
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from gidlite.media import sample_photo

TARGET = 1.8


def make_photos(folder: Path, count: int) -> list[Path]:
    """Write parts of a photo, mirrored or not, at one size."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    with Image.open(sample_photo()) as photo:
        for number, path in enumerate(paths):
            part = photo.crop((8 * number, 4 * number, photo.width, photo.height))
            part = ImageOps.mirror(part) if number % 2 else part
            part.resize((1280, 854)).save(path)
    return paths


def seconds(*arguments: object) -> float:
    """Return how long a call of the command takes."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "gidlite", "animate", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print seconds and throughput of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    given = ("--width", options.width, "--seconds", options.seconds)
    with tempfile.TemporaryDirectory() as place:
        photos = make_photos(Path(place) / "photos", options.photos)
        seconds(photos[0], *given, "--seconds", 0.2)  # compiles what is kept on the disk
        alone = sum(seconds(photo, *given) for photo in photos)
        together = seconds(photos[0].parent, *given)
    title = f"{len(photos)} photos, {options.width} px wide, {options.seconds:g} s"
    table = Table("", "seconds", f"throughput (target {TARGET})", title=title)
    table.add_row("a call each", f"{alone:.1f}", "1")
    table.add_row("a folder", f"{together:.1f}", f"{alone / together:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
