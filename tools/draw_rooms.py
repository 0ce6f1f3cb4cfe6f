"""Draw docs/rooms.svg: the rooms of the package, and who imports whom.

    python tools/draw_rooms.py          # write it
    python tools/draw_rooms.py --check  # exit 1 if the stored picture is not what imports say

An arrow runs from a room to one that imports it. An arrow that others already imply is left out.
"""

import ast
import sys
from itertools import product
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, PICTURE = ROOT / "gidlite", ROOT / "docs" / "rooms.svg"
# Rows from top to bottom, as a photo travels.
ROWS = [
    ["errors"], ["media"], ["motion"], ["viz", "prior"], ["loops"], ["dynamics", "render"],
    ["pipeline"], ["data"], ["train", "evaluate"], ["cli"],
]  # fmt: skip
SAYS = {
    "errors": "refuse, write, load: one way each",
    "media": "photos and clips in and out",
    "motion": "flow, spectral volume, normalization",
    "viz": "figures and slices",
    "prior": "photo features, latents, diffusion",
    "loops": "the gap at the seam, and closing it",
    "dynamics": "modes as oscillators; touching them",
    "render": "splatting, network, frames",
    "pipeline": "photo to volume to frames",
    "data": "scenes, videos, shards, datasets",
    "train": "settings, tasks, loop",
    "evaluate": "motion, videos, distances",
    "cli": "the gidlite command",
}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 280, 52, 60, 34, 20
STYLE = """
  .room { fill: #e8f1ea; stroke: #2f6b4f; stroke-width: 1.5 } .name { font: 600 15px sans-serif }
  .says { font: 12px sans-serif; fill: #333 }
  .arrow { fill: none; stroke: #7a8b83; stroke-width: 1.6 }
  .tip { fill: #7a8b83 } .page { fill: #fff }
"""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports() -> set[tuple[str, str]]:
    """Return (imported, importing) of every pair of rooms."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gidlite"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.startswith("gidlite.")]
            for name in names:
                pair = name.split(".")[1], room_of(path)
                if pair[0] != pair[1] and set(pair) <= set(SAYS):
                    found.add(pair)
    return found


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the pairs that no chain of others implies."""
    reach = set(pairs)
    for middle, first, last in product(SAYS, SAYS, SAYS):
        if (first, middle) in reach and (middle, last) in reach:
            reach.add((first, last))
    return {(a, b) for a, b in pairs if not any((a, m) in reach and (m, b) in reach for m in SAYS)}


def places() -> dict[str, tuple[float, float]]:
    """Return the upper left corner of every room."""
    full = 2 * WIDTH + GAP_X
    corners = {}
    for number, row in enumerate(ROWS):
        left = MARGIN + (full - len(row) * WIDTH - (len(row) - 1) * GAP_X) / 2
        for place, name in enumerate(row):
            x = left + place * (WIDTH + GAP_X)
            corners[name] = x, MARGIN + number * (HEIGHT + GAP_Y)
    return corners


def arrow(start: tuple[float, float], end: tuple[float, float], shift: float) -> str:
    """Return a curve from the lower edge of one room to the upper edge of another."""
    x1, y1 = start[0] + WIDTH / 2 + shift, start[1] + HEIGHT
    x2, y2 = end[0] + WIDTH / 2 + shift, end[1] - 7
    bend = (y2 - y1) / 2
    side = 190 if x1 == x2 and y2 - y1 > GAP_Y + HEIGHT else 0  # around what stands between
    curve = f"M{x1:g} {y1:g} C{x1 + side:g} {y1 + bend:g} {x2 + side:g} {y2 - bend:g} {x2:g} {y2:g}"
    tip = f"{x2 - 5:g},{y2:g} {x2 + 5:g},{y2:g} {x2:g},{y2 + 7:g}"
    return f'<path class="arrow" d="{curve}"/><polygon class="tip" points="{tip}"/>'


def draw() -> str:
    """Return the picture as SVG."""
    corners = places()
    width = 2 * MARGIN + 2 * WIDTH + GAP_X
    height = 2 * MARGIN + len(ROWS) * (HEIGHT + GAP_Y) - GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Rooms of gidlite; an arrow leads to a room that imports the one before</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    for number, (first, last) in enumerate(sorted(reduced(imports()))):
        parts.append(arrow(corners[first], corners[last], 12 * (number % 5 - 2)))
    for name, (x, y) in corners.items():
        parts += [
            f'<rect class="room" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'<text class="name" x="{x + 14:g}" y="{y + 22:g}">{name}</text>',
            f'<text class="says" x="{x + 14:g}" y="{y + 40:g}">{escape(SAYS[name])}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    picture = draw()
    if "--check" in sys.argv:
        return int(not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != picture)
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
