"""Every reader of the package: a valid file or folder for it, and what it promises to return.

Run as a program, it reads what it is told, in a process whose memory is limited: a line of JSON in,
(reader, path), and one out.
"""

import importlib
import json
import math
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

MOST_BYTES, MOST_SECONDS = 2 << 30, 10


def _stripes(height: int = 40, width: int = 56, count: int = 1) -> np.ndarray:
    """Return smooth colourful frames that move."""
    y, x, t = np.mgrid[:height, :width, :count]
    channels = [128 + 100 * np.sin((x + 3 * t) / 9 + k + y / 13) for k in range(3)]
    return np.stack(channels, -1).astype(np.uint8).transpose(2, 0, 1, 3)


def _images(folder: Path) -> None:
    picture = Image.fromarray(_stripes()[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    picture.save(folder / "progressive.jpg", progressive=True, quality=40)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "plain.png")
    picture.quantize(16).save(folder / "palette.png", transparency=3)
    Image.fromarray(_stripes()[0, ..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    picture.convert("RGBA").save(folder / "lossless.webp", lossless=True)
    picture.save(folder / "lossy.webp")
    frames = [Image.fromarray(frame) for frame in _stripes(count=3)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    picture.save(folder / "plain.tif")
    picture.save(folder / "packed.tif", compression="tiff_lzw")
    picture.save(folder / "plain.bmp")


def _videos(folder: Path) -> None:
    import av

    frames = _stripes(64, 80, 12)
    kinds = {"a.mp4": "libx264", "b.mkv": "mpeg4", "c.webm": "libvpx", "d.ts": "mpeg2video"}
    for name, codec in {**kinds, "e.avi": "mjpeg", "f.mov": "libx264"}.items():
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=24)
            stream.width, stream.height = 80, 64
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    films = [Image.fromarray(frame) for frame in frames[:4]]
    films[0].save(folder / "g.gif", save_all=True, append_images=films[1:], duration=40)


def _volumes(folder: Path) -> None:
    from gidlite.motion import SpectralVolume, save_volume

    spectral = torch.randn(5, 2, 6, 9, dtype=torch.complex64)
    save_volume(folder / "volume.safetensors", SpectralVolume(spectral, 60, 24.0, 3, "name"))


def _masks(folder: Path) -> None:
    ramp = Image.fromarray(_stripes()[0, ..., 0])
    ramp.save(folder / "mask.png")
    ramp.convert("RGBA").save(folder / "rgba.png")


def _configs(folder: Path) -> None:
    from gidlite.train import TrainConfig

    (folder / "config.json").write_text(json.dumps(TrainConfig().to_json()))


def _samples(folder: Path) -> Path:
    from gidlite.data.shards import Sample, finish_folder, write_json, write_shard

    spectral = torch.randn(4, 2, 10, 14, dtype=torch.complex64)
    image = torch.from_numpy(_stripes()[0]).permute(2, 0, 1).contiguous()
    info = {"source": "a.mp4", "start": 0.5, "checks": {}}
    sample = Sample(image, spectral, torch.ones(10, 14, dtype=torch.bool), info)
    settings = {"num_frequencies": 4, "height": 40, "width": 56, "num_frames": 60, "fps": 24.0}
    write_json(folder / "settings.json", settings)
    write_shard(folder / "shards" / "a.safetensors", [sample] * 2)
    finish_folder(folder, [{"file": "a.safetensors", "samples": [0, 1]}], report={})
    return folder


def _pairs(folder: Path) -> None:
    from safetensors.torch import save_file

    from gidlite.data.pairs import PAIR_FORMAT, PAIR_TENSORS

    shapes = {name: torch.zeros(2, 1, 8, 8) for name in PAIR_TENSORS}
    save_file(shapes, folder / "pairs_0.safetensors", dict(PAIR_FORMAT))


def _runs(folder: Path) -> None:
    from gidlite.train import TrainConfig, save_checkpoint

    meta = {"config": TrainConfig().to_json(), "step": 3}
    save_checkpoint(folder, {"weight": torch.zeros(3)}, meta)


def _pipelines(folder: Path, kind: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
    from tiny_pipeline import tiny

    tiny(kind).save_pretrained(folder)


def _read_image(path: Path) -> None:
    from gidlite.media import read_image

    image = read_image(path)
    assert image.dtype == torch.float32 and image.ndim == 3 and image.shape[0] == 3, image.shape
    assert 16 <= min(image.shape[1:]) and max(image.shape[1:]) <= 4096, image.shape
    assert 0 <= float(image.min()) and float(image.max()) <= 1


def _probe_video(path: Path) -> None:
    from gidlite.media import probe_video

    info = probe_video(path)
    assert 0 < info.fps < math.inf and info.width >= 0 and info.height >= 0, info
    assert info.seconds is None or 0 <= info.seconds < math.inf, info


def _read_video(path: Path) -> None:
    from gidlite.media import read_video

    clip = read_video(path, max_frames=8)
    assert clip.frames.dtype == torch.uint8 and 0 < clip.fps < math.inf, clip.fps
    assert 1 <= len(clip.frames) <= 8 and clip.frames.shape[1] == 3, clip.frames.shape


def _read_volume(path: Path) -> None:
    from gidlite.motion import load_volume

    volume = load_volume(path)
    spectral, hertz = volume.spectral, volume.frequencies_hz
    assert spectral.dtype == torch.complex64 and spectral.ndim == 4 and spectral.shape[1] == 2
    assert spectral.isfinite().all() and hertz.isfinite().all() and 0 < volume.period_seconds
    assert len(spectral) <= volume.num_frames // 2 + 1


def _touch_volume(path: Path) -> None:
    """What is read can be shown."""
    from gidlite.dynamics import make_scene
    from gidlite.motion import load_volume

    volume = load_volume(path)
    if volume.frequencies_hz[-1] >= 0.5:
        rows, columns = volume.spectral.shape[-2:]
        scene = make_scene(torch.rand(3, 4 * rows, 4 * columns), volume)
        json.dumps(scene.header, allow_nan=False)


def _read_mask(path: Path) -> None:
    from tiny_pipeline import tiny

    from gidlite.pipeline import GidPipeline

    gain = GidPipeline.edit(tiny("modes"), torch.rand(3, 40, 56), mask=path)
    assert gain.ndim == 2 and 0 <= float(gain.min()) and float(gain.max()) <= 1


def _read_config(path: Path) -> None:
    from gidlite.train import TrainConfig

    json.dumps(TrainConfig.from_json(path).to_json(), allow_nan=False)


def _read_samples(folder: Path) -> None:
    from gidlite.data import ShardSource
    from gidlite.data.shards import ShardFolder

    shards = ShardFolder(folder)
    for number in range(min(len(shards), 3)):
        sample = shards[number]
        assert sample.image.dtype == torch.uint8 and sample.image.shape[0] == 3
        assert sample.spectral.isfinite().all() and sample.reliable.dtype == torch.bool
        assert sample.spectral.shape[-2:] == sample.reliable.shape and isinstance(sample.info, dict)
    source = ShardSource(folder, grid_stride=2, num_frequencies=4)
    example = source.example(0, 0)
    assert example.spectral.shape[:2] == (4, 2), example.spectral.shape


def _read_pairs(folder: Path) -> None:
    from gidlite.data.pairs import PairFolder

    PairFolder(folder, size=(8, 8)).example(0, 0)


def _read_run(folder: Path) -> None:
    from gidlite.train import load_checkpoint

    _, meta = load_checkpoint(folder)
    assert isinstance(meta, dict) and isinstance(meta["config"], dict), meta


def _read_pipeline(folder: Path) -> None:
    from gidlite.pipeline import GidPipeline

    pipe = GidPipeline.from_pretrained(folder)
    assert isinstance(pipe.name, str) and 0 < pipe.fps < math.inf and pipe.num_frames > 0
    for part in pipe._parts().values():
        assert all(p.isfinite().all() and p.dtype == torch.float32 for p in part.parameters())


# name: (writes valid files into a folder, reads one of them or the folder, whether it is a folder)
READERS = {
    "config": (_configs, _read_config, False),
    "volume": (_volumes, _read_volume, False),
    "run": (_runs, _read_run, True),
    "shards": (_samples, _read_samples, True),
    "pairs": (_pairs, _read_pairs, True),
    "image": (_images, _read_image, False),
    "mask": (_masks, _read_mask, False),
    "probe": (_videos, _probe_video, False),
    "video": (_videos, _read_video, False),
    "modes": (lambda folder: _pipelines(folder, "modes"), _read_pipeline, True),
    "grid": (lambda folder: _pipelines(folder, "grid"), _read_pipeline, True),
    "touch": (_volumes, _touch_volume, False),
}


def write_seeds(folder: Path) -> None:
    """Write what is valid, a folder for every reader."""
    torch.manual_seed(0)
    for name, (write, _, _) in READERS.items():
        (folder / name).mkdir(parents=True)
        write(folder / name)


def problem_of(name: str, path: Path) -> str:
    """Read, and return what breaks the promise: a result as documented, or one sentence."""
    from gidlite.errors import GidliteError

    try:
        READERS[name][1](path)
    except GidliteError as error:
        words = str(error)
        if "\n" in words or len(words) > 1200:
            return f"not one sentence: {words[:300]!r} ({len(words)})"
        return "" if path.name in words else f"does not name the file: {words[:300]}"
    except BaseException as error:
        places = traceback.extract_tb(error.__traceback__)
        places = [f for f in places if "gidlite" in Path(f.filename).parts] or places
        where = f"{Path(places[-1].filename).name}:{places[-1].name}:{places[-1].lineno}"
        return f"{type(error).__name__} in {where}: {str(error)[:300]}"
    return ""


def _peak(field: str) -> int:
    found = Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]
    return 1024 * int(found)


def _measured(name: str, path: Path) -> str:
    """Return the problem, also of time and memory."""
    linux = os.path.exists("/proc/self/clear_refs")
    if linux:
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak("VmHWM")
    begun = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        problem = problem_of(name, path)
    seconds = time.process_time() - begun
    from gidlite.errors import GidliteWarning

    for warning in caught:
        kind, words = warning.category, str(warning.message)
        if not problem and not (issubclass(kind, GidliteWarning) and path.name in words):
            problem = f"warns: {kind.__name__} {words} {warning.filename}"
    if seconds > MOST_SECONDS:
        problem = f"takes {seconds:.0f} s; {problem}"
    if linux and (took := _peak("VmHWM") - before) > MOST_BYTES:
        problem = f"takes {took / 2**30:.1f} GiB; {problem}"
    return problem


def main() -> None:
    """Read what the lines on the standard input name."""
    answers = os.fdopen(os.dup(1), "w")
    noise = tempfile.TemporaryFile()
    for stream in (1, 2):
        os.dup2(noise.fileno(), stream)
    importlib.import_module("gidlite.train")  # what all readers need is no part of their memory
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
    if sys.platform == "linux":
        most = _peak("VmData") + 2 * MOST_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    for line in sys.stdin:
        name, path = json.loads(line)
        problem = _measured(name, Path(path))
        sys.stdout.flush()
        sys.stderr.flush()
        noise.seek(0)
        said = noise.read().decode(errors="replace")
        noise.seek(0)
        noise.truncate()
        if not problem and any(word in said for word in ("Warning", "Traceback", "site-packages")):
            problem = f"prints: {said.strip()[:300]}"
        answers.write(json.dumps(problem) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
