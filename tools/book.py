"""A hook of mkdocs: every notebook is a page of the book, its maths MathML, its films playing.

Nothing here knows the name of a notebook: lessons are the files of ``notebooks/`` in order. In
``nav``, ``notebooks/`` stands for all of them; in a page, ``<!-- lessons -->`` for their list.
"""

import html
import logging
import re
import tempfile
from contextlib import redirect_stdout
from importlib import resources
from pathlib import Path

from lesson import ROOT, Lesson, place, raw, relink
from mathml import mathml
from mkdocs.structure.files import File

from gidlite.cli.photo import poke
from gidlite.media import sample_photo

WARN = logging.getLogger("mkdocs.hooks.book").warning  # an error, as the build is strict
MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
LONG = 28  # characters of a formula that may not fit a phone
touch: list[File] = []


def lessons() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def page_to_touch() -> bytes:
    """Return what `gidlite poke` writes for the sample photo; nothing is sampled for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flower.html"
        with redirect_stdout(None):
            poke(source=sample_photo(), output=path, alt="A dahlia in front of dark leaves.")
        return path.read_bytes()


def maths(match: re.Match) -> str:
    block, formula = match[1] == "div", html.unescape(match[2]).strip()
    try:
        drawn = mathml(formula, block=block)
    except ValueError as error:
        WARN(f"a formula cannot be drawn ({error}): {formula}")
        return match[0]
    if block:
        return f'<div class="maths">{drawn}</div>'
    long = len(re.sub("<[^>]+>", "", drawn)) > LONG
    return f'<span class="long">{drawn}</span>' if long else drawn


def name_in_maths(items) -> None:
    """Draw the formulas of headings in the table of contents, too."""
    for item in items:
        item.title = re.sub(
            r"\\\((.+?)\\\)", lambda m: mathml(html.unescape(m[1]), block=False), item.title
        )
        name_in_maths(item.children)


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
        lesson = Lesson(path)
        files.append(File.generated(config, place(path).as_posix(), content=lesson.text()))
        for name, data in lesson.pictures.items():
            files.append(File.generated(config, name, content=data))
    touch.append(File.generated(config, "notebooks/touch/flower.html", content=page_to_touch()))
    font = str(resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")
    files.append(touch[0])
    files.append(File.generated(config, "assets/maths.ttf", abs_src_path=font))
    return files


def on_page_markdown(text, page, config, files):
    if page.file.generated_by:  # a lesson, done already
        return text
    text = relink(text, (ROOT / "docs" / page.file.src_uri).parent)
    if "<!-- lessons -->" not in text:
        return text
    listed = [f"- [{Lesson(path).title()}]({place(path).as_posix()})" for path in lessons()]
    return text.replace("<!-- lessons -->", "\n".join(listed))


def on_page_content(text, page, config, files):
    def back(match: re.Match) -> str:
        if match[1] == "touch":
            address = touch[0].url_relative_to(page.file)
            return f'<iframe class="touch" title="A photo to touch" src="{address}"></iframe>'
        return f'<div class="output">{raw[int(match[2])]}</div>'

    text = MATHS.sub(maths, text)
    name_in_maths(page.toc)
    return re.sub(r'<div class="(\w+)" data-raw="(\d+)"></div>', back, text)
