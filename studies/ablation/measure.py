"""Samples, renders and scores trained rows on all cases; what is there already is not redone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gidlite.data.splits import ABLATION_SEED, seeded
from gidlite.errors import GidliteError, require, require_file, written
from gidlite.evaluate import slice_spectral_distance
from gidlite.evaluate.motion import like_observed
from gidlite.media import resize, write_image, xt_slice
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, resize_spectral
from gidlite.pipeline import GidOutput, GidPipeline
from gidlite.render import RENDERERS, frame_times, render_frames
from gidlite.viz import contact_sheet, liveliest_slice, motion_tile
from studies.ablation.cases import FILM, NUM_FRAMES, Truth, cases_in, read_truth
from studies.ablation.films import Features, film_features
from studies.ablation.rows import PRESETS, STAND_INS, Row
from studies.ablation.scenes import StoredScenes, store_scenes
from studies.ablation.scores import score_motion
from studies.ablation.stand_ins import NearestScene, RandomSinusoid, Still
from studies.ablation.training import scenes_path

Say = Callable[[str], None]
REAL = "real"  # the films that happened, measured like those of a row
_SETTINGS = "settings.json"


@dataclass(frozen=True)
class MeasureSettings:
    """How rows are measured.

    Attributes:
        samples: Predictions per photo, for the scores of motion; the first one is rendered.
        steps: Solver steps.
        renderer: Of rows that do not name one.
        long: Whether films are looked at 32 frames at a time, too.

    Raises:
        GidliteError: If one is out of range or unknown.
    """

    samples: int = 2
    steps: int = 8
    renderer: str = "softmax"
    long: bool = False

    def __post_init__(self) -> None:
        known = f"use one of {', '.join(RENDERERS)}"
        require(self.renderer in RENDERERS, f"renderer {self.renderer!r} is unknown; {known}")
        for name, least in {"samples": 2, "steps": 1}.items():
            value = getattr(self, name)
            require(value >= least, f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Measured:
    """What was found for one model on all cases of a set.

    Attributes:
        scores: Of every case, by name; NaN where undefined.
        features: Of its films, see ``films.film_features``.
    """

    scores: dict[str, list[float]]
    features: Features


def measure(
    rows: Sequence[Row], out: Path, sets: Iterable[str], *, settings: MeasureSettings,
    networks: dict[str, nn.Module], sprites: Path | None = None, say: Say = lambda text: None,
) -> None:  # fmt: skip
    """Measure models on the cases in ``out/cases/SET``; a run that was stopped goes on.

    Writes ``out/measured/SET/MODEL/NNN.safetensors``. Rows of one model are measured together.

    Args:
        rows: With their seeds; those that were not trained are left out.
        out: Folder of the ablation.
        sets: Names of folders of cases.
        settings: How.
        networks: From ``load_film_networks``.
        sprites: Folder of photographic pieces, for the library of the nearest scene.
        say: Told what happens.

    Raises:
        GidliteError: If what is there was measured in another way.
    """
    _remember(out, settings)
    renderers: dict[str, set[str]] = {}
    for row in rows:
        renderers.setdefault(row.model, set()).add(row.renderer or settings.renderer)
    for place in sets:
        paths = cases_in(out / "cases" / place)
        for model, wanted in {REAL: set(), **renderers}.items():
            if model != REAL and not is_ready(model, out):
                say(f"{place}: {model} is not trained, left out")
                continue
            if model.startswith("wind-") and place != "scenes":
                continue  # a real clip shows one wind, and no other is known
            key = _key(model, out, settings)
            known = {path: _measured(result_path(out, place, model, path), key) for path in paths}
            missing = [path for path in paths if not (known[path] and wanted <= known[path])]
            predictor = _predictor(model, out, sprites) if missing and model != REAL else None
            for path in missing:
                truth = read_truth(path)
                if predictor is None:
                    scores, films = {}, {REAL: truth.film}
                else:
                    volumes = predict(predictor, truth, settings)
                    scores, films = _rendered(volumes, truth, sorted(wanted | known[path]))
                found = {
                    name: film_features(film, networks, long=settings.long)
                    for name, film in films.items()
                }
                tensors = {f"{name}/{k}": v for name, one in found.items() for k, v in one.items()}
                target = result_path(out, place, model, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with written(target) as hidden:
                    save_file(tensors, hidden, {"key": key, "scores": json.dumps(scores)})
            if missing:
                say(f"{place}: {model} measured on {len(missing)} of {len(paths)}")


def _remember(out: Path, settings: MeasureSettings) -> None:
    """Note how rows are measured, and refuse to mix two ways."""
    path = out / "measured" / _SETTINGS
    if path.is_file():
        other = read_settings(out, settings.renderer)
        way = f"{other.samples} samples, {other.steps} steps, {'' if other.long else 'not '}long"
        require(other == settings, f"{path.parent} was measured with {way}; do so, or remove it")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {name: value for name, value in asdict(settings).items() if name != "renderer"}
    with written(path) as hidden:
        hidden.write_text(json.dumps(told) + "\n")


def read_settings(out: Path, renderer: str) -> MeasureSettings:
    """Return how rows were measured, to be compared as they look by one renderer.

    Raises:
        GidliteError: If none was, or the renderer is unknown.
    """
    path = require_file(out / "measured" / _SETTINGS, what="what the command measure writes")
    return MeasureSettings(**json.loads(path.read_text()), renderer=renderer)


def with_seeds(rows: Iterable[Row], seeds: Sequence[int]) -> list[Row]:
    """Return every row with every seed of training, stand-ins once; one seed after the other."""
    rows = list(rows)
    found = [replace(row, seed=0) for row in rows if row.source in STAND_INS]
    trained = [row for row in rows if row.source not in STAND_INS]
    return [replace(row, seed=seed) for seed in seeds for row in trained] + found


def is_ready(model: str, out: Path) -> bool:
    """Return whether a model is a stand-in or trained."""
    stands_in = model.rsplit("-", 1)[0] in STAND_INS
    return stands_in or (out / "models" / model / "row.json").is_file()


def result_path(out: Path, place: str, model: str, case: Path) -> Path:
    """Return where what was found for a model and a case lies."""
    return out / "measured" / place / model / case.name


def _key(model: str, out: Path, settings: MeasureSettings) -> str:
    """Return a hash of what a result is a function of, but for the case."""
    total = hashlib.sha256(
        json.dumps([model, settings.samples, settings.steps, settings.long]).encode()
    )
    note = out / "models" / model / "row.json"
    total.update(note.read_bytes() if note.is_file() else b"")
    return total.hexdigest()[:16]


def _measured(path: Path, key: str) -> set[str]:
    """Return by which renderers a case is measured already; none if in another way."""
    if not path.is_file():
        return set()
    with safe_open(path, "pt") as file:
        same = (file.metadata() or {}).get("key") == key
        return {name.partition("/")[0] for name in file.keys()} if same else set()


def _nearest(out: Path, sprites: Path | None) -> NearestScene:
    path = scenes_path(out)
    if not path.is_file():  # trained elsewhere: scenes of the same kind
        path = out / "library.safetensors"
        store_scenes(path, replace(PRESETS["laptop"], scenes=256, held_out=1), sprites=sprites)
    return NearestScene(StoredScenes(path))


class AnotherWind:
    """Predicts other true winds of a scene; what the best prior would do."""

    num_frames, fps, name = NUM_FRAMES, 30.0, "wind"

    def of(self, truth: Truth) -> Tensor:
        """Return all winds but the one that the film shows, which stays unseen."""
        require(len(truth.winds) > 1, f"{truth.name} has one wind alone; leave the row wind out")
        return truth.fine[1:]


def _predictor(model: str, out: Path, sprites: Path | None) -> Any:
    name = model.rsplit("-", 1)[0]
    made = {
        "still": Still, "sinusoid": RandomSinusoid, "wind": AnotherWind,
        "copied": lambda: _nearest(out, sprites),
    }  # fmt: skip
    if name in made:
        return made[name]()
    return GidPipeline.from_pretrained(out / "models" / model)


def predict(predictor: Any, truth: Truth, settings: MeasureSettings) -> list[GidOutput]:
    """Return samples for the photo of a case, equal seeds for all models."""
    if isinstance(predictor, AnotherWind):
        return [
            GidOutput(truth.photo, SpectralVolume(anchor(one), NUM_FRAMES, 30.0, -1, "wind"))
            for one in predictor.of(truth)
        ]
    number = int(1e6 * truth.photo.double().mean())
    return [
        predictor(
            truth.photo, num_inference_steps=settings.steps,
            generator=seeded(ABLATION_SEED + draw, number),
        )
        for draw in range(settings.samples)
    ]  # fmt: skip


def _rendered(
    outputs: Sequence[GidOutput], truth: Truth, renderers: Sequence[str]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return scores, that of X-t slices for every renderer, and a film of the first sample each."""
    rows, columns = truth.level.shape
    motion = torch.zeros(truth.frames, 2, rows, columns)  # its size alone is looked at
    seen = [like_observed(one.spectral, motion, NUM_FRAMES) for one in outputs]
    samples = torch.stack([resize_spectral(one, height=rows, width=columns) for one in seen])
    scores = score_motion(samples, truth)
    times = frame_times(outputs[0].volume)[:FILM]
    line, films = liveliest_slice(truth.film), {}
    real = xt_slice(truth.film.float() / 255, **line)
    for name in renderers:
        frames = list(render_frames(outputs[0].image, outputs[0].volume, times, renderer=name))
        film = torch.stack(frames)
        film = film if film.dtype == torch.uint8 else (film * 255).round().byte()
        films[name] = film
        scores[f"slice/{name}"] = _slices(xt_slice(film.float() / 255, **line), real)
    return scores, films


