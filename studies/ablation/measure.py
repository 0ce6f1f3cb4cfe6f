"""Samples, renders and scores every row on the same photos; what is there already is not redone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from gidlite.errors import GidliteError
from gidlite.evaluate.motion import Draws, MotionReport, evaluate_cases
from gidlite.evaluate.networks import NETWORKS, find_weights
from gidlite.evaluate.videos import METRICS, Reading, VideoSettings, evaluate_videos, load_networks
from gidlite.media import read_image, resize, write_image, write_video
from gidlite.motion.spectral import motion_to_spectral
from gidlite.pipeline import GidPipeline
from gidlite.render import RENDERERS, frame_times, render_frames
from gidlite.viz import contact_sheet, motion_tile
from studies.ablation.cases import QUALITY, CaseFolder, store_clips, store_scene_cases
from studies.ablation.paired import VideoFeatures, difference_interval
from studies.ablation.rows import PRESETS, Row
from studies.ablation.scenes import StoredScenes, store_scenes
from studies.ablation.stand_ins import NearestScene, RandomSinusoid, Still
from studies.ablation.training import scenes_path

Say = Callable[[str], None]
# Scores of motion in the table, and how they follow from those of ``evaluate``.
MOTION_SCORES: dict[str, Callable[[dict], float | None]] = {
    "auc": lambda case: case["where_auc"],
    "spectrum": lambda case: case["spectral_shape_distance_db"],
    "axes": lambda case: _gap(case, "bin_agreement"),
    "phase": lambda case: _gap(case, "phase_agreement"),
}
# Photos on the sheet, and the size of its pictures.
_TILES, _TILE = 6, (100, 160)


def _gap(case: dict, name: str) -> float | None:
    pair = case[name], case[f"{name}_observed"]
    return None if None in pair else abs(pair[0] - pair[1])


@dataclass(frozen=True)
class MeasureSettings:
    """How rows are measured.

    Attributes:
        frames: Length of the videos.
        samples: Predictions per photo for the scores of motion; the first one is rendered.
        steps: Solver steps.
        guidance: Weight of classifier-free guidance.
        seed: First seed of the predictions.
        draws: Resamples of every bootstrap.
        metrics: Of videos, see ``evaluate.videos.METRICS``.
        renderer: Of rows that do not name one.

    Raises:
        GidliteError: If one is out of range or unknown.
    """

    frames: int = 64
    samples: int = 2
    steps: int = 12
    guidance: float = 0.0
    seed: int = 0
    draws: int = 200
    metrics: tuple[str, ...] = ("fid", "kid", "fvd", "fvd32")
    renderer: str = "softmax"

    def __post_init__(self) -> None:
        known = [name for name in METRICS if METRICS[name][0] in NETWORKS]
        if unknown := [name for name in self.metrics if name not in known]:
            raise GidliteError(f"metrics are some of {', '.join(known)}, not {', '.join(unknown)}")
        if self.renderer not in RENDERERS:
            raise GidliteError(
                f"renderer {self.renderer!r} is unknown; use one of {', '.join(RENDERERS)}"
            )
        frames = max([1, *(METRICS[name][1] for name in self.metrics)])
        least = {"frames": frames, "samples": 1, "steps": 1, "draws": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise GidliteError(f"{name} must be at least {value}, got {getattr(self, name)}")


@dataclass(frozen=True)
class _Place:
    """Where the results for one set of photos lie."""

    out: Path
    name: str
    cases: CaseFolder
    sprites: Path | None = None

    def videos(self, source: str, renderer: str) -> Path:
        return self.out / "videos" / self.name / f"{source}-{renderer}"

    def tiles(self, source: str) -> Path:
        return self.out / "tiles" / self.name / source

    def result(self, what: str) -> Path:
        return self.out / "measured" / self.name / f"{what}.json"


def measure_rows(
    rows: Sequence[Row],
    out: str | Path,
    *,
    scenes: int = 16,
    clips: Sequence[str | Path] = (),
    sprites: str | Path | None = None,
    settings: MeasureSettings | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure rows and write ``out/rows/NAME.json``, and ``out/table.json`` with all of them.

    Args:
        rows: Those without a trained pipeline in ``out/models``, or whose renderer does not exist,
            are left out and said to be.
        out: Folder of the ablation.
        scenes: Held-out synthetic scenes; 0 for none.
        clips: Real videos: their first frames are the photos.
        sprites: Folder of photographic pieces for the scenes.
        settings: How.
        weights: Folder of the feature networks.
        device: Where networks run.
        say: Told what happens.

    Raises:
        GidliteError: If there is nothing to measure or on, or networks are missing.
    """
    out, settings = Path(out), settings or MeasureSettings()
    pieces = None if sprites is None else Path(sprites)
    chosen, left_out = _measurable(rows, out, settings)
    if not chosen or not (scenes or clips):
        raise GidliteError("nothing to measure: give --scenes or --clips, and train a row first")
    for network in {METRICS[metric][0] for metric in settings.metrics}:
        find_weights(NETWORKS[network], weights)  # before minutes are spent on samples
    for name, reason in left_out.items():
        say(f"{name}: left out, {reason}")
    places = []
    if scenes:
        cases = store_scene_cases(
            out / "cases" / "scenes", scenes, frames=settings.frames, sprites=sprites
        )
        places.append(_Place(out, "scenes", cases, pieces))
    if clips:
        paths = sorted(Path(clip) for clip in clips)
        cases = store_clips(out / "cases" / "clips", paths, frames=settings.frames)
        places.append(_Place(out, "clips", cases, pieces))
    table: dict[str, Any] = {"settings": asdict(settings), "left_out": left_out}
    table |= {"rows": {row.name: _about(row, out) for row in chosen}, "sets": {}}
    for place in places:
        say(f"{place.name}: {len(place.cases)} photos")
        found = _measure_set(chosen, place, settings, weights=weights, device=device, say=say)
        table["sets"][place.name] = {"photos": len(place.cases), "rows": found}
        _write_sheet(place, list(dict.fromkeys(row.source for row in chosen)))
    for row in chosen:
        result = {name: part["rows"][row.name] for name, part in table["sets"].items()}
        about = table["rows"][row.name] | {"settings": asdict(settings)}
        _write(out / "rows" / f"{row.name}.json", about | result)
    _write(out / "table.json", table)
    return table


