"""A hook of mkdocs: every notebook is a page of the book, its maths MathML, its films playing.

Nothing here knows the name of a notebook: lessons are the files of ``notebooks/`` in order. In
``nav``, ``notebooks/`` stands for all of them; in a page, ``<!-- lessons -->`` for their list.
"""

import html
import io
import logging
import os
import re
import tempfile
from base64 import b64decode
from importlib import resources
from pathlib import Path

import nbformat
from mathml import mathml
from mkdocs.structure.files import File
from PIL import Image

from gidlite.cli.photo import poke
from gidlite.media import sample_photo

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/gidlite/gidlite/blob/main/"
WARN = logging.getLogger("mkdocs.hooks.book").warning  # an error, as the build is strict
FENCE = re.compile(r"(^ *(`{3,}|~{3,}).*?^ *\2 *$)", re.M | re.S)
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]*)(#[^)\s]*)?(?=[)\s])")
BADGE = re.compile(r"\[!\[([^\]]+)\]\(https?://[^)]*\)\]\(([^)]+)\)")
MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
HIDDEN = {"hide", "hide-input", "hide_input"}
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}
raw: list[str] = []  # HTML that Markdown must not see, by its place here
touch: list[File] = []


def lessons() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def title(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[0].source.partition("\n")[0].removeprefix("# ")


def place(path: Path) -> Path | None:
    """Return where a file of the repository is in the book."""
    if path.is_relative_to(ROOT / "notebooks"):
        path = path.with_suffix(".md") if path.suffix == ".ipynb" else path
        return path.relative_to(ROOT)
    return path.relative_to(ROOT / "docs") if path.is_relative_to(ROOT / "docs") else None


def relink(text: str, folder: Path) -> str:
    """Turn links of a file in a folder of the repository into links of the book, or to GitHub."""

    def new(match: re.Match) -> str:
        name, anchor = match[1], match[2] or ""
        if not name:
            return anchor.lower()
        path = Path(os.path.normpath(folder / name))
        inside = place(path)
        if inside is not None:
            anchor = anchor.lower() if name.endswith(".ipynb") else anchor
            return Path(os.path.relpath(inside, place(folder))).as_posix() + anchor
        known = path.exists() and path.is_relative_to(ROOT)
        return REPOSITORY + path.relative_to(ROOT).as_posix() + anchor if known else match[0]

    return LINK.sub(new, text)


def markdown(text: str) -> str:
    """Return a cell in the Markdown of mkdocs, with what only Jupyter allows spelt out."""
    parts = FENCE.split(text)
    for i in range(0, len(parts), 3):
        part = relink(BADGE.sub(r"[Open in \1](\2){ .md-button }", parts[i]), ROOT / "notebooks")
        part = part.replace("<details>", '<details markdown="1">')
        part = re.sub(r"\s*^(\$\$.+?\$\$)\s*", r"\n\n\1\n\n", part, flags=re.M | re.S)
        part = re.sub(r"\n(?=\*\*[A-Z])", "  \n", part)  # a line that begins in bold is a line
        item = r"(?:[*+-]|\d+\.) "
        parts[i] = re.sub(rf"(?m)^(?! *{item})(\S.*)\n(?={item})", r"\1\n\n", part)
    return "".join(part for i, part in enumerate(parts) if i % 3 != 2)


def kept(text: str, kind: str = "output") -> str:
    raw.append(text)
    return f'<div class="{kind}" data-raw="{len(raw) - 1}"></div>'


def fenced(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


class Lesson:
    """One notebook on its way to a page."""

    def __init__(self, path: Path, config) -> None:
        self.path, self.config, self.pictures = path, config, []
        self.cells = nbformat.read(path, as_version=4).cells

    def picture(self, data: bytes, kind: str, caption: str) -> str:
        name = f"{self.path.stem}/{len(self.pictures) + 1}.{kind}"
        file = File.generated(self.config, f"notebooks/{name}", content=data)
        self.pictures.append(file)
        width, height = Image.open(io.BytesIO(data)).size
        wide = " .wide" if width > 2 * height else ""
        size = f"{{ .figure{wide} loading=lazy width={width} height={height} }}"
        return f"![{caption}]({name}){size}"

    def output(self, output: nbformat.NotebookNode, caption: str) -> str:
        if output.output_type == "stream":
            return self.wrap(fenced(ANSI.sub("", output.text), "text"))
        data = output.get("data", {})
        if "text/html" in data:
            return kept(data["text/html"])
        if "text/markdown" in data:
            return self.wrap(markdown(data["text/markdown"]))
        for kind in set(PICTURES) & set(data):
            return self.wrap(self.picture(b64decode(data[kind]), PICTURES[kind], caption))
        if WIDGET in data:
            return self.wrap("*A widget: it appears where the notebook runs.*")
        return self.wrap(fenced(data["text/plain"], "text")) if data.get("text/plain") else ""

    def wrap(self, text: str) -> str:
        return f'<div class="output" markdown="1">\n\n{text}\n\n</div>'

    def caption(self, index: int) -> str:
        """What the cell below says of the picture, or the heading above it."""
        below = self.cells[index + 1 : index + 2]
        found = [m for c in below for m in re.findall(r"^\*(Pictures?: .+?)\*\s*$", c.source, re.M)]
        above = "\n".join(c.source for c in self.cells[:index] if c.cell_type == "markdown")
        text = (found[:1] or re.findall(r"^#+ (.+)", above, re.M)[-1:] or ["Picture"])[0]
        return re.sub(r"[\[\]{}<>\"]|\$[^$]*\$|\]\([^)]*\)", "", text).replace("\\", "")

    def text(self) -> str:
        parts, poke = [], "interactive_modal_dynamics" in self.path.stem
        for index, cell in enumerate(self.cells):
            if cell.cell_type != "code":
                parts.append(markdown(cell.source))
                continue
            hidden = HIDDEN & set(cell.metadata.get("tags", []))
            code = fenced(cell.source, "python")
            fold = '<details markdown="1"><summary>Code</summary>\n\n{}\n\n</details>'
            parts.append(fold.format(code) if hidden else code)
            if poke and re.search(r"\bModalExplorer\(", cell.source):
                parts.append(kept("", "touch"))
                poke = False
                continue
            parts += [self.output(output, self.caption(index)) for output in cell.outputs]
        if poke:
            parts.append(kept("", "touch"))
        return "\n\n".join(parts) + "\n"


def page_to_touch() -> bytes:
    """Return what `gidlite poke` writes for the sample photo; nothing is sampled for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flower.html"
        poke(source=sample_photo(), output=path, alt="A dahlia in front of dark leaves.")
        return path.read_bytes()


def maths(match: re.Match) -> str:
    block, formula = match[1] == "div", html.unescape(match[2]).strip()
    try:
        drawn = mathml(formula, block=block)
    except ValueError as error:
        WARN(f"a formula cannot be drawn ({error}): {formula}")
        return match[0]
    return f'<div class="maths">{drawn}</div>' if block else drawn


def on_config(config):
    """Put the lessons where the navigation says ``notebooks/``."""
    pages = [place(path).as_posix() for path in lessons()]
    config.nav = [{k: pages if v == "notebooks/" else v for k, v in e.items()}
                  if isinstance(e, dict) else e for e in config.nav]  # fmt: skip
    raw.clear()
    touch.clear()
    return config


def on_files(files, config):
    for path in lessons():
        lesson = Lesson(path, config)
        files.append(File.generated(config, place(path).as_posix(), content=lesson.text()))
        for picture in lesson.pictures:
            files.append(picture)
    touch.append(File.generated(config, "notebooks/touch/flower.html", content=page_to_touch()))
    font = str(resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")
    files.append(touch[0])
    files.append(File.generated(config, "assets/maths.ttf", abs_src_path=font))
    return files


def on_page_markdown(text, page, config, files):
    if page.file.generated_by:  # a lesson, done already
        return text
    listed = [f"1. [{title(nbformat.read(path, as_version=4))}](notebooks/{path.stem}.md)"
              for path in lessons()]  # fmt: skip
    text = relink(text, (ROOT / "docs" / page.file.src_uri).parent)
    return text.replace("<!-- lessons -->", "\n".join(listed))


def on_page_content(text, page, config, files):
    def back(match: re.Match) -> str:
        if match[1] == "touch":
            address = touch[0].url_relative_to(page.file)
            return f'<iframe class="touch" title="A photo to touch" src="{address}"></iframe>'
        return f'<div class="output">{raw[int(match[2])]}</div>'

    text = MATHS.sub(maths, text)
    return re.sub(r'<div class="(\w+)" data-raw="(\d+)"></div>', back, text)
