"""The rows side by side, how surely each differs from the full model, and what the paper says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studies.ablation.cases import cases_in, read_truth
from studies.ablation.films import DISTANCES, distance
from studies.ablation.measure import REAL, Measured, MeasureSettings, is_ready, read_measured
from studies.ablation.paired import (
    Gap,
    Scatter,
    gap,
    holm,
    photos_needed,
    resamples,
    seeds_needed,
    times_needed,
    training_scatter,
)
from studies.ablation.rows import STAND_INS, Row

if TYPE_CHECKING:
    from rich.table import Table

MOTION = {
    "energy": "energy", "where": "where", "amount": "amount", "static": "static",
    "spectrum": "spectrum", "axes": "axes", "phase": "phase", "flatness": "flatness",
    "halves": "halves",
}  # fmt: skip
FILMS = {
    "fid": "FID", "kid": "KID", "fvd": "FVD", "fvd_early": "FVD early", "fvd_late": "FVD late",
    "fvd_32": "FVD_32", "slice": "X-t",
}  # fmt: skip
SCORES = FILMS | MOTION
# What the paper's ordering is checked by, fixed before rows were compared: its own measure, and
# the proper score of motion. Renderers have one motion: for them FVD alone.
DECIDING = ("fvd", "energy")
# It ordered K on the first 48 scenes without having been chosen: a hint, for other scenes to test.
HINT = "slice"
CAPTION = (
    "Lower is better but for where (area under the ROC curve). Brackets: 95 % intervals, bootstrap "
    "over places and the scatter of training together. energy: energy score of the motion in √px; "
    "amount: |log2| of predicted over true motion; static: motion of still things; "
    "spectrum: dB; axes, phase: how far the agreement of neighbouring bins is from the true one, "
    "all three over the bins that a row has; "
    "flatness, halves: evenness inside a rigid thing; X-t: dB between slices of films. "
    "Compare signs with the paper, not numbers: data and size differ."
)


def compare_rows(
    rows: Sequence[Row], out: Path, *, seeds: Sequence[int], settings: MeasureSettings,
    skip: int = 0, say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Return the table of all sets of photos in ``out/cases``, as it is written to JSON.

    Args:
        rows: With "full" among them.
        out: Folder of the ablation.
        seeds: Of training; a row counts with the seeds it was trained with.
        settings: How rows were measured.
        skip: Leave out so many photos of every set, the first, and sets that have no more: what
            they hint at is tested on the others, ``HINT`` with the scores that decide.
        say: Told what happens.

    Raises:
        GidliteError: If a trained row is not measured on every case.
    """
    table: dict[str, Any] = {"settings": asdict(settings), "rows": {}, "sets": {}}
    for row in rows:
        table["rows"][row.name] = _about(row, out)
    for folder in sorted((out / "cases").iterdir(), reverse=True):
        if len(cases_in(folder)) > skip:
            photos = _photos(out, folder, skip)
            table["sets"][folder.name] = _compare_on(rows, out, photos, seeds, settings, say)
    table["orderings"] = orderings(rows, table, (*DECIDING, HINT) if skip else DECIDING)
    return table


def _about(row: Row, out: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"title": row.title, "source": row.source, "published": row.published}
    note = out / "models" / row.model / "row.json"
    if row.trained and note.is_file():
        found = json.loads(note.read_text())
        about["trained"] = {key: found[key] for key in ("steps", "seconds", "device")}
    return about


@dataclass(frozen=True)
class Photos:
    """The photos of one set: the features of what really happened, and how they are resampled."""

    folder: Path
    places: list[str]
    real: Measured
    drawn: list[Tensor]


def _photos(out: Path, folder: Path, skip: int = 0) -> Photos:
    places = [read_truth(path).place for path in cases_in(folder)[skip:]]
    drawn = [skip + photos for photos in resamples(places)]
    return Photos(folder, places, read_measured(out, folder.name, REAL, REAL), drawn)


