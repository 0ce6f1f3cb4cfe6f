"""The book of `make book` in a real browser: every page opens, asks nobody, and fits a phone."""

import base64
import io
import re
import time
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import nbformat
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "outputs" / "book"
if not (BOOK / "index.html").is_file():
    pytest.skip("there is no outputs/book: `make book` builds it", allow_module_level=True)

PAGES = sorted(str(path.relative_to(BOOK)) for path in BOOK.rglob("*.html"))
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OURS = re.compile(r"file:|data:|blob:|about:|http://127\.0\.0\.1[:/]")
CODE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$|(`+)[^`\n]+\2", re.M | re.S)
FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?![\s$])[^$\n]+?(?<![\s\\])\$(?!\d)", re.S)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=BOOK)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def opened(browser):
    """A way to open pages; complaints of the browser and requests to others fail the test."""
    found, contexts = [], []

    def start(target, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(300_000)  # a busy machine is slow
        page.on("console", lambda m: found.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("requestfailed", lambda asked: found.append(f"failed: {asked.url[:200]}"))
        page.on("request", lambda asked: OURS.match(asked.url) or found.append(asked.url[:200]))
        page.goto(target)
        return page

    yield start
    for context in contexts:
        context.close()
    assert [text for text in found if "GPU stall" not in text] == []


def until(page, expression: str, *, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < end, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(50)


class Page(HTMLParser):
    """Addresses and ids of a page; text that is no code; how many formulas."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.links, self.ids, self.text, self.formulas, self.films = [], set(), [], 0, []
        self.inside: list[str] = []
        self.feed((BOOK / name).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {value for key, value in attrs.items() if key in ("id", "name") and value}
        self.links += [attrs[key] for key in ("href", "src") if attrs.get(key)]
        self.formulas += tag == "math"
        if tag == "img" and (attrs.get("src") or "").startswith("data:image/webp"):
            self.films.append(attrs)
        if tag in ("code", "pre", "script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def parsed() -> dict[str, Page]:
    return {name: Page(name) for name in PAGES}


def test_every_lesson_has_a_page_that_all_pages_lead_to(parsed):
    for lesson in LESSONS:
        name = f"notebooks/{lesson.stem}.html"
        assert name in PAGES
        here = {urljoin("http://book/api/media.html", x) for x in parsed["api/media.html"].links}
        assert f"http://book/{name}" in here


def test_links_inside_the_book_resolve(parsed):
    broken = []
    for name, page in parsed.items():
        for link in page.links:
            full, anchor = urldefrag(urljoin(f"http://book/{name}", link))
            if urlsplit(full).netloc != "book" or name == "404.html":
                continue
            target = unquote(urlsplit(full).path).lstrip("/")
            target = target + "index.html" if target.endswith("/") or not target else target
            known = target in parsed and (not anchor or unquote(anchor) in parsed[target].ids)
            if not known and (anchor or not (BOOK / target).is_file()):
                broken.append(f"{name}: {link}")
    assert broken == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_every_formula_is_drawn(parsed, lesson):
    page = parsed[f"notebooks/{lesson.stem}.html"]
    cells = nbformat.read(lesson, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    texts += [data["text/markdown"] for data in outputs if "text/markdown" in data]
    written = [x for text in texts for x in FORMULA.findall(CODE.sub(" ", text))]
    text = "".join(page.text)
    assert not re.search(r"\$\S[^$\n]*\\|\\[(\[]|\\[a-z]{3,}", text), "LaTeX is left over"
    assert page.formulas >= len(written)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_films_have_frames_and_say_what_they_show(parsed, lesson):
    for film in parsed[f"notebooks/{lesson.stem}.html"].films:
        picture = Image.open(io.BytesIO(base64.b64decode(film["src"].partition(",")[2])))
        assert picture.n_frames > 1 and film["alt"]


@pytest.mark.parametrize("name", [x for x in PAGES if x != "404.html"])
def test_pages_open_without_complaint_and_fit_a_phone(opened, address, name):
    page = opened(address + name, viewport={"width": 390, "height": 800})
    page.wait_for_load_state("load")
    page.evaluate("document.querySelectorAll('img').forEach((img) => { img.loading = 'eager'; })")
    until(page, "[...document.images].every((img) => img.complete)")
    page.evaluate("document.fonts.ready.then(() => true)")
    lost = page.evaluate(
        "[...document.images].filter((img) => !img.naturalWidth).map((i) => i.src)"
    )
    assert lost == []
    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true; })")
    wide = page.evaluate("""[...document.querySelectorAll('body *')]
        .filter((x) => x.getBoundingClientRect().right > innerWidth + 1)
        .map((x) => x.tagName + '.' + x.className).slice(0, 5)""")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, wide


@pytest.mark.parametrize("disk", [False, True], ids=["served", "from the disk"])
def test_search_finds(opened, address, disk):
    page = opened((BOOK.as_uri() + "/" if disk else address) + "index.html")
    page.locator("[data-md-component=search-query]").fill("splatting")
    until(page, "document.querySelector('.md-search-result__link')")
    found = page.locator(".md-search-result__link").evaluate_all("all => all.map((x) => x.href)")
    assert any("/notebooks/" in link and "splatting" in link for link in found)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_book_is_as_dark_as_the_reader_wants(opened, address, scheme, dark):
    page = opened(address + "glossary.html", color_scheme=scheme)
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
    until(page, f"{light}.every((x) => {'x < 80' if dark else 'x > 200'})")
    page.locator("header label[for^=__palette]:visible").click()
    until(page, f"{light}.every((x) => {'x > 200' if dark else 'x < 80'})")


def test_the_picture_to_touch_is_drawn(opened, address):
    (name,) = (x for x in PAGES if '<iframe class="touch"' in (BOOK / x).read_text("utf-8"))
    page = opened(address + name)
    frame_element = page.locator("iframe.touch")
    assert frame_element.get_attribute("title")
    frame_element.scroll_into_view_if_needed()
    frame = frame_element.element_handle().content_frame()
    until(frame, "document.querySelector('figure')?.explorer?.frames > 0")
    shot = Image.open(io.BytesIO(frame.locator(".gidlite-stage").screenshot())).convert("L")
    assert len(shot.histogram()) - shot.histogram().count(0) > 100, "a photo has many tones"
    frame.evaluate("document.querySelector('figure').explorer.apply({wind: 1})")
    until(frame, "document.querySelector('figure').explorer.system.energy() > 0")
