"""How the cost of a loop grows: with its size, its length, the photo, K, and the number of photos.

``python -m benchmarks.cost -o docs/cost.svg`` measures whole commands, imports included, on an idle
machine (three minutes) and draws seconds above, peak memory below. One thing changes at a time; the
rest is a photo of 2 megapixels, a loop of 2 s, 512 px wide. K is the number of bins of an untrained
prior of the default's size. A folder's memory is that of its largest process.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib import pyplot

from benchmarks.commands import large_photo
from benchmarks.rows import GIDLITE, Cost, run
from gidlite.viz import style

WIDTHS, SECONDS, BINS = (256, 512, 768, 1024, 1448), (1, 2, 5, 10, 20), (4, 8, 16, 32)
MEGAPIXELS, PHOTOS = (0.5, 2, 6, 12, 24), (1, 2, 4, 8)
_PRIOR = """
import sys
from gidlite.pipeline import GidPipeline
from gidlite.prior.drawer import Drawer, ModesPrior
from gidlite.prior.modes import ModesNet
bins = int(sys.argv[1])
GidPipeline(ModesPrior(ModesNet(bins, 24, 4), Drawer(bins, 24, 4))).save_pretrained(sys.argv[2])
"""


def animate(folder: Path, source: Path, *options: object) -> Cost:
    """Return what one call of ``animate`` costs."""
    base = ("-o", folder / "out.mp4", "--width", 512, "--seconds", 2)
    return run([*GIDLITE, "animate", source, *base, *options])


def photos(folder: Path, photo: Path, count: int) -> Cost:
    """Return what one call for a folder of so many photos costs."""
    for number in range(count):
        (folder / "in").mkdir(exist_ok=True)
        shutil.copy(photo, folder / "in" / f"{number}.jpg")
    with tempfile.TemporaryDirectory(dir=folder) as output:  # a finished one would be gone on with
        told = ("-o", output, "--width", 512, "--seconds", 2)
        cost = run([*GIDLITE, "animate", folder / "in", *told])
    unit = 1 if sys.platform == "darwin" else 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e9
    return Cost(cost.seconds, max(largest, cost.gigabytes))


def measured(folder: Path) -> Iterator[tuple[str, list[float], list[Cost]]]:
    """Yield, for each thing that changes, its name, its values and what they cost."""
    photo = large_photo(folder, 2)

    def prior(bins: int) -> Cost:
        path = folder / f"prior{bins}"
        subprocess.run([sys.executable, "-c", _PRIOR, str(bins), str(path)], check=True)
        return animate(folder, photo, "--model", path)

    # The folder first: the peak of children counts all that ended before.
    kinds: dict[str, tuple[tuple, Callable[[float], Cost]]] = {
        "photos in a folder": (PHOTOS, lambda n: photos(folder, photo, n)),
        "width of the video, px": (WIDTHS, lambda w: animate(folder, photo, "--width", w)),
        "length of the video, s": (SECONDS, lambda s: animate(folder, photo, "--seconds", s)),
        "photo, megapixels": (MEGAPIXELS, lambda m: animate(folder, large_photo(folder, m))),
        "bins K": (BINS, prior),
    }
    for name, (values, cost) in kinds.items():
        yield name, list(values), [min(cost(v), cost(v), key=lambda c: c.seconds) for v in values]


def draw(curves: list[tuple[str, list[float], list[Cost]]]) -> pyplot.Figure:
    """Return a picture with a column for each thing that changes."""
    style()
    figure, axes = pyplot.subplots(2, len(curves), figsize=(11, 4), sharey="row", sharex="col")
    for column, (name, values, costs) in zip(axes.T, curves, strict=True):
        column[0].plot(values, [cost.seconds for cost in costs], "o-")
        column[1].plot(values, [cost.gigabytes for cost in costs], "o-", color="C1")
        column[1].set_xlabel(name)
    for axis, label in zip(axes[:, 0], ("seconds", "GB at most"), strict=True):
        axis.set(ylim=(0, None), ylabel=label)  # shared: set when all is drawn
    return figure


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/cost.svg"))
    output = parser.parse_args().output
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        for curve in measured(Path(folder)):
            curves.append(curve)
            for value, cost in zip(*curve[1:], strict=True):
                told = f"{cost.seconds:.1f} s, {cost.gigabytes:.2f} GB"
                print(f"{curve[0]} {value:g}: {told}", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(curves).savefig(output, metadata={"Date": None})
    print(output)


if __name__ == "__main__":
    main()
