"""``Studio``: the page of ``studio.html`` as a notebook widget, for which the kernel computes."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from PIL import Image

from gidlite.dynamics import Scene, asset, make_scene, write_page
from gidlite.dynamics.modal import coordinates_of
from gidlite.errors import GidliteError
from gidlite.media import (
    SAMPLE_CREDIT,
    VideoWriter,
    as_image,
    encode_jpeg,
    fit_size,
    resize,
    sample_photo,
    to_bytes,
)
from gidlite.motion import ModalBasis
from gidlite.pipeline import GidOutput, GidPipeline, Sampling
from gidlite.render import render_frames
from gidlite.web import FOLDER

_SHOWN_WIDTH = 640
_COARSE = 4  # cells of a volume along one of those that coordinates are found from
# In a notebook the colours are those of JupyterLab's theme.
_STYLE = """:host {
  --paper: var(--jp-layout-color0, #fbfaf7); --ink: var(--jp-ui-font-color0, #1d2421);
  --quiet: var(--jp-ui-font-color2, #5c6661); --line: var(--jp-border-color1, #d9d6cd); }"""
_MODULES = ("files", "studio", "widget")
_SENT = ("photo", "back", "alpha", "front_modes", "back_modes")
Answer = tuple[dict, Sequence[bytes]]


def _joined(*modules: str) -> str:
    """Return modules that import only each other as one; the last one's exports stay."""
    *before, last = (re.sub(r'(?m)^import .* from "\./.*";\n', "", text) for text in modules)
    inner = [re.sub(r"(?m)^export (default .*\n)?", "", text) for text in before]
    return "\n".join([*inner, last])


class Studio(anywidget.AnyWidget):
    """The studio in a notebook: drop a photo, touch it, draw another motion, save the loop.

    ``photo`` is shown first, as ``as_image`` takes it: by default the flower that comes with
    scikit-learn. A browser sends what is dropped as it shows it, at most 640×480 pixels.

    Attributes:
        output: What the pipeline drew last, a ``GidOutput``; None before the photo sways.

    Raises:
        GidliteError: If the photo cannot be read.
    """

    _esm = _joined(asset("explorer.js"), *((FOLDER / f"{n}.js").read_text() for n in _MODULES))
    markup = traitlets.Unicode((FOLDER / "studio.html").read_text()).tag(sync=True)
    style = traitlets.Unicode(
        asset("explorer.css") + (FOLDER / "studio.css").read_text() + _STYLE
    ).tag(sync=True)

    def __init__(self, photo: Any = None) -> None:
        super().__init__()
        self.output: GidOutput | None = None
        self._pipeline: GidPipeline | None = None
        self._credit = SAMPLE_CREDIT if photo is None else ""
        self._name = Path(photo).stem if isinstance(photo, str | Path) else "photo"
        self._image = as_image(sample_photo() if photo is None else photo)
        height, width = fit_size(*self._image.shape[-2:], max_width=_SHOWN_WIDTH)
        self._image = resize(self._image, height=height, width=width)
        self._basis: ModalBasis | None = None
        self._scene: Scene | None = None
        self.on_msg(self._hear)

    def _repr_mimebundle_(self, **options) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        source = base64.b64encode(encode_jpeg(to_bytes(self._image), 85)).decode()
        data["text/html"] = (
            f'<img alt="The studio" style="max-width: 100%" src="data:image/jpeg;base64,{source}">'
            "<p>Run this cell in JupyterLab, and drop a photo of your own here.</p>"
        )
        return bundle

    def _hear(self, _: Any, request: dict, buffers: Sequence[memoryview]) -> None:
        """Answer a question of the browser, or say in a sentence why not."""
        answers = {"photo": self._look, "draw": self._draw, "film": self._film, "page": self._page}
        try:
            result, sent = answers[request["type"]](request, buffers)
        except GidliteError as error:
            self._say(request, "error", message=str(error))
        except Exception as error:
            self._say(request, "error", message=f"The kernel failed ({error}); run the cell again.")
            raise
        else:
            self._say(request, "result", sent, result=result)

    def _say(self, request: dict, kind: str, sent: Sequence[bytes] = (), **content: Any) -> None:
        self.send({"id": request["id"], "type": kind, **content}, list(sent))

    def _step(self, request: dict, step: str, done: int = 0, total: int = 1) -> None:
        self._say(request, "progress", step=step, done=done, total=total)

    def _look(self, request: dict, buffers: Sequence[memoryview]) -> Answer:
        if buffers:
            with Image.open(BytesIO(buffers[0])) as opened:
                self._image = as_image(opened)
            self._scene, self._name, self._credit = None, "photo", ""
        if self._pipeline is None:
            self._step(request, "Reading the weights")
            self._pipeline = GidPipeline.from_pretrained()
        if self._scene is None:
            self._step(request, "Looking at the photo")
            self._basis = self._pipeline.basis(self._image)
            self._step(request, "Taking it apart")
            shown = {"modes": len(self._basis.spectral), "width": self._image.shape[-1]}
            alt = request.get("alt", f"Photo: {self._name}.")
            self._scene = make_scene(self._image, self._basis, alt=alt, **shown)
        scene = self._scene
        told = {"header": scene.header, "name": self._name, "credit": self._credit}
        return told, [getattr(scene, n) for n in _SENT]

    def _sample(self, request: dict, sampling: Sampling | None = None) -> GidOutput:
        def tell(done: int, total: int) -> None:
            self._step(request, "Drawing a motion", done, total)

        generator = torch.Generator().manual_seed(request["seed"])
        options = {"loop": request["frames"], "generator": generator, "progress": tell}
        return self._pipeline(self._image, sampling=sampling, **options)

    def _draw(self, request: dict, _: Sequence[memoryview]) -> Answer:
        self.output = self._sample(request)
        coarse = (..., slice(None, None, _COARSE), slice(None, None, _COARSE))
        motion = self.output.motion(num_frames=request["frames"])[coarse]
        q = coordinates_of(motion, self._basis.spectral[coarse])
        values = torch.view_as_real(q).float().numpy().astype("<f4")
        return {"fps": self.output.volume.fps}, [values.tobytes()]

    def _film(self, request: dict, buffers: Sequence[memoryview]) -> Answer:
        gain = torch.from_numpy(np.frombuffer(buffers[0], "<f4").copy()).view(request["rows"], -1)
        output = self._sample(request, Sampling(gain=gain * request["factor"]))
        count, fps = request["frames"], output.volume.fps
        every = 2 if request["kind"] == "gif" else 1
        times = torch.arange(0, count, every, dtype=torch.float64)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"loop.{'gif' if every == 2 else 'mp4'}"
            with VideoWriter(path, fps=fps / every, loop=len(times)) as writer:
                for done, frame in enumerate(render_frames(output.image, output.volume, times), 1):
                    writer.write(frame)
                    self._step(request, "Saving", done, len(times))
            return {}, [path.read_bytes()]

    def _page(self, _: dict, __: Sequence[memoryview]) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            write_page(path, self._scene, title=self._scene.header["alt"])
            return {}, [path.read_bytes()]
