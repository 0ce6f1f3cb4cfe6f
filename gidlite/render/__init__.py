"""Photo + motion → frames.

``warp`` splats the photo and fills holes; ``neural`` corrects that with a trained network, in
tiles if the photo is large; ``upsample`` brings motion to the photo's resolution along its edges;
``frames`` plays a spectral volume.

Source: Li et al. 2024, section 5.
"""

from gidlite.render.frames import (
    RENDERERS,
    check_renderer,
    close_for,
    farthest_motion,
    frame_times,
    mean_motion,
    render_frame,
    render_frames,
)
from gidlite.render.neural import WEIGHTS as RENDERER_WEIGHTS
from gidlite.render.neural import NeuralRenderer, load_renderer
from gidlite.render.upsample import GuidedUpsampling
from gidlite.render.warp import keep_sharp, splat_photo

__all__ = [
    "RENDERERS",
    "RENDERER_WEIGHTS",
    "GuidedUpsampling",
    "NeuralRenderer",
    "check_renderer",
    "close_for",
    "farthest_motion",
    "frame_times",
    "keep_sharp",
    "load_renderer",
    "mean_motion",
    "render_frame",
    "render_frames",
    "splat_photo",
]