def _about(row: Row, out: Path) -> dict[str, Any]:
    """Return what a row is, what the paper says of it, and how it was trained."""
    about: dict[str, Any] = {
        "title": row.title, "source": row.source, "published": row.published
    }  # fmt: skip
    note = out / "models" / row.model / "row.json"
    if row.source not in _STAND_INS:
        found = json.loads(note.read_text())
        about["trained"] = {key: found[key] for key in ("steps", "seconds", "device")}
    return about


def _write_sheet(place: _Place, sources: Sequence[str]) -> None:
    """Write photos, their true motion and that of the sources in turn, see ``viz.motion_tile``."""
    tiles = []
    height, width = _TILE
    for number, case in zip(range(_TILES), place.cases, strict=False):
        truth = motion_to_spectral(case.motion, num_frequencies=16)
        tiles.append(resize(case.photo, height=height, width=width))
        tiles.append(motion_tile(truth, height=height, width=width))
        tiles += [read_image(place.tiles(source) / f"{number:03d}.png") for source in sources]
    sheet = contact_sheet(tiles, columns=2 + len(sources))
    write_image(place.out / f"sheet_{place.name}.png", sheet)


def _measurable(
    rows: Sequence[Row], out: Path, settings: MeasureSettings
) -> tuple[list[Row], dict[str, str]]:
    chosen, left_out = [], {}
    for row in rows:
        renderer = row.renderer or settings.renderer
        is_trained = row.source not in _STAND_INS
        if renderer not in RENDERERS:
            left_out[row.name] = f"there is no renderer {renderer}"
        elif is_trained and not (out / "models" / row.model / "row.json").is_file():
            left_out[row.name] = f"{row.source} is not trained"
        else:
            chosen.append(row)
    return chosen, left_out


