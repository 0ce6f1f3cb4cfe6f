"""What a web page needs of the default prior: its networks as ONNX, and the numbers around them.

Graphs feed each other by the names of what goes in and comes out, in single precision; to still or
to enliven a place, multiply ``level`` there. ``manifest.json`` tells schedule, sizes and hashes.
What is left is arithmetic on plain arrays: ``sampler.js`` and ``volume.js`` beside this file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from gidlite.dynamics.layers import take_apart
from gidlite.dynamics.modal import by_size
from gidlite.errors import GidliteError, require, written
from gidlite.pipeline import FARTHEST, SIZE_MULTIPLE, WORKING_PIXELS, GidPipeline
from gidlite.prior import PHOTO_STRIDE, image_taps, imagenet_network
from gidlite.prior.diffusion import make_scheduler, solver_steps
from gidlite.prior.drawer import ModesPrior
from gidlite.prior.modes import Modes
from gidlite.render.photo import GuidedUpsampling

FOLDER = Path(__file__).parent  # where the modules of the page lie
_MOST_BYTES = 30_000_000  # of all graphs; with its runtime, a page is to stay below 45 MB
_AT_ONCE = 24  # maps brought to the edges of a photo; more take more memory
_STEPS = 12  # of the solver, as in ``GidPipeline``
# Axes along which things grow with the photo, and how far for 32 px of it.
_CELLS = SIZE_MULTIPLE // PHOTO_STRIDE
_GROWING = {"photo": (2, 3, SIZE_MULTIPLE), "shapes": (3, 4, _CELLS), "level": (1, 2, _CELLS)}


class _Graph(nn.Module):
    """A part of the computation; parameters of ``forward`` name what goes in."""

    def __init__(self, prior: ModesPrior) -> None:
        super().__init__()
        self.modes, self.drawer = prior.modes, prior.drawer
        self.imagenet = imagenet_network(torch.device("cpu"))

    def _known(self, shapes: Tensor, level: Tensor, envelope: Tensor) -> Modes:
        return Modes(shapes, level, envelope, *[shapes.new_zeros(1)] * 4, self.modes.scale)

    def _along_edges(self, photo: Tensor, maps: Tensor) -> Tensor:
        upsample = GuidedUpsampling(photo[0], *maps.shape[-2:])
        made = [upsample(some) for some in maps.flatten(0, -3).split(_AT_ONCE)]
        return torch.cat(made).unflatten(0, maps.shape[:-2])


class _Photo(_Graph):
    """A photo in [0, 1] → what ``Modes`` says of it, tokens as the condition of the drawer."""

    def forward(self, photo: Tensor) -> tuple[Tensor, ...]:
        found = self.modes(photo, image_taps(photo))
        condition = self.drawer.embed(found.tokens)
        told = found.shapes, found.level, found.envelope, found.amount, found.embedding
        return *told, condition


class _Drawer(_Graph):
    """Noisy coordinates, their diffusion step and the condition → v."""

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        return self.drawer(noisy, step, None, condition)


class _Volume(_Graph):
    """Coordinates and a drawn amount g → bins 1 to K − 1, (2, bins, 2, H, W), in px of the photo.

    Real parts come before imaginary ones, x before y; motion has the outlines of the photo.
    """

    def forward(
        self, photo: Tensor, shapes: Tensor, level: Tensor, envelope: Tensor, coords: Tensor,
        drawn_amount: Tensor,
    ) -> Tensor:  # fmt: skip
        found = self._known(shapes, level, envelope)
        return self._along_edges(photo, found.compose(coords, drawn_amount)[0])


class _Touch(_Graph):
    """What is to be touched: the sheets of ``dynamics.layers`` with the photo's own modes.

    The photo comes at the networks' size and as it is shown (image); modes are (M / 2, rows,
    columns, 4), in the order of a scene, and places their frequencies as bins.
    """

    def forward(
        self, photo: Tensor, image: Tensor, shapes: Tensor, level: Tensor, envelope: Tensor,
        amount: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        pairs = (shapes[0] * (level[0] * amount[0, 0].exp())).unflatten(0, (-1, 2))
        packed = self._along_edges(photo, pairs).transpose(1, 2).flatten(1, 2)
        alpha, back, front_modes, back_modes = take_apart(image[0], packed)
        power = packed.square().sum(1).flatten(1)
        places = by_size(self._known(shapes, level, envelope).places(), power)
        return alpha[0], back, front_modes.movedim(1, -1), back_modes.movedim(1, -1), places


_GRAPHS = {  # and the names of what comes out
    "photo": (_Photo, ("shapes", "level", "envelope", "amount", "embedding", "condition")),
    "drawer": (_Drawer, ("v",)),
    "volume": (_Volume, ("parts",)),
    "touch": (_Touch, ("alpha", "back", "front_modes", "back_modes", "places")),
}


def _exported(graph: _Graph, outputs: tuple[str, ...], known: dict[str, Tensor]) -> bytes:
    """Return a graph, for photos of any sides that are multiples of 32 px."""
    inputs = tuple(signature(graph.forward).parameters)
    sides = [torch.export.Dim(name, min=1, max=64) for name in ("down", "across")]
    shown = {axis: torch.export.Dim(f"shown{axis}", min=16, max=2048) for axis in (2, 3)}

    def free(down: int, across: int, cells: int) -> dict:
        return {down: cells * sides[0], across: cells * sides[1]}

    grow = {name: free(*how) for name, how in _GROWING.items()} | {"image": shown}
    shapes = tuple(grow.get(name, {}) for name in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about itself
        program = torch.onnx.export(
            graph.eval(), tuple(known[name] for name in inputs), input_names=inputs,
            output_names=outputs, dynamic_shapes=shapes, dynamo=True, verbose=False,
        )  # fmt: skip
    return _compact(program)


def _compact(program: torch.onnx.ONNXProgram) -> bytes:
    """Store weights that half floats hold exactly as such, and drop notes on the source code."""
    from onnx import TensorProto, helper, numpy_helper

    model, casts = program.model_proto, []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != "float32" or values.size < 64:
            continue
        half = values.astype("float16")
        # So are the prior's own; to round ImageNet's would deal the photo's parts out anew.
        if (half == values).all():
            name, stored = weight.name, f"{weight.name}.half"
            weight.CopyFrom(numpy_helper.from_array(half, stored))
            casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    notes = [model.metadata_props, model.graph.metadata_props, model.graph.value_info]
    for found in (*notes, *(node.metadata_props for node in nodes), model.graph.node):
        del found[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString(deterministic=True)


def schedule(num_steps: int) -> dict[str, list]:
    """Return diffusion steps and, at each and at the end, the shares of signal and noise."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(timesteps=solver_steps(num_steps).tolist())
    ratio = scheduler.sigmas.double()
    signal = 1 / (1 + ratio.square()).sqrt()
    shares = {"signal": signal.tolist(), "noise": (signal * ratio).tolist()}
    return {"steps": scheduler.timesteps.tolist()} | shares


