"""Touching a photo: what the browser is given, and the one page that holds it.

A scene is a photo in two sheets with their modes as compact bytes; a page holds scenes, styles and
``explorer.js``, and asks the network for nothing. ``modal`` is the physics, ``layers`` takes the
photo apart, ``widget`` shows a scene in a notebook.

Source: Davis, Chen and Durand 2015; Li et al. 2024, section 6.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from gidlite.dynamics.layers import split_layers
from gidlite.dynamics.modal import chief_modes, dominant_modes, tuned_by_size
from gidlite.errors import require, written
from gidlite.media import as_image, encode_jpeg, fit_size, resize, to_bytes
from gidlite.motion import ModalBasis, SpectralVolume, check_aspect
from gidlite.motion.spectral import pack_complex

# Real plants that were poked relax at these frequencies instead of ringing (lesson 11).
SLOWEST_HZ = 0.5


@dataclass(frozen=True)
class Scene:
    """Bytes for ``explorer.js``: pictures as JPEG, modes as deflated half floats (K, h, w, 4).

    The modes are in px of the photo; those of the back are on a grid half as fine.
    """

    header: dict  # sizes, frequencies in Hz and damping, ready for JSON
    photo: bytes
    back: bytes  # the photo without its front; empty where the photo is one sheet
    alpha: bytes  # opacity of the front, grey
    front_modes: bytes
    back_modes: bytes


def make_scene(
    image: Any,
    volume: SpectralVolume | ModalBasis,
    *,
    modes: int = 24,
    damping: float = 0.05,
    width: int = 512,
    alt: str = "A photo that moves when it is touched.",
) -> Scene:
    """Prepare a photo, as ``as_image`` takes it, and its volume or basis for the browser.

    Kept are at most so many ``modes``, 1–64: of a volume the liveliest at 0.5 Hz or more, of a
    basis the chief one of every thing first; and at most so many px of ``width``. The ratio ζ
    begins at ``damping``, 0.005–0.5; ``alt`` describes the photo to those who cannot see it. A
    number out of range, another aspect and no bin at 0.5 Hz or more raise ``GidliteError``.
    """
    require(1 <= modes <= 64, f"modes is {modes}; it must lie between 1 and 64")
    require(0.005 <= damping <= 0.5, f"damping is {damping}; it must lie between 0.005 and 0.5")
    check_aspect(image := as_image(image), volume)
    height, width = fit_size(*image.shape[-2:], max_width=width)
    image = resize(image, height=height, width=width)
    if isinstance(volume, ModalBasis):
        hertz, kept = tuned_by_size(volume), chief_modes(volume, count=modes)
    else:
        hertz = volume.frequencies_hz
        audible = hertz * (hertz >= SLOWEST_HZ - 1e-6)
        kept = dominant_modes(volume.spectral, frequencies_hz=audible, count=modes)
    require(bool(kept), f"the volume has no frequency of {SLOWEST_HZ} Hz or more; keep more")
    layers = split_layers(image, volume.spectral[kept])
    one_sheet = layers.back is image
    header = {
        "width": width, "height": height, "damping": damping,
        "alt": alt.encode(errors="replace").decode(),  # names of files need not be Unicode
        "frequencies": [round(float(hertz[k]), 6) for k in kept],
        "front_size": list(layers.front_modes.shape[-2:]),
        "back_size": list(layers.back_modes.shape[-2:]),
    }  # fmt: skip
    return Scene(
        header,
        encode_jpeg(to_bytes(image), 90),
        b"" if one_sheet else encode_jpeg(to_bytes(layers.back), 85, subsampling="4:2:0"),
        encode_jpeg(to_bytes(layers.alpha.expand(3, -1, -1))[..., 0], 90),
        _halves(layers.front_modes),
        _halves(layers.back_modes),
    )


def _halves(modes: Complex[Tensor, "modes 2 rows columns"]) -> bytes:
    packed = pack_complex(modes).movedim(1, -1).clamp(-6e4, 6e4).half().contiguous()
    return zlib.compress(packed.numpy().astype("<f2").tobytes(), 9)


def asset(name: str) -> str:
    """Return a text file that lies beside this module, such as ``explorer.js``."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{_text(hashlib.sha256(text.encode()).digest())}'"


def _figure(scene: Scene) -> str:
    """Return the photo as a plain image, which shows at once and without scripts, and its data."""
    names = ("back", "alpha", "front_modes", "back_modes")
    header = {key: value for key, value in scene.header.items() if key != "alt"}
    data = {"header": header} | {name: _text(getattr(scene, name)) for name in names}
    # No "<" can end the data block early.
    encoded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure data-gidlite>\n<img src="data:image/jpeg;base64,{_text(scene.photo)}" '
        f'width="{header["width"]}" height="{header["height"]}" '
        f'alt="{html.escape(scene.header["alt"])}">\n'
        f'<script type="application/json">{encoded}</script>\n</figure>\n'
    )


def write_page(path: str | Path, scenes: Scene | list[Scene], *, title: str = "Touch it") -> None:
    """Write a self-contained page with scenes one below the other.

    Its content security policy allows nothing but the script and the styles with their hashes.
    """
    scenes = [scenes] if isinstance(scenes, Scene) else scenes
    style = asset("page.css") + asset("explorer.css")
    script = asset("explorer.js") + "\nmountAll();\n"
    page = Template(asset("page.html")).substitute(
        title=html.escape(title), figures="".join(map(_figure, scenes)),
        style=style, style_hash=_hash(style), script=script, script_hash=_hash(script),
    )  # fmt: skip
    with written(path) as hidden:
        hidden.write_text(page, encoding="utf-8", errors="replace")