def _nearest(out: Path, sprites: Path | None) -> NearestScene:
    path = scenes_path(out)
    if not path.is_file():  # trained elsewhere: scenes of the same kind
        path = out / "library.safetensors"
        store_scenes(path, replace(PRESETS["laptop"], scenes=256, held_out=1), sprites=sprites)
    return NearestScene(StoredScenes(path))


_STAND_INS = {
    "still": lambda out, sprites: Still(),
    "sinusoid": lambda out, sprites: RandomSinusoid(),
    "copied": _nearest,
}


def _predictor(source: str, place: _Place, device: str):
    if source in _STAND_INS:
        return _STAND_INS[source](place.out, place.sprites)
    return GidPipeline.from_pretrained(place.out / "models" / f"{source}-0").to(device)


class _Recorder:
    """A predictor whose first sample of every photo is rendered while it is scored."""

    def __init__(self, predictor, place: _Place, source: str, renderers, settings) -> None:
        self._predictor, self._place, self._source = predictor, place, source
        self._renderers, self._settings = renderers, settings
        self._seen: torch.Tensor | None = None
        self._count = -1
        self.num_frames, self.fps, self.name = predictor.num_frames, predictor.fps, source

    def __call__(self, image, **options):
        output = self._predictor(image, **options)
        if self._seen is None or self._seen is not image:
            self._seen, self._count = image, self._count + 1
            self._record(output)
        return output

    def _record(self, output) -> None:
        times = frame_times(output.volume)[: self._settings.frames]
        for renderer in self._renderers:
            folder = self._place.videos(self._source, renderer)
            frames = render_frames(output.image, output.volume, times, renderer=renderer)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{self._count:03d}.mp4"
            write_video(path, frames, fps=output.volume.fps, quality=QUALITY)
        if self._count < _TILES:
            size = {"height": _TILE[0], "width": _TILE[1]}
            folder = self._place.tiles(self._source)
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / f"{self._count:03d}.png", motion_tile(output.spectral, **size))


def _measure_set(
    rows: Sequence[Row], place: _Place, settings: MeasureSettings, *, weights, device: str, say: Say
) -> dict[str, Any]:
    sources: dict[str, set[str]] = {}
    for row in rows:
        sources.setdefault(row.source, set()).add(row.renderer or settings.renderer)
    results: dict[str, Any] = {}
    for source, renderers in sources.items():
        started = time.monotonic()
        motion = _motion(source, sorted(renderers), place, settings, device)
        for renderer in sorted(renderers):
            video = _video(source, renderer, place, settings, weights, device)
            results[f"{source}-{renderer}"] = {"motion": motion, "video": video}
        say(f"{place.name}: {source} measured in {time.monotonic() - started:.0f} s")
    found = {row.name: dict(results[f"{row.source}-{row.renderer or settings.renderer}"])
             for row in rows}  # fmt: skip
    if "full" in found and any(name.startswith("fvd") for name in settings.metrics):
        _add_differences(rows, found, place, settings, weights, device)
    return found


def _key(source: str, place: _Place, settings: MeasureSettings, *more: str) -> str:
    """Return a hash of everything a result is a function of."""
    total = hashlib.sha256(json.dumps([source, asdict(settings), *more]).encode())
    total.update((place.cases.folder / "cases.json").read_bytes())
    if source not in _STAND_INS:
        for path in sorted((place.out / "models" / f"{source}-0").rglob("*")):
            if path.is_file():
                total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _cached(path: Path, key: str, compute: Callable[[], Any]) -> Any:
    """Return the kept value if its key is the same, or compute and keep it."""
    try:
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            return kept["value"]
    except (OSError, ValueError, KeyError):
        pass
    value = compute()
    _write(path, {"key": key, "value": value})
    return value


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


