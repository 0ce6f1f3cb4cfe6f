"""Images and video in and out: files on one side, RGB tensors on the other.

Images are float tensors (3, H, W) in [0, 1]; clips are uint8 tensors (T, 3, H, W) to save memory.
Everything written appears under its final name only once it is complete.
"""

from gidlite.media.images import (
    fit_size,
    read_image,
    resize,
    sample_photo,
    write_image,
    xt_slice,
)
from gidlite.media.reader import (
    Clip,
    VideoInfo,
    probe_video,
    read_video,
    resample_frame_rate,
    stream_video,
)
from gidlite.media.writer import VideoWriter, write_video

__all__ = [
    "Clip",
    "VideoInfo",
    "VideoWriter",
    "fit_size",
    "probe_video",
    "read_image",
    "read_video",
    "resample_frame_rate",
    "resize",
    "sample_photo",
    "stream_video",
    "write_image",
    "write_video",
    "xt_slice",
]
