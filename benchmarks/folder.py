"""A folder of photos: one call of the command that has all cores, against a call for each photo.

python -m benchmarks.folder                       # 8 photos made of the one that scikit-learn ships
python -m benchmarks.folder --width 640 --seconds 5
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.rows import GIDLITE, Row, run
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


def seconds(*arguments: str | Path | float) -> float:
    """Return how long a call of the command takes."""
    return run([*GIDLITE, "animate", *arguments]).seconds


def compare(count: int = 8, width: int = 384, length: float = 2.0) -> tuple[float, float]:
    """Return the seconds of a call for each photo, and of one for all."""
    given = ("--width", width, "--seconds", length)
    with tempfile.TemporaryDirectory() as place:
        photos = make_photos(Path(place) / "photos", count)
        seconds(photos[0], *given[:2], "--seconds", 0.2)  # compiles what is kept on the disk
        alone = sum(seconds(photo, *given) for photo in photos)
        return alone, seconds(photos[0].parent, *given)


def rows() -> Iterator[Row]:
    """Yield the row of the table of all benchmarks."""
    alone, together = compare()
    yield Row("folder of 8 photos", alone / together, "× a call each", TARGET, most=False)


def main() -> None:
    """Print seconds and throughput of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    alone, together = compare(options.photos, options.width, options.seconds)
    title = f"{options.photos} photos, {options.width} px wide, {options.seconds:g} s"
    table = Table("", "seconds", f"throughput (target {TARGET})", title=title)
    table.add_row("a call each", f"{alone:.1f}", "1")
    table.add_row("a folder", f"{together:.1f}", f"{alone / together:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