def _slices(made: Tensor, real: Tensor) -> float:
    """Return the distance of two X-t slices in dB; what stands still has the noise of one level."""
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0)) / 255
    return slice_spectral_distance(made + noise, real + noise)


def read_measured(out: Path, place: str, model: str, renderer: str) -> Measured:
    """Return what was found for a model, rendered in one way, on all cases of a set.

    Raises:
        GidliteError: If a case is not measured.
    """
    scores: dict[str, list[float]] = {}
    features: dict[str, list[Tensor]] = {}
    for case in cases_in(out / "cases" / place):
        path = result_path(out, place, model, case)
        if not path.is_file():
            raise GidliteError(f"{path} is missing; run the command measure to its end")
        with safe_open(path, "pt") as file:
            found = json.loads(file.metadata()["scores"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        for name, value in found.items():
            name, _, of = name.partition("/")
            if of in ("", renderer):
                scores.setdefault(name, []).append(value)
        for name, values in tensors.items():
            of, _, name = name.partition("/")
            if of == renderer:
                features.setdefault(name, []).append(values)
        rendered = any(name.startswith(f"{renderer}/") for name in tensors)
        require(rendered, f"{path} lacks the renderer {renderer}; run the command measure for it")
    return Measured(scores, {name: torch.stack(values) for name, values in features.items()})


def write_sheet(out: Path, place: str, models: Sequence[str], settings: MeasureSettings) -> Path:
    """Draw photos, their true motion and that of models side by side; return the picture's path."""
    tiles, size = [], {"height": 100, "width": 160}
    for path in cases_in(out / "cases" / place)[:6]:
        truth = read_truth(path)
        tiles.append(resize(truth.photo, **size))
        tiles.append(motion_tile(truth.winds[0], **size))
        for model in models:
            one = replace(settings, samples=2)
            predictor = _predictor(model, out, None)
            tiles.append(motion_tile(predict(predictor, truth, one)[0].spectral, **size))
    target = out / f"sheet_{place}.png"
    write_image(target, contact_sheet(tiles, columns=2 + len(models)))
    return target
