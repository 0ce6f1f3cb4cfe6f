"""Every lesson has the same shape: how it opens, what it says of itself, and where its links go."""

import os
import re
import sys
from pathlib import Path
from unittest import mock

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLAB = "https://colab.research.google.com"
BADGES = (
    f"[![Colab]({COLAB}/assets/colab-badge.svg)]"
    f"({COLAB}/github/gidlite/gidlite/blob/main/notebooks/{{name}}) "
    "[![Binder](https://mybinder.org/badge_logo.svg)]"
    "(https://mybinder.org/v2/gh/gidlite/gidlite/main?labpath=notebooks/{name})"
)
INSTALL = """\
# On Colab this fetches the course and installs it; anywhere else it does nothing.
import sys

if "google.colab" in sys.modules:
    !git clone -q --depth 1 https://github.com/gidlite/gidlite
    !pip install -q -e "gidlite[notebooks]"
    %cd gidlite/notebooks"""
OPENS = ("You will learn", "Before this", "Time", "Cost", "Data", "Package", "Paper", "Seed")
CODE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def cells(path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def prose(cells) -> str:
    """All Markdown without its code."""
    texts = (cell.source for cell in cells if cell.cell_type == "markdown")
    return CODE.sub("", "\n\n".join(texts))


def code(cells) -> list[str]:
    return [cell.source for cell in cells if cell.cell_type == "code"]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page: its headings, as GitHub and the book make them, and ids."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ +(.+?) *$", CODE.sub("", text), re.M)
    slugs = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", slug) for slug in slugs} | set(
        re.findall(r'\b(?:id|name)="([^"]+)"', text)
    )


def test_the_title_has_the_number_of_the_file(path, cells):
    first = cells[0].source.partition("\n")[0]
    assert re.fullmatch(rf"# {path.name[:2]} · \S.*", first), first


def test_badges_open_this_notebook(path, cells):
    assert BADGES.format(name=path.name) in cells[0].source.splitlines()


def test_the_first_code_installs_on_colab(cells):
    assert [cell.cell_type for cell in cells[:3]] == ["markdown", "code", "code"]
    assert cells[1].source.strip() == INSTALL
    assert cells[1].outputs == []


@pytest.fixture
def install() -> str:
    """The cell as Python, as IPython makes it."""
    inputs = pytest.importorskip("IPython.core.inputtransformer2")
    return inputs.TransformerManager().transform_cell(INSTALL)


def test_away_from_colab_the_cell_does_nothing(install, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    folder, known, shell = os.getcwd(), set(sys.modules), mock.Mock()
    names = {"get_ipython": lambda: shell}
    exec(install, names)
    assert set(names) == {"get_ipython", "sys", "__builtins__"}
    assert (os.getcwd(), set(sys.modules), shell.method_calls) == (folder, known, [])


def test_on_colab_the_cell_fetches_installs_and_goes_there(install, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", mock.Mock())
    shell = mock.Mock()
    exec(install, {"get_ipython": lambda: shell})
    (_, (fetch,), _), (_, (install_it,), _), (magic, where, _) = shell.method_calls
    assert fetch.startswith("git clone ") and install_it.startswith("pip install ")
    assert (magic, where) == ("run_line_magic", ("cd", "gidlite/notebooks"))


def test_it_says_what_it_is_about_and_takes(cells):
    missing = [word for word in OPENS if not re.search(rf"\*\*{word}\*\* \S", cells[0].source)]
    assert missing == []


def test_it_ends_with_what_to_remember(cells):
    text = prose(cells)
    headings = re.findall(r"^## (.+?) *$", text, re.M)
    missing = {"Check yourself", "Exercises", "What to remember"} - set(headings)
    assert not missing
    end = text[text.index("\n## What to remember") :]
    assert 1 <= len(re.findall(r"^[*+-] ", end, re.M)) <= 6, "at most six things to remember"
    for word in ("Limits", "Next", "References"):
        assert re.search(rf"^\*\*{word}\*\*:? \S", end, re.M), word


def test_next_is_the_next_lesson(path, cells):
    (line,) = re.findall(r"^\*\*Next\*\*.*", prose(cells), re.M)
    linked = [name.partition("#")[0] for name in re.findall(r"\]\(([^)]+\.ipynb[^)]*)\)", line)]
    rest = NOTEBOOKS[NOTEBOOKS.index(path) + 1 :]
    assert (rest[0].name in linked) if rest else "](" in line  # test_links_lead_somewhere


def test_one_style_and_the_map(path, cells):
    setup = code(cells)[1]
    assert re.search(r"^style\(\)", setup, re.M)
    assert setup.strip().splitlines()[-1] == f'you_are_here("{path.name[:2]}")'
    assert not re.search(r"set_matplotlib_formats|rcParams", "\n".join(code(cells)))


def test_links_lead_somewhere(path, cells):
    for target in LINK.findall(prose(cells)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_file() and file.is_relative_to(ROOT), target
        if file.suffix == ".md" and anchor:
            assert anchor in anchors(file), target
        if file.suffix == ".ipynb" and anchor:
            text = prose(nbformat.read(file, as_version=4).cells)
            titles = re.findall(r"^#+ +(.+?) *$", text, re.M)
            assert anchor.lower() in {t.replace(" ", "-").lower() for t in titles}, target


def test_terms_lead_to_the_glossary(cells):
    assert "(../docs/glossary.md#" in prose(cells)
