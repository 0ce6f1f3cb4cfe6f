"""Scenes, layers and the page, without a browser."""

import base64
import hashlib
import json
import os
import re
import sys
import zlib
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import torch
from conftest import HOSTILE, blossom, disc, shown
from PIL import Image
from torch.nn import functional

from gidlite import __main__ as cli
from gidlite.dynamics import make_scene, write_page
from gidlite.dynamics.layers import split_layers
from gidlite.dynamics.modal import tuned_by_size
from gidlite.errors import GidliteError
from gidlite.media import read_image, to_bytes, write_image
from gidlite.motion import SpectralVolume, save_volume
from gidlite.pipeline import GidPipeline


def test_both_sheets_at_rest_are_the_photo(photo, volume):
    layers = split_layers(photo, volume.spectral[3:])
    front = photo - (1 - layers.alpha) * layers.back
    assert front.min() > -0.004 and (front - layers.alpha).max() < 0.004, "not a colour"


def test_the_front_is_cut_along_the_edge_of_what_moves(photo, volume):
    layers = split_layers(photo, volume.spectral[3:])
    inside = disc(320, 512)
    assert (layers.alpha[0] - inside).abs().mean() < 0.01
    wall = photo[:, :, 20:120].mean((1, 2))
    filled = layers.back[:, 144, 256]
    assert (filled - wall).abs().max() < 0.1, "the wall goes on behind the disc"


def test_modes_of_the_front_hold_within_it_and_the_back_rests(photo, volume):
    layers = split_layers(photo, volume.spectral[3:])
    rows, columns = layers.front_modes.shape[-2:]
    middle = layers.front_modes[:, :, int(0.45 * rows), columns // 2]
    # Twice as many px per mode px: the photo is twice as wide as the volume.
    torch.testing.assert_close(middle, 2 * volume.spectral[3:, :, 72, 128], rtol=0.1, atol=1e-3)
    assert layers.back_modes[:, :, 0].abs().max() < 0.02 * middle.abs().max()


def test_what_the_front_hides_is_filled_with_what_is_around(photo, volume):
    """Stripes go on behind the disc, near its edge at least, and nothing of the disc is left."""
    layers = split_layers(photo, volume.spectral[3:])
    rim = (disc(320, 512) - disc(320, 512, radius=0.15)).bool()
    wall = photo[0, :60].std()
    assert layers.back[0][rim].std() > 0.5 * wall, "not a flat patch"
    assert layers.back[0][disc(320, 512).bool()].max() < 0.25


def test_a_hole_in_the_front_is_closed(photo, volume):
    dark = photo.clone()
    dark[:, 142:147, 250:255] = 0.02
    assert split_layers(dark, volume.spectral[3:]).alpha[0, 144, 252] > 0.95


def test_nothing_leaves_the_border(photo):
    layers = split_layers(photo, torch.ones(4, 2, 160, 256, dtype=torch.complex64))
    across, down = layers.front_modes[:, 0], layers.front_modes[:, 1]
    assert across[:, :, [0, -1]].abs().max() == 0 and down[:, [0, -1]].abs().max() == 0
    assert across[:, 0, 20].abs().min() > 1, "but slides along it"


def test_a_photo_that_moves_everywhere_is_one_sheet(photo):
    layers = split_layers(photo, torch.ones(4, 2, 160, 256, dtype=torch.complex64))
    assert layers.alpha.min() > 0.99
    assert layers.back is photo
    assert make_scene(photo, SpectralVolume(torch.ones(5, 2, 5, 8).to(torch.complex64))).back == b""


def test_what_is_liveliest_is_in_front_of_a_background_that_sways_too(photo, volume):
    layers = split_layers(photo, volume.spectral[3:] + 0.4 * volume.spectral[3:, :, 72:73, 128:129])
    assert (layers.alpha[0] - disc(320, 512)).abs().mean() < 0.01


# By motion alone the agreement is at most 0.3, 0.5, 0.9, 0.7 and 0.5.
@pytest.mark.parametrize(
    ("grown", "least"), [(0.6, 0.95), (0.75, 0.95), (1.0, 0.95), (1.25, 0.75), (1.4, 0.5)]
)
def test_colour_finds_the_outline_where_motion_ends_early_or_leaks(generator, grown, least):
    """Motion comes on cells of 4 px, of a flower too small or too large."""
    height, width = 320, 512
    spots = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    spots = 0.3 * functional.interpolate(spots, (height, width), mode="bilinear")[0]
    flower = blossom(height, width)
    wall, petals = (torch.tensor(c).view(3, 1, 1) for c in ([0.1, 0.3, 0.2], [0.9, 0.6, 0.3]))
    photo = torch.lerp(wall + spots, petals - spots, flower).clamp(0, 1)
    cells = functional.avg_pool2d(blossom(160, 256, grown)[None, None], 4)
    moves = functional.interpolate(cells, (160, 256), mode="bilinear")[0]
    modes = moves * torch.tensor([[1.0, 0.3 + 0.2j], [0.5j, 0.2]])[..., None, None]
    front = split_layers(photo, modes.to(torch.complex64)).alpha[0] > 0.5
    both, either = (front & flower.bool()).sum(), (front | flower.bool()).sum()
    assert both / either > least


def test_scene_holds_what_the_header_says(photo, volume):
    scene = make_scene(photo, volume, modes=5)
    hertz = scene.header["frequencies"]
    assert len(hertz) == 5 and min(hertz) >= 0.5 and hertz == sorted(hertz)
    for name in ("front", "back"):
        halves = np.frombuffer(zlib.decompress(getattr(scene, f"{name}_modes")), "<f2")
        assert halves.size == 5 * 4 * np.prod(scene.header[f"{name}_size"])
        assert np.isfinite(halves).all()


def test_a_basis_keeps_its_chief_modes_at_frequencies_of_their_own(photo, basis):
    scene = make_scene(photo, basis, modes=2)
    assert scene.header["frequencies"] == [round(float(f), 6) for f in tuned_by_size(basis)[:2]]
    halves = np.frombuffer(zlib.decompress(scene.front_modes), "<f2").astype(float)
    rows, columns = scene.header["front_size"]
    middle = halves.reshape(2, rows, columns, 4)[:, int(0.45 * rows), columns // 2]
    # Layout (dx re, dx im, dy re, dy im), in px of the photo, which is twice as wide.
    np.testing.assert_allclose(middle[0], [2, 0, 0, 2], atol=0.02)
    assert np.abs(middle[1]).max() < 0.02


def test_refusals(photo, volume):
    with pytest.raises(GidliteError, match="modes is 0"):
        make_scene(photo, volume, modes=0)
    with pytest.raises(GidliteError, match="damping is 1"):
        make_scene(photo, volume, damping=1.0)
    with pytest.raises(GidliteError, match="no frequency of"):
        make_scene(photo, SpectralVolume(volume.spectral[:3]))


def read(path):
    text = path.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    return text, policy


def test_page_is_self_contained_under_a_policy_of_hashes(photo, volume, tmp_path):
    scene = make_scene(photo, volume, alt='A "disc" <b>')
    write_page(tmp_path / "page.html", scene, title="<Disc>")
    text, policy = read(tmp_path / "page.html")
    script = re.search(r'<script type="module">(.*?)</script>', text, re.S)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    for kind, content in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"(https?:)?//[\w.]+\.\w", text.replace("//-", "")), "no address in it"
    assert 'alt="A &quot;disc&quot; &lt;b&gt;"' in text and "<h1>&lt;Disc&gt;</h1>" in text
    data = json.loads(re.search(r'application/json">(.*?)</script>', text, re.S)[1])
    assert zlib.decompress(base64.b64decode(data["front_modes"]))
    assert len(text) < 6e6


def test_the_policy_is_strict(photo, volume, tmp_path):
    write_page(tmp_path / "page.html", make_scene(photo, volume, modes=1, width=32))
    rules = dict(rule.strip().split(" ", 1) for rule in read(tmp_path / "page.html")[1].split(";"))
    assert set(rules) == {
        "default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"
    }  # fmt: skip
    for kind in ("default-src", "base-uri", "form-action"):
        assert rules[kind] == "'none'"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules[kind]), "one hash and nothing else"
    assert rules["img-src"] == "data:"