@torch.no_grad()
def export_web(pipeline: GidPipeline, folder: str | Path) -> int:
    """Write the graphs of a prior of modes and ``manifest.json``; return their size in bytes.

    A prior of grids, packages that are missing and graphs above 30 MB raise ``GidliteError``.
    """
    name, prior = pipeline.name, pipeline.prior
    require(pipeline.representation == "modes", f"{name} has no modes; export one that has")
    try:
        import onnxscript
    except ImportError:
        advice = 'install them with pip install "gidlite[web]"'
        raise GidliteError(f"exporting needs the packages onnx and onnxscript; {advice}") from None
    for noisy in ("torch.onnx", "torch.utils._sympy"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    scale, step = prior.modes.scale, solver_steps(_STEPS)[:1]
    # Computed before tracing, what is cached on first use is real.
    photo = torch.rand(1, 3, 5 * SIZE_MULTIPLE, 8 * SIZE_MULTIPLE)
    known = {"photo": photo} | dict(zip(_GRAPHS["photo"][1], _Photo(prior)(photo), strict=True))
    known["image"] = torch.rand(1, 3, 402, 640)
    coords = torch.randn(1, len(scale), 2, known["shapes"].shape[1])
    known |= {"noisy": coords, "coords": coords, "step": step, "drawn_amount": torch.ones(1)}
    _Drawer(prior)(coords, step, known["condition"])
    made = {n: _exported(kind(prior), gives, known) for n, (kind, gives) in _GRAPHS.items()}
    size = sum(map(len, made.values()))
    require(size <= _MOST_BYTES, f"{name} has {size / 1e6:.0f} MB; a page takes 30 at most")
    told = {
        "format": "gidlite-web", "version": 1, "name": name, "num_frames": pipeline.num_frames,
        "fps": pipeline.fps, **prior.modes.config, "scale": scale.tolist(), "farthest": FARTHEST,
        "photo_stride": PHOTO_STRIDE, "size_multiple": SIZE_MULTIPLE,
        "working_pixels": WORKING_PIXELS, "schedule": schedule(_STEPS), "graphs": {},
    }  # fmt: skip
    with written(folder, folder=True) as hidden:
        for key, data in made.items():
            (hidden / f"{key}.onnx").write_bytes(data)
            kind, outputs = _GRAPHS[key]
            told["graphs"][key] = {
                "file": f"{key}.onnx", "bytes": len(data), "outputs": outputs,
                "inputs": list(signature(kind.forward).parameters)[1:],
                "sha256": hashlib.sha256(data).hexdigest(),
            }  # fmt: skip
        text = json.dumps(told, indent=1) + "\n"
        (hidden / "manifest.json").write_text(text, encoding="utf-8")
    return size
