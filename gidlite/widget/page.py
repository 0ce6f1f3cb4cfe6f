"""One HTML file with everything in it: opens from disk, asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from pathlib import Path

from gidlite.media.files import check_output, sibling, writing
from gidlite.widget.scene import Scene

__all__ = ["page_html", "write_page"]

_HERE = Path(__file__).parent
_STYLE = """
body { margin: 0 auto; padding: 16px; max-width: 1024px; background: #16181b; color: #eceff1;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.1rem; font-weight: 600; margin: 0 0 12px; }
figure { margin: 0 0 24px; }
figure > img { display: block; width: 100%; height: auto; }
figure > img[hidden] { display: none; }
footer { opacity: 0.6; font-size: 0.85rem; }
"""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{_text(hashlib.sha256(text.encode()).digest())}'"


def _figure(scene: Scene) -> str:
    """Return the photo as a plain image, which shows at once and without scripts, and its data."""
    names = ("back", "alpha", "front_modes", "back_modes")
    header = {key: value for key, value in scene.header.items() if key != "alt"}
    data = {"header": header} | {name: _text(getattr(scene, name)) for name in names}
    # No "<" can end the data block early.
    encoded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure data-gidlite>\n<img src="data:image/jpeg;base64,{_text(scene.photo)}" '
        f'width="{header["width"]}" height="{header["height"]}" '
        f'alt="{html.escape(scene.header["alt"])}">\n'
        f'<script type="application/json">{encoded}</script>\n</figure>\n'
    )


def page_html(scenes: list[Scene], *, title: str) -> str:
    """Return a page with one figure per scene under a content security policy of hashes."""
    style = _STYLE + (_HERE / "explorer.css").read_text(encoding="utf-8")
    module = (_HERE / "explorer.js").read_text(encoding="utf-8") + "\nmountAll();\n"
    policy = (
        f"default-src 'none'; script-src {_hash(module)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n<main>\n"
        + "".join(map(_figure, scenes))
        + "</main>\n<footer>Drag, let go, watch it ring. Made from one photo with gidlite; "
        "nothing leaves this page.</footer>\n"
        f'<script type="module">{module}</script>\n</body>\n</html>\n'
    )


def write_page(path: str | Path, scenes: Scene | list[Scene], *, title: str = "Touch it") -> None:
    """Write a self-contained interactive page.

    Args:
        path: HTML file.
        scenes: What to show, one below the other.
        title: Heading.

    Raises:
        GidliteError: If the file cannot be written.
    """
    path = Path(path)
    scenes = [scenes] if isinstance(scenes, Scene) else scenes
    check_output(path)
    temporary = sibling(path)
    try:
        with writing(path):
            temporary.write_text(page_html(scenes, title=title), encoding="utf-8")
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