def _compare_on(rows, out: Path, photos: Photos, seeds, settings, say) -> dict[str, Any]:
    folder, found = photos.folder, {}
    for row in rows:
        trained_with = [0] if row.source in STAND_INS else seeds
        models = [f"{row.source}-{seed}" for seed in trained_with]
        models = [model for model in models if _is_there(model, out, folder)]
        renderer = row.renderer or settings.renderer
        if models:
            found[row.name] = [read_measured(out, folder.name, m, renderer) for m in models]
    by_name = {row.name: row for row in rows if row.name in found}
    against = {name: reference(row, by_name) for name, row in by_name.items()}
    against = {name: other for name, other in against.items() if other in found and other != name}
    counts = {"photos": len(photos.places), "places": len(set(photos.places))}
    result: dict[str, Any] = counts | {"rows": {}}
    for name, measured in found.items():
        result["rows"][name] = {"seeds": len(measured), "scores": {}, "differences": {}}
    for score in SCORES:
        drawn = {name: _drawn(score, measured, photos) for name, measured in found.items()}
        drawn = {name: v for name, v in drawn.items() if v is not None}
        for name, values in drawn.items():
            result["rows"][name]["scores"][score] = values[:, 0].tolist()
        pairs = {name: other for name, other in against.items() if {name, other} <= set(drawn)}
        if score in MOTION:  # a renderer changes nothing about motion
            pairs = {name: other for name, other in pairs.items() if not by_name[name].renderer}
        scatters = scatters_of(drawn, pairs, by_name)
        for name, other in pairs.items():
            differences = drawn[name].mean(0) - drawn[other].mean(0)
            one = gap(differences, counts["places"], scatters[_kind(by_name[name])])
            if math.isfinite(one.value) and math.isfinite(one.error):
                told = _told(one, counts["photos"], found[name]) | {"against": other}
                result["rows"][name]["differences"][score] = told
        say(f"{folder.name}: {SCORES[score]} compared")
    return result


def _drawn(score: str, measured: Sequence[Measured], photos: Photos) -> Tensor | None:
    """Return a score of every seed on every resample, (seeds, resamples); None if undefined."""
    if score in DISTANCES:
        if DISTANCES[score][0] not in photos.real.features:
            return None
        values = torch.tensor([
            [distance(score, photos.real.features, one.features, drawn) for drawn in photos.drawn]
            for one in measured
        ], dtype=torch.float64)  # fmt: skip
    elif all(score in one.scores for one in measured):
        each = torch.tensor([one.scores[score] for one in measured], dtype=torch.float64)
        each = torch.where(each.isfinite(), each, math.nan)
        values = torch.stack([each[:, drawn].nanmean(1) for drawn in photos.drawn], dim=1)
    else:
        return None
    return values if values[:, 0].isfinite().all() else None


def _is_there(model: str, out: Path, folder: Path) -> bool:
    return is_ready(model, out) and (out / "measured" / folder.name / model).is_dir()


def reference(row: Row, rows: dict[str, Row]) -> str:
    """Return the row that a row differs from in one thing.

    The paper's full model renders with a network, so a row that the paper has and that replaces
    the renderer is compared with ours of that kind, if it is measured.
    """
    replaces = row.renderer is not None and row.published
    return "neural" if replaces and "neural" in rows else "full"


def _kind(row: Row) -> str:
    if row.source in STAND_INS:
        return "stand-in"
    return "renderer" if row.renderer else "blind" if row.blind else "trained"


def scatters_of(
    drawn: dict[str, Tensor], pairs: dict[str, str], rows: dict[str, Row]
) -> dict[str, Scatter]:
    """Return how a difference scatters over seeds, by what it is a difference of.

    Trained rows are independent trainings, equally scattered if their networks are told the same:
    twice the variance of one. What is not told something scatters in another way, more as a rule.
    A stand-in has no training. Renderers show the motion of the same trainings.

    Args:
        drawn: Of every row, (seeds, resamples), all photos first.
        pairs: Which rows are subtracted from which.
        rows: By name.
    """
    seeds, trainings = 1, {"trained": [], "blind": []}
    for name, values in drawn.items():
        if rows[name].trained:
            trainings[_kind(rows[name])].append(values[:, 0].tolist())
            seeds = max(seeds, len(values))
    one, blind = (training_scatter(found).times(1 / seeds) for found in trainings.values())
    same = training_scatter([
        (drawn[name] - drawn[other])[:, 0].tolist()
        for name, other in pairs.items() if rows[name].renderer
    ])  # fmt: skip
    return {
        "trained": one.times(2), "blind": one + blind, "stand-in": one,
        "renderer": same.times(1 / seeds),
    }  # fmt: skip