class Shown(HTMLParser):
    """What a browser makes of a page: its elements, and the text of some."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.alt = [], {}, None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.alt = dict(attributes).get("alt", self.alt)

    def handle_data(self, data):
        tag = self.tags[-1] if self.tags else ""
        self.text[tag] = self.text.get(tag, "") + data


def test_names_of_files_are_text(photo, volume, tmp_path, monkeypatch, capsys):
    """Also those that are no UTF-8, and as long as a name can be."""
    write_image(tmp_path / "disc.png", photo)
    save_volume(tmp_path / "disc.safetensors", volume)
    tags = set()
    for number, name in enumerate(("disc", *HOSTILE, "n" * 251)):
        name = name.replace("/", "∕")[:251]  # with its suffix, 255 bytes
        copy = tmp_path / f"{name}.png"
        copy.write_bytes((tmp_path / "disc.png").read_bytes())
        page = tmp_path / f"{number}.html"
        arguments = [tmp_path / "disc.safetensors", "--photo", copy, "-o", page, "--width", "32"]
        monkeypatch.setattr(sys, "argv", ["gidlite", "poke", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0, capsys.readouterr().err
        found = Shown(page)
        words = shown(name).replace("_", " ").replace("-", " ").strip() or "Touch it"
        assert found.text["h1"].strip() == words and words in found.alt
        tags.add(tuple(found.tags))
    assert len(tags) == 1


def test_a_page_holds_no_metadata_of_the_photo(photo, volume, tmp_path):
    notes = Image.Exif()
    notes[0x010E] = "taken at home"
    picture = Image.fromarray(to_bytes(photo))
    picture.save(tmp_path / "disc.jpg", exif=notes, comment=b"taken at home")
    assert b"taken at home" in (tmp_path / "disc.jpg").read_bytes()
    scene = make_scene(read_image(tmp_path / "disc.jpg"), volume, modes=1)
    for data in (scene.photo, scene.back, scene.alpha):
        assert b"home" not in data and b"Exif" not in data


def test_the_gallery_links_to_files_whatever_they_are_called(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    import gallery

    for name in (*HOSTILE, "50%?#"):
        page = gallery.index([name])
        assert page.count("<") == gallery.index(["rose"]).count("<")
        (link,) = re.findall(r'<a href="([\w.%/~-]+)\.html">', page)
        assert os.fsdecode(unquote_to_bytes(link)) == name


def test_a_volume_of_another_aspect_is_refused(photo, volume, basis):
    for motion in (volume, basis):
        with pytest.raises(GidliteError, match="aspects differ"):
            make_scene(photo.mT, motion)


def test_poke_writes_a_page_from_a_volume(photo, volume, tmp_path, monkeypatch, capsys):
    write_image(tmp_path / "disc.png", photo)
    save_volume(tmp_path / "disc.safetensors", volume)
    page = tmp_path / "out" / "disc.html"
    arguments = ["poke", str(tmp_path / "disc.safetensors"), "-o", str(page)]
    monkeypatch.setattr(sys, "argv", ["gidlite", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "--photo" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gidlite", *arguments, "--photo", str(tmp_path / "disc.png")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0 and page.is_file()


def test_poke_samples_nothing_where_a_photo_has_modes(photo, basis, tmp_path, monkeypatch, capsys):
    class Pipeline:  # cannot be called
        representation = "modes"

        def basis(self, image, *, gain=None):
            return basis

    write_image(tmp_path / "disc.png", photo)
    monkeypatch.setattr("gidlite.cli.load_pipeline", lambda model: Pipeline())
    monkeypatch.setattr(sys, "argv", ["gidlite", "poke", str(tmp_path / "disc.png")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0 and "3 modes" in capsys.readouterr().out
    text, _ = read(tmp_path / "disc_poke.html")
    data = json.loads(re.search(r'application/json">(.*?)</script>', text, re.S)[1])
    assert len(data["header"]["frequencies"]) == 3 and len(text) < 2.5e6


def test_widget_checks_its_sliders(photo, volume, basis):
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    import traitlets

    from gidlite.dynamics.widget import ModalExplorer

    assert len(ModalExplorer(photo, basis).header["frequencies"]) == 3
    assert ModalExplorer(photo, basis, alt="not \udcff UTF-8").header["alt"] == "not ? UTF-8"
    widget = ModalExplorer(photo, volume, modes=3, wind=0.5, damping=0.1)
    assert (widget.wind, widget.damping, widget.header["damping"]) == (0.5, 0.1, 0.1)
    assert len(widget.header["frequencies"]) == 3 and widget.photo[:2] == b"\xff\xd8"
    for name, value in (("wind", 4.0), ("stiffness", 0.0), ("damping", 1.0), ("gain", -1.0)):
        with pytest.raises(traitlets.TraitError):
            setattr(widget, name, value)


def test_the_widget_brings_what_stands_in_for_it(photo, basis):
    """Without a kernel: the photo, or a film that is given; and how to touch it."""
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    from gidlite.dynamics.widget import ModalExplorer

    def page(widget):
        bundle = widget._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        assert "application/vnd.jupyter.widget-view+json" in data, "alive, it is the widget"
        assert "run this cell" in data["text/html"] and "gidlite poke" in data["text/html"]
        return data["text/html"]

    hostile = '"><script>alert(1)</script>'
    widget, found = ModalExplorer(photo, basis, alt=hostile), []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page(widget))
    assert [tag for tag, _ in found] == ["img", "p", "code"] and found[0][1]["alt"] == hostile
    assert base64.b64decode(found[0][1]["src"].partition("base64,")[2]) == widget.photo
    film = SimpleNamespace(_repr_html_=lambda: "<img alt='a film'>")
    shown = page(ModalExplorer(photo, basis, fallback=film))
    assert shown.startswith("<img alt='a film'>") and "jpeg" not in shown


def test_a_mask_of_the_widget_goes_both_ways_and_edits_motion(photo, basis):
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    import traitlets

    from gidlite.dynamics.widget import ModalExplorer

    widget = ModalExplorer(photo, basis)
    assert widget.mask == b"" and widget.mask_image() is None
    half = np.zeros((80, 128), np.uint8)
    half[:, 64:] = 255
    file = BytesIO()
    Image.fromarray(half).convert("RGBA").save(file, "PNG")  # as a browser writes it
    widget.set_state({"mask": memoryview(file.getvalue())})
    assert np.array_equal(np.asarray(widget.mask_image()), half)
    stub = SimpleNamespace(device="cpu")
    gain = GidPipeline.edit(stub, photo, mask=widget.mask_image())
    middle = gain.shape[1] // 2
    assert gain[:, : middle - 1].max() == 0 and gain[:, middle + 1 :].min() == 1
    again = ModalExplorer(photo, basis, mask=widget.mask)
    assert again.get_state(["mask"])["mask"] == file.getvalue()
    with pytest.raises(traitlets.TraitError, match="no picture"):
        widget.mask = b"white"
    widget.mask = b""
    assert widget.mask_image() is None
