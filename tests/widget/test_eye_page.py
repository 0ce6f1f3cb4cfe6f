"""The blind page in a real browser, from the disk: answered by keys, reloaded, saved, scored."""

import json
from types import SimpleNamespace

import pytest
from test_browser import until

from gidlite.media import write_image
from studies.eye import make
from studies.eye.score import read_key, read_results, score

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAIRS = 10
AT = "document.querySelector('#at').textContent"
PLAYING = "!document.querySelector('[data-choice=left]').disabled"
SHOWN = "[...document.querySelectorAll('video')].map((v) => v.src.split('/').pop()).join()"


@pytest.fixture(scope="module")
def folder(photo, volume, tmp_path_factory):
    """A set of the disc that sways, against the photo."""
    path = tmp_path_factory.mktemp("eye")
    write_image(path / "disc.png", photo)
    prior = SimpleNamespace(volume=volume)
    with pytest.MonkeyPatch.context() as patch:
        stub = type("Stub", (), {"representation": "grid", "__call__": lambda *a, **k: prior})
        patch.setattr(make, "_pipeline", lambda source: stub())
        settings = make.Settings("stub", "still", PAIRS, seconds=1, fps=15)
        make.make_set([path / "disc.png"], path / "set", settings)
    return path / "set"


@pytest.fixture
def opened(browser, folder):
    """A page; at the end there must be no complaint and no request to anywhere else."""
    page = browser.new_page(viewport={"width": 1000, "height": 760}, accept_downloads=True)
    page.set_default_timeout(120_000)
    complaints, base = [], folder.as_uri()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url)
            if not asked.url.startswith((f"{base}/index.html", f"{base}/loops/", "data:", "blob:"))
            else None)  # fmt: skip
    page.goto((folder / "index.html").as_uri())
    yield page
    page.close()
    assert complaints == []


def test_all_pairs_by_keys_with_a_way_back_and_a_reload(opened, folder, tmp_path):
    page, key = opened, read_key(folder)
    pairs = {pair["id"]: pair for pair in key["pairs"]}
    page.fill("#name", "A/B")
    page.keyboard.press("Backspace")  # edits the name
    page.keyboard.press("C")
    page.keyboard.press("Enter")
    expected = {}
    for number in range(PAIRS):
        until(page, f"{AT} === '{number + 1} of {PAIRS}' && {PLAYING}")
        left, right = page.evaluate(SHOWN).split(",")
        name = left.split("_")[0]
        assert (left, right) == (f"{name}_left.mp4", f"{name}_right.mp4")
        if number == 3:  # a wrong answer, taken back
            page.keyboard.press("ArrowDown")
            until(page, f"{AT} === '5 of {PAIRS}' && {PLAYING}")
            page.keyboard.press("Backspace")
            until(page, f"{AT} === '4 of {PAIRS}' && {PLAYING}")
            assert page.evaluate(SHOWN).split(",")[0] == left
        if number == 6:
            page.reload()
            until(page, f"{AT} === '7 of {PAIRS}' && {PLAYING}")
            assert page.evaluate(SHOWN).split(",")[0] == left
        moves = "left" if pairs[name]["left"] in ("first", "moving") else "right"
        pressed = {"left": "ArrowLeft", "right": "ArrowRight"}[moves]
        expected[name] = moves
        if number == 8:
            pressed, expected[name] = " ", "none"
        page.keyboard.press(pressed)
    until(page, "!document.querySelector('#end').hidden")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "eye_A_C.json"
    path = tmp_path / "eye_A_C.json"
    download.value.save_as(path)
    told = json.loads(path.read_text("utf-8"))["answers"]
    assert [answer["order"] for answer in told] == list(range(1, PAIRS + 1))
    assert list(expected) == [answer["id"] for answer in told] and set(expected) == set(pairs)
    assert all(0 <= answer["seconds"] < 600 for answer in told)
    assert read_results([path], key) == {"A_C": expected}
    rows = score(key, read_results([path], key))["rows"]
    assert sum(row["former"] for row in rows) == PAIRS - 1
    page.click("#next")
    until(page, "!document.querySelector('#start').hidden")
    page.reload()
    until(page, "!document.querySelector('#start').hidden")


def test_both_films_run_in_step_and_buttons_answer(opened):
    page = opened
    page.click("#begin button")
    until(page, f"{AT} === '1 of {PAIRS}' && {PLAYING}")
    for _ in range(8):  # more than two rounds
        page.wait_for_timeout(300)
        gap, still, muted = page.evaluate(
            """(() => {
            const [a, b] = document.querySelectorAll('video');
            const gap = Math.abs(a.currentTime - b.currentTime);
            return [Math.min(gap, a.duration - gap), a.paused || b.paused, a.muted && b.muted];
        })()"""
        )
        assert gap < 0.3 and not still and muted
    page.click("[data-choice=right]")
    until(page, f"{AT} === '2 of {PAIRS}' && {PLAYING}")
    page.keyboard.press(" ")  # not the button that was clicked
    until(page, f"{AT} === '3 of {PAIRS}' && {PLAYING}")
    kept = "JSON.parse(Object.values(localStorage)[0]).answers.map((a) => a.choice).join()"
    assert page.evaluate(kept) == "right,none"
    page.click("#back")
    until(page, f"{AT} === '2 of {PAIRS}' && {PLAYING}")
    assert page.evaluate(kept) == "right"


def test_on_a_phone_one_is_above_the_other(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    opened.click("#begin button")
    until(opened, PLAYING)
    upper, lower = (film.bounding_box() for film in opened.query_selector_all("video"))
    assert upper["y"] + upper["height"] <= lower["y"] and upper["x"] == lower["x"]
    assert opened.inner_text("[data-choice=left]").strip() == "Upper"
    bottom = opened.query_selector("[data-choice=left]").bounding_box()
    assert bottom["y"] + bottom["height"] <= 800, "in sight without scrolling"
