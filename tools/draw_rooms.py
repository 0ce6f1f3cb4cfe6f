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
# From top to bottom, as a photo travels; an import points upwards.
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
    "web": "the prior as ONNX, for a page",
    "data": "scenes, videos, shards, datasets",
    "train": "settings, tasks, loop",
    "evaluate": "motion, videos, distances",
    "cli": "the gidlite command",
}
WIDTH, HEIGHT, GAP, MARGIN = 300, 48, 16, 20
ARC = 26  # px to the side for every room that an arrow passes
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


def arc(first: int, last: int) -> str:
    """Return an arrow from the right edge of one room around to that of another further down."""
    x, (y1, y2) = MARGIN + WIDTH, (MARGIN + n * (HEIGHT + GAP) + HEIGHT / 2 for n in (first, last))
    # Leaving low and arriving high keeps the two ends of a room apart.
    y1, y2, side = y1 + 9, y2 - 9, 14 + ARC * (last - first)
    curve = f"M{x} {y1:g} C{x + side} {y1:g} {x + side} {y2:g} {x + 7} {y2:g}"
    tip = f"{x + 8},{y2 - 5:g} {x + 8},{y2 + 5:g} {x},{y2:g}"
    return f'<path class="arrow" d="{curve}"/><polygon class="tip" points="{tip}"/>'


def draw() -> str:
    """Return the picture as SVG."""
    order = list(SAYS)
    pairs = sorted((order.index(a), order.index(b)) for a, b in reduced(imports()))
    longest = max(last - first for first, last in pairs)
    width = 2 * MARGIN + WIDTH + 14 + int(0.75 * ARC * longest)
    height = 2 * MARGIN + len(SAYS) * (HEIGHT + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Rooms of gidlite; an arrow leads to a room that imports the one before</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        *(arc(*pair) for pair in pairs),
    ]
    for number, (name, says) in enumerate(SAYS.items()):
        y = MARGIN + number * (HEIGHT + GAP)
        parts += [
            f'<rect class="room" x="{MARGIN}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'<text class="name" x="{MARGIN + 14}" y="{y + 20}">{name}</text>',
            f'<text class="says" x="{MARGIN + 14}" y="{y + 38}">{escape(says)}</text>',
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