def _told(found: Gap, photos: int, measured: Sequence[Measured]) -> dict[str, Any]:
    low, high = found.interval()
    needed = {
        "photos_needed": photos_needed(found, photos),
        "seeds_needed": seeds_needed(found, len(measured)), "times_needed": times_needed(found),
    }  # fmt: skip
    return {
        "value": found.value, "low": low, "high": high, "p": found.p, "least": found.least,
        "photo_variance": found.photos.variance, "training_variance": found.training.variance,
        **{name: value if math.isfinite(value) else None for name, value in needed.items()},
    }  # fmt: skip


def power(out: Path, *, seeds: Sequence[int], settings: MeasureSettings) -> dict[str, Any]:
    """Return the smallest difference from the full model that can be seen, from that model alone.

    Its own trainings are compared with each other: what they differ by is chance. Nothing is
    learned of any other row, so this may be looked at before they are compared.
    """
    found: dict[str, Any] = {}
    for folder in sorted((out / "cases").iterdir(), reverse=True):
        photos = _photos(out, folder)
        models = [m for m in (f"full-{s}" for s in seeds) if _is_there(m, out, folder)]
        measured = [read_measured(out, folder.name, m, settings.renderer) for m in models]
        places = len(set(photos.places))
        result = {"photos": len(photos.places), "places": places, "seeds": len(models)}
        drawn = {score: _drawn(score, measured, photos) for score in SCORES} if models else {}
        for score, values in drawn.items():
            if values is None:
                continue
            pairs = [(a - b)[1:].var().item() for a, b in combinations(values, 2)]
            one = training_scatter([values[:, 0].tolist()])
            assumed = Gap(
                0.0, Scatter(sum(pairs) / max(1, len(pairs)) / len(models), max(1, places - 1)),
                Scatter(2 * one.variance / len(models), one.freedom),
            )  # fmt: skip
            mean = values[:, 0].mean().item()
            result[score] = {"full": mean, "error": assumed.error, "least": assumed.least}
        found[folder.name] = result
    return found


def orderings(
    rows: Sequence[Row], table: dict[str, Any], scores: Sequence[str] = DECIDING
) -> dict[str, dict[str, str]]:
    """Return for every row of the paper, set and deciding score whether its order is ours, too.

    A verdict is "confirmed" or "contradicted" if the 95 % interval excludes 0, otherwise
    "undecided"; with a star if it stands when all rows of a set and score are tested together.
    """
    full = next(row.published for row in rows if row.name == "full")
    found: dict[str, dict[str, str]] = {
        row.name: {} for row in rows if row.published and row.name != "full"
    }
    for place, one in table["sets"].items():
        for score in scores:
            differences = {
                name: one["rows"][name]["differences"][score]
                for name in found
                if score in one["rows"].get(name, {}).get("differences", {})
            }
            standing = holm({name: d["p"] for name, d in differences.items()})
            for row in (row for row in rows if row.name in differences):
                word = verdict(row.published["fvd"] - full["fvd"], differences[row.name])
                star = "*" if row.name in standing and word != "undecided" else ""
                found[row.name][f"{place} {score}"] = word + star
    return found


def verdict(published: float, difference: dict[str, float]) -> str:
    """Return whether a row differs as in the paper: confirmed, contradicted or undecided.

    Args:
        published: Its FVD over that of the full model.
        difference: Ours, ``value``, ``low`` and ``high``, larger is worse.
    """
    if difference["low"] <= 0 <= difference["high"]:
        return "undecided"
    return "confirmed" if (published > 0) == (difference["value"] > 0) else "contradicted"


def format_difference(difference: dict[str, float] | None, digits: int) -> str:
    """Return a difference with its interval, in bold if that excludes 0."""
    if difference is None:
        return "-"
    value, low, high = (f"{difference[key]:+.{digits}f}" for key in ("value", "low", "high"))
    text = f"{value} [{low}, {high}]"
    return text if difference["low"] <= 0 <= difference["high"] else f"**{text}**"


def _digits(score: str) -> int:
    return {"kid": 5, "fid": 1, "spectrum": 2, "slice": 2}.get(
        score, 1 if score.startswith("fvd") else 3
    )


def _lines(table: dict[str, Any], place: str, *, differences: bool) -> list[list[str]]:
    """Return a heading and a line per row: scores, or differences from the reference."""
    rows = table["sets"][place]["rows"]
    known = [s for s in SCORES if any(s in row["scores"] for row in rows.values())]
    lines = [["", *(SCORES[score] for score in known)]]
    for name, row in rows.items():
        cells = [table["rows"][name]["title"]]
        if differences and not row["differences"]:
            continue
        for score in known:
            if differences:
                cells.append(format_difference(row["differences"].get(score), _digits(score)))
            else:
                values = row["scores"].get(score)
                mean = None if values is None else sum(values) / len(values)
                cells.append("-" if mean is None else f"{mean:.{_digits(score)}f}")
        lines.append(cells)
    return lines


