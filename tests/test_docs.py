"""The pages a reader meets first: short, linked, and true to the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.slow
def test_the_lines_of_python_in_the_readme_run(tmp_path, monkeypatch):
    pytest.importorskip("mediapy")
    from gidlite.media import read_image, resize, sample_photo, write_image

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    write_image("rose.jpg", resize(read_image(sample_photo()), height=64, width=96))
    names: dict = {}
    exec(code, names)
    assert names["output"].frames.shape == (150, 3, 64, 96)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_pictures_are_there(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).is_file(), target


def test_the_readme_lists_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{notebook.name})" in text


def test_every_module_has_its_place_in_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/api").glob("*.md"))
    listed = set(re.findall(r"::: (gidlite[\w.]*)", text))
    package = ROOT / "gidlite"
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
    }
    commands = {m for m in modules if m.startswith(("gidlite.cli", "gidlite.__main__"))}
    assert listed == modules - commands - {"gidlite"}


def test_the_picture_of_the_rooms_is_what_the_imports_say():
    draw = [sys.executable, str(ROOT / "tools" / "draw_rooms.py"), "--check"]
    assert subprocess.run(draw, check=False).returncode == 0, "run tools/draw_rooms.py"


def test_the_house_and_the_picture_agree_on_what_is_a_room():
    sys.path.insert(0, str(ROOT / "tools"))
    from draw_rooms import SAYS
    from test_house import LEVEL

    assert set(SAYS) == set(LEVEL) - {"__main__"}


@pytest.mark.parametrize("page", ["reliability", "security"])
def test_the_tests_that_hold_a_promise_are_there(page):
    text, file = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), None
    named = re.findall(r"`(test_\w+\.py)?(?:::)?(test_\w+)?(\*?)`", text)
    assert len(named) > 10
    for name, test, more in named:
        (file,) = (ROOT / "tests").rglob(name) if name else (file,)
        known = re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8"))
        assert not test or any(k.startswith(test) if more else k == test for k in known), test
