"""A page to touch for every photo of a folder, and an index of them.

python tools/gallery.py -o outputs/gallery [FOLDER_OR_PHOTO...]   # the sample photo by default
"""

import argparse
import html
import os
from pathlib import Path
from urllib.parse import quote

from gidlite.cli.photo import poke
from gidlite.media import read_image, sample_photo, write_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def collect(sources: list[Path]) -> list[Path]:
    """Return the photos given and those in folders given."""
    found = []
    for source in sources or [sample_photo()]:
        inside = sorted(source.iterdir()) if source.is_dir() else [source]
        found += [path for path in inside if path.suffix.lower() in SUFFIXES]
    return found


def index(names: list[str]) -> str:
    """Return the page that links to the others."""
    # Quoted, a name is an address beside this page, never one such as "javascript:...".
    tiles = "".join(
        f'<a href="{quote(os.fsencode(name))}.html">'
        f'<img src="{quote(os.fsencode(name))}.jpg" loading="lazy" '
        f'alt="{html.escape(name.replace("_", " "))}"></a>\n'
        for name in names
    )
    style = (
        "body{margin:16px;background:#16181b;color:#eceff1;font:15px system-ui}"
        "main{display:grid;gap:8px;grid-template-columns:repeat(auto-fill,minmax(240px,1fr))}"
        "img{width:100%;aspect-ratio:3/2;object-fit:cover;display:block}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Photos to touch</title>"
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>\n'
        f"<body><h1>Photos to touch</h1>\n<main>\n{tiles}</main></body></html>\n"
    )


def main() -> None:
    """Write the pages; those that are there already are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="*")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/gallery"))
    options = parser.parse_args()
    photos = collect(options.sources)
    for photo in photos:
        page = options.output / f"{photo.stem}.html"
        if not page.exists():
            poke(source=photo, output=page)
            write_image(page.with_suffix(".jpg"), read_image(photo, max_side=480))
    page = index([photo.stem for photo in photos])
    (options.output / "index.html").write_text(page, encoding="utf-8", errors="replace")
    print(options.output / "index.html")


if __name__ == "__main__":
    main()
