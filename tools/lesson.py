"""A notebook as a page of the book: the Markdown that mkdocs reads, and its pictures as files."""

import io
import os
import re
from base64 import b64decode
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/gidlite/gidlite/blob/main/"
FENCE = re.compile(r"(^ *(`{3,}|~{3,}).*?^ *\2 *$)", re.M | re.S)
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]*)(#[^)\s]*)?(?=[)\s])")
BADGE = re.compile(r"\[!\[([^\]]+)\]\(https?://[^)]*\)\]\(([^)]+)\)")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}
raw: list[str] = []  # HTML that Markdown must not see, by its place here


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
        part = part.replace("<summary>", '<summary markdown="span">')
        part = re.sub(r"\s*^(\$\$.+?\$\$)\s*", r"\n\n\1\n\n", part, flags=re.M | re.S)
        part = re.sub(r"\n(?=\*\*[A-Z])", "  \n", part)  # a line that begins in bold is a line
        item = r"(?:[*+-]|\d+\.) "
        part = re.sub(rf"(?m)^ {{2,3}}(?={item})", " " * 4, part)
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

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures: dict[str, bytes] = {}  # by their place in the book
        self.cells = nbformat.read(path, as_version=4).cells

    def title(self) -> str:
        return self.cells[0].source.partition("\n")[0].removeprefix("# ")

    def picture(self, data: bytes, kind: str, caption: str) -> str:
        name = f"{self.path.stem}/{len(self.pictures) + 1}.{kind}"
        self.pictures[f"notebooks/{name}"] = data
        width, height = Image.open(io.BytesIO(data)).size
        wide = " .wide" if width > 2 * height else ""
        size = f"{{ .figure{wide} loading=lazy width={width} height={height} }}"
        return f"![{caption}]({name}){size}"

    def output(self, output: nbformat.NotebookNode, caption: str, touches: bool) -> str:
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
            touch = " [Here](touch/flower.html) is a photo to touch." if touches else ""
            return self.wrap(f"*A widget: it appears where the notebook runs.{touch}*")
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
            code = fenced(cell.source, "python")
            fold = '<details markdown="1"><summary>On Colab</summary>\n\n{}\n\n</details>'
            parts.append(fold.format(code) if "google.colab" in cell.source else code)
            touches = bool(re.search(r"\bModalExplorer\(", cell.source))
            if poke and touches:
                parts.append(kept("", "touch"))
                poke = False
                continue
            caption = self.caption(index)
            parts += [self.output(output, caption, touches) for output in cell.outputs]
        if poke:
            parts.append(kept("", "touch"))
        return "\n\n".join(parts) + "\n"
