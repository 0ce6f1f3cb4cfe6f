"""``ModalExplorer``: the explorer as a notebook widget (anywidget)."""

from __future__ import annotations

import base64
import html
from io import BytesIO
from typing import Any

import anywidget
import traitlets
from PIL import Image

from gidlite.dynamics import asset, make_scene
from gidlite.motion import ModalBasis, SpectralVolume


class ModalExplorer(anywidget.AnyWidget):
    """A photo and its volume or basis in the notebook, to be dragged and blown at.

    Physics and drawing run in the browser; Python sends the photo and its modes once and keeps
    the sliders in step, both ways. Where no kernel runs, as on GitHub, the ``fallback`` is shown:
    what draws itself as HTML, such as a film; by default the photo. Further options are ``modes``,
    ``width`` and ``alt``, as of ``make_scene``, and any slider or the mask:

    Attributes:
        stiffness: Factor on every spring, 0.1–4.
        damping: Ratio ζ, 0.005–0.5.
        gain: Factor on how far things go, 0–3.
        wind: 1 moves as far as the volume's own motion, or just visibly if that is less, 0–3.
        attraction: How much things lean towards the hovering pointer, 0–3.
        mask: A grey PNG of any size, white may move; empty if nothing is held still.

    Raises:
        GidliteError: If the volume, the basis or an option does not fit.
        traitlets.TraitError: If a slider is set out of its range, or the mask is no picture.
    """

    _esm = asset("explorer.js")
    _css = asset("explorer.css")

    header = traitlets.Dict().tag(sync=True)
    photo, back, alpha = (traitlets.Bytes().tag(sync=True) for _ in range(3))
    front_modes, back_modes = (traitlets.Bytes().tag(sync=True) for _ in range(2))

    stiffness = traitlets.Float(1.0, min=0.1, max=4.0).tag(sync=True)
    damping = traitlets.Float(0.05, min=0.005, max=0.5).tag(sync=True)
    gain = traitlets.Float(1.0, min=0.0, max=3.0).tag(sync=True)
    wind = traitlets.Float(0.0, min=0.0, max=3.0).tag(sync=True)
    attraction = traitlets.Float(0.0, min=0.0, max=3.0).tag(sync=True)
    mask = traitlets.CBytes().tag(sync=True)  # the browser's bytes arrive as a memoryview

    def __init__(
        self, image: Any, volume: SpectralVolume | ModalBasis, *, fallback: Any = None, **options
    ) -> None:
        names = {"stiffness", "gain", "wind", "attraction", "mask"} & options.keys()
        synced = {name: options.pop(name) for name in names}
        scene = make_scene(image, volume, **options)
        super().__init__(**vars(scene), damping=scene.header["damping"], **synced)
        self._fallback = fallback._repr_html_() if fallback is not None else None

    def _repr_mimebundle_(self, **options) -> Any:
        """Return the widget and, for where it cannot live, what stands in for it."""
        bundle = super()._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        how = "To touch it, run this cell, or <code>gidlite poke photo.jpg</code> for a page."
        data["text/html"] = f"{self._fallback or self._still()}<p>{how}</p>"
        return bundle

    def _still(self) -> str:
        source, alt = base64.b64encode(self.photo).decode(), html.escape(self.header["alt"])
        return f'<img alt="{alt}" style="width: 100%" src="data:image/jpeg;base64,{source}">'

    @traitlets.validate("mask")
    def _is_picture(self, proposal: dict) -> bytes:
        try:
            Image.open(BytesIO(proposal["value"] or self.photo)).verify()
        except Exception as error:
            raise traitlets.TraitError("mask is no picture; give the bytes of a PNG") from error
        return proposal["value"]

    def mask_image(self) -> Image.Image | None:
        """Return what is painted as ``GidPipeline.edit`` takes it, black is held; or None."""
        return Image.open(BytesIO(self.mask)).convert("L") if self.mask else None

    def poke(self) -> None:
        """Tap the pixel touched last, or the liveliest."""
        self.send({"kind": "poke"})

    def reset(self) -> None:
        """Bring the photo and the sliders back to where they began."""
        self.send({"kind": "reset"})