def _motion(source, renderers, place: _Place, settings: MeasureSettings, device: str) -> dict:
    """Sample and render; return scores of motion with intervals."""

    def compute() -> dict:
        predictor = _predictor(source, place, device)
        recorder = _Recorder(predictor, place, source, renderers, settings)
        draws = Draws(settings.samples, settings.seed, settings.steps, settings.guidance)
        report = evaluate_cases(place.cases, recorder, count=len(place.cases), draws=draws)
        return summarize_motion(report, draws=settings.draws)

    key = _key(source, place, settings, *renderers)
    return _cached(place.result(source), key, compute)


def summarize_motion(report: MotionReport, *, draws: int) -> dict[str, Any]:
    """Return the median of every score of motion over cases, with a 95 % bootstrap interval.

    Cases are drawn with replacement; cases in which a score is undefined do not count.
    """
    result: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)
    for name, score in MOTION_SCORES.items():
        values = [value for value in map(score, report.cases) if value is not None]
        entry = {"value": None, "low": None, "high": None, "n": len(values)}
        if values:
            drawn = torch.tensor(values, dtype=torch.float64)
            picks = torch.randint(len(values), (draws, len(values)), generator=generator)
            medians = drawn[picks].quantile(0.5, dim=1)
            ends = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            entry |= {"value": median(values), "low": ends[0], "high": ends[1]}
        result[name] = entry
    return result


def _video_settings(settings: MeasureSettings) -> VideoSettings:
    reading = Reading(max_frames=settings.frames)
    return VideoSettings(settings.metrics, draws=settings.draws, reading=reading)


def _video(source, renderer, place: _Place, settings: MeasureSettings, weights, device) -> dict:
    def compute() -> dict:
        networks = load_networks(settings.metrics, weights=weights, device=device)
        report = evaluate_videos(
            place.cases.videos, place.videos(source, renderer), networks,
            settings=_video_settings(settings), cache=place.out / "features",
        )  # fmt: skip
        return {distance.metric: asdict(distance) for distance in report.distances}

    key = _key(source, place, settings, renderer)
    return _cached(place.result(f"{source}-{renderer}"), key, compute)


def _add_differences(
    rows, found, place: _Place, settings: MeasureSettings, weights, device
) -> None:
    """Add to every row how much larger its FVD is than its reference's, photo by photo."""
    features = VideoFeatures(place.out / "features", settings.frames, weights, device)
    by_name = {row.name: row for row in rows}

    def folder(row: Row) -> Path:
        return place.videos(row.source, row.renderer or settings.renderer)

    for row in rows:
        reference = by_name[_reference(row, by_name)]
        if folder(row) == folder(reference) or len(place.cases) < 3:
            continue

        def compute(row: Row = row, reference: Row = reference) -> dict:
            sides = (place.cases.videos, folder(row), folder(reference))
            values = difference_interval(*map(features.of, sides), draws=settings.draws)
            return dict(zip(("value", "low", "high"), values, strict=True))

        other = _key(reference.source, place, settings, str(reference.renderer))
        key = _key(row.source, place, settings, str(row.renderer), other)
        difference = _cached(place.result(f"difference-{row.name}"), key, compute)
        found[row.name]["fvd_difference"] = difference | {"against": reference.name}


def _reference(row: Row, rows: dict[str, Row]) -> str:
    """Return the row that a row differs from in one thing.

    The paper's full model renders with a network, so a row that the paper has and that replaces
    the renderer is compared with ours of that kind, if it is measured.
    """
    replaces = row.renderer is not None and row.published
    return "neural" if replaces and "neural" in rows else "full"