def markdown_table(table: dict[str, Any]) -> str:
    """Return scores, differences and verdicts of all sets as Markdown."""
    parts = ["# The ablation", CAPTION, _training(table)]
    for place, one in table["sets"].items():
        seeds = max(row["seeds"] for row in one["rows"].values())
        size = f"{one['photos']} photos of {one['places']} places, {seeds} seeds of training"
        parts += [f"## On {place}: {size}", _markdown(_lines(table, place, differences=False))]
        parts += ["Minus the full model (splats: minus the neural renderer); bold: excludes 0.",
                  _markdown(_lines(table, place, differences=True))]  # fmt: skip
    parts += ["## The paper's order", _markdown(_verdict_lines(table)),
              "A star: stands if all rows of a column are tested together (Holm, 95 %).",
              "## What would decide it", _markdown(_effort_lines(table)),
              "Were the difference what it seems to be: photos with as many seeds, or, where that "
              "cannot do, how many times as many photos and seeds."]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _verdict_lines(table: dict[str, Any]) -> list[list[str]]:
    found, full = table["orderings"], table["rows"]["full"]["published"]
    columns = list(dict.fromkeys(key for row in found.values() for key in row))
    lines = [["", "paper, FVD over full", *columns]]
    for name, row in found.items():
        published = table["rows"][name]["published"]["fvd"] - full["fvd"]
        title = table["rows"][name]["title"]
        lines.append([title, f"{published:+.1f}", *(row.get(key, "-") for key in columns)])
    return lines


def effort(difference: dict[str, Any]) -> str:
    """Return what would decide a difference, in words."""
    if difference["low"] > 0 or difference["high"] < 0:
        return "decided"
    if difference["photos_needed"] is not None:
        return f"{difference['photos_needed']:.0f} photos"
    times = difference["times_needed"]
    return "-" if times is None else f"{times:.0f} × both"


def _effort_lines(table: dict[str, Any]) -> list[list[str]]:
    columns = [(place, score) for place in table["sets"] for score in DECIDING]
    lines = [["", *(f"{place} {score}" for place, score in columns)]]
    for name in table["orderings"]:
        found = [
            table["sets"][place]["rows"].get(name, {}).get("differences", {}).get(score)
            for place, score in columns
        ]
        cells = ["-" if one is None else effort(one) for one in found]
        lines.append([table["rows"][name]["title"], *cells])
    return lines


def _markdown(lines: list[list[str]]) -> str:
    head, *rest = lines
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


def _training(table: dict[str, Any]) -> str:
    """Return on what, and for how long, the rows were trained."""
    found = [about["trained"] for about in table["rows"].values() if "trained" in about]
    if not found:
        return "No row is trained."
    seconds = [sum(one["seconds"].values()) for one in found]
    steps = " + ".join(str(count) for count in found[0]["steps"].values())
    devices = ", ".join(sorted({one["device"] for one in found}))
    settings = table["settings"]
    return (
        f"Trained on {devices}: {steps} steps of {', '.join(found[0]['steps'])}, "
        f"{min(seconds) / 60:.0f} to {max(seconds) / 60:.0f} minutes a row (parts that rows share "
        f"are trained once). {settings['samples']} predictions per photo, {settings['steps']} "
        f"steps; films rendered by {settings['renderer']} where a row does not say."
    )


def rich_tables(table: dict[str, Any]) -> list[Table]:
    """Return differences of the deciding scores, and verdicts, for a terminal."""
    from rich.table import Table

    tables = []
    for place, one in table["sets"].items():
        shown = Table(title=f"{place}, n = {one['photos']}", title_justify="left", box=None)
        for heading in ("", *(f"{SCORES[s]} - full" for s in DECIDING)):
            shown.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
        for name, row in one["rows"].items():
            cells = [format_difference(row["differences"].get(s), _digits(s)) for s in DECIDING]
            shown.add_row(name, *(cell.replace("**", "") for cell in cells))
        tables.append(shown)
    shown = Table(title="The paper's order", title_justify="left", box=None)
    head, *rest = _verdict_lines(table)
    for heading in head:
        shown.add_column(heading)
    for line in rest:
        shown.add_row(*line)
    return [*tables, shown]
