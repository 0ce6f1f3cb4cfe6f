"""The studio in a notebook, without a browser: what the kernel answers to what is asked."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import gidlite
from gidlite.dynamics.modal import coordinates_of
from gidlite.errors import GidliteError
from gidlite.media import read_image, to_bytes
from gidlite.media.video import read_video


class Browser:
    """Asks a studio, and remembers what it is told."""

    def __init__(self, studio):
        self.studio, self.steps, self.told = studio, [], None
        studio.send = self.hear

    def hear(self, content, buffers=None):
        if content["type"] == "progress":
            self.steps.append(content["step"])
        else:
            assert content["id"] == 7
            self.told = content, buffers

    def ask(self, what, *buffers, **request):
        self.studio._hear(self.studio, {"id": 7, "type": what, **request}, buffers)
        content, sent = self.told
        return content.get("result", content.get("message")), sent


@pytest.fixture(scope="module")
def browser():
    made = Browser(gidlite.studio())
    assert "vultilion" in made.ask("photo")[0]["credit"]
    return made


def test_coordinates_are_those_that_make_the_motion(generator):
    shapes = torch.randn(3, 2, 6, 8, dtype=torch.complex64, generator=generator)
    q = torch.randn(5, 3, dtype=torch.complex64, generator=generator)
    motion = torch.einsum("tk,kchw->tchw", q, shapes).real
    assert torch.allclose(coordinates_of(motion, shapes).to(q), q, atol=1e-5)
    # A shape that is nothing, or another's double, leaves the motion as it is.
    more = torch.cat([shapes, torch.zeros_like(shapes[:1]), 2 * shapes[:1]])
    found = coordinates_of(motion, more)
    assert torch.allclose(torch.einsum("tk,kchw->tchw", found.to(q), more).real, motion, atol=1e-4)
    assert found.norm() < 1.01 * q.norm()


def test_a_drawn_loop_is_the_motion_of_the_pipeline(browser):
    told, (data,) = browser.ask("draw", seed=3, frames=90)
    assert told == {"fps": 30.0} and "Drawing a motion" in browser.steps
    output = browser.studio.output
    assert output.loop_frames == 90
    q = torch.view_as_complex(torch.from_numpy(np.frombuffer(data, "<f4").copy()).view(90, -1, 2))
    shapes = browser.studio._pipeline.basis(output.image).spectral
    moved = torch.einsum("tk,kchw->tchw", q[::15], shapes).real
    expected = output.motion()[::15]
    assert expected.abs().max() > 0.5
    assert (moved - expected).norm() < 1e-3 * expected.norm()
    assert browser.ask("draw", seed=3, frames=90)[1] == [data]


def test_a_film_obeys_brush_and_slider(browser, tmp_path):
    gain = np.ones((80, 128), "<f4")
    gain[:, :64] = 0
    browser.ask("draw", seed=3, frames=30)
    told, (data,) = browser.ask(
        "film", memoryview(gain.tobytes()), kind="video", seed=3, frames=30, factor=1.5, rows=80
    )
    assert told == {}
    (tmp_path / "a.mp4").write_bytes(data)
    frames = read_video(tmp_path / "a.mp4").frames.float()
    assert frames.shape == (30, 3, *browser.studio.output.image.shape[-2:])
    change = (frames[15] - frames[0]).abs().mean(0)
    width = change.shape[1]
    assert change[:, : 2 * width // 5].mean() < 0.4 < change[:, 3 * width // 5 :].mean()
    _, (data,) = browser.ask(
        "film", memoryview(gain.tobytes()), kind="gif", seed=3, frames=30, factor=1.0, rows=80
    )
    assert Image.open(io.BytesIO(data)).n_frames > 5


def test_another_photo_and_a_page_of_it(browser):
    photo = torch.rand(3, 90, 60, generator=torch.Generator().manual_seed(1))
    stream = io.BytesIO()
    Image.fromarray(to_bytes(photo)).save(stream, "PNG")
    told, sent = browser.ask("photo", memoryview(stream.getvalue()), alt="Photo: <b>.")
    assert (told["header"]["width"], told["header"]["height"]) == (60, 90)
    assert told["header"]["alt"] == "Photo: <b>." and len(sent) == 5
    assert told["credit"] == ""
    assert len(told["header"]["frequencies"]) * 8 <= len(sent[3])
    _, (page,) = browser.ask("page")
    assert b"data-gidlite" in page and b"&lt;b&gt;" in page and b"<b>" not in page


def test_what_fails_is_said(browser):
    assert browser.ask("draw", seed=3, frames=1)[0] == ("loop is 1 frames long; ask for 2 at least")
    with pytest.raises(GidliteError, match=r"nowhere\.jpg"):
        gidlite.studio("nowhere.jpg")
    with pytest.raises(KeyError):
        browser.ask("draw")
    assert "run the cell again" in browser.told[0]["message"]


def test_a_photo_of_ones_own_is_shown_where_no_kernel_runs(tmp_path):
    image = torch.zeros(3, 40, 1000)
    Image.fromarray(to_bytes(image)).save(tmp_path / "my rose.png")
    studio = gidlite.studio(tmp_path / "my rose.png")
    bundle = studio._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "data:image/jpeg" in data["text/html"] and "JupyterLab" in data["text/html"]
    assert read_image(tmp_path / "my rose.png").shape == image.shape
