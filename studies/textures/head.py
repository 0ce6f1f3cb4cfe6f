"""The head that makes a substitute of FVD's I3D: what it is asked, and how well it answers."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from gidlite.data.splits import place, scene_of
from gidlite.errors import require
from gidlite.evaluate import table
from studies.textures.films import FAMILIES, MANNERS, TEMPI

FOLDS = 5
_PATIENCE = 25  # epochs
# The subject of a real clip, by the first of these words in its description.
SUBJECTS = {
    "plants": "alocasia|rose|tulip|flower|azalea|monstera|potted",
    "grass": "grass|reed|grain|clover",
    "trees": "tree|branch|palm|pine|maple|poplar|forest", "flames": "flame|fire|candle|wick",
    "water": "puddle|water", "cloth": "flag|curtain", "pendula": "pendul|swing|cord|cradle",
}  # fmt: skip
TASKS = {"kind": [*FAMILIES], "tempo": TEMPI, "manner": MANNERS, "subject": [*SUBJECTS]}
_SIZES = [len(classes) for classes in TASKS.values()]
Examples = Float[Tensor, "films 1024"]
Answers = Int[Tensor, "films tasks"]  # -1 where none is known


def subject_of(description: str) -> int | None:
    """Return the class that the first telling word of a description names."""
    found = []
    for number, words in enumerate(SUBJECTS.values()):
        if match := re.search(rf"\b({words})", description):
            found.append((match.start(), number))
    return min(found)[1] if found else None


def clips_to_learn(folder: Path) -> list[tuple[Path, int, int]]:
    """Return path, class and fold of clips, but for those that the repository tests on."""
    manifest, places, found = folder / "manifest.csv", defaultdict(dict), []
    require(manifest.is_file(), f"{folder} has no manifest.csv; give a folder of clips with one")
    with manifest.open(newline="") as stream:
        for row in csv.DictReader(stream):
            known = {"file", "subject"} <= row.keys()
            require(known, f"{manifest} lacks a column file or subject; add it")
            subject = subject_of(row["subject"])
            if subject is not None and place(row["file"]) == "train":
                # Places are dealt out, so that no fold has all of a class.
                numbers = places[subject]
                fold = numbers.setdefault(scene_of(row["file"]), len(numbers)) % FOLDS
                found.append((folder / row["file"], subject, fold))
    require(bool(found), f"{manifest} names no clip that may be learned from; give other clips")
    return found


def _loss(logits: Tensor, y: Answers, weights: list[Tensor]) -> Tensor:
    """Return the sum of the cross entropies of all tasks, per film."""
    total = logits.new_zeros(())
    for part, target, weight in zip(logits.split(_SIZES, dim=1), y.T, weights, strict=True):
        options = {"ignore_index": -1, "reduction": "sum"}
        total = total + functional.cross_entropy(part, target, weight, **options)
    return total / max(len(y), 1)


def fit(x: Examples, y: Answers, stop: Bool[Tensor, " films"]) -> nn.Sequential:
    """Learn from films, and keep what answers best on those to ``stop`` by.

    Without its last layer, (128,) features go out: those of the substitute.
    """
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, sum(_SIZES)))
    mean, scale = x[~stop].mean(0), x[~stop].std(0).clamp(min=1e-3)
    z, learn, best, waited = (x - mean) / scale, (~stop).nonzero()[:, 0], (math.inf, {}), 0
    weights = []  # rare classes count more
    for target, size in zip(y[~stop].T, _SIZES, strict=True):
        counts = torch.bincount(target[target >= 0], minlength=size).clamp(min=1)
        weights.append((counts.sum() / size / counts).sqrt())
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-4, weight_decay=0.05)
    while waited < _PATIENCE:
        for batch in learn[torch.randperm(len(learn))].split(64):
            optimizer.zero_grad()
            _loss(head(functional.dropout(z[batch], 0.3)), y[batch], weights).backward()
            optimizer.step()
        with torch.no_grad():
            loss, waited = _loss(head(z[stop]), y[stop], weights).item(), waited + 1
        if loss < best[0]:
            best, waited = (loss, {name: t.clone() for name, t in head.state_dict().items()}), 0
    head.load_state_dict(best[1])
    head.requires_grad_(False)
    head[0].weight /= scale  # so that it takes features as they are
    head[0].bias -= head[0].weight @ mean
    return head


def cross_validate(
    x: Examples, y: Answers, fold: Int[Tensor, " films"]
) -> dict[str, dict[str, float | dict]]:
    """Return how well every task is answered on folds neither learned from nor stopped by.

    "balanced" is the mean over classes of the share that is told; by chance it is one over their
    number.
    """
    told, scores = torch.full_like(y, -1), {}
    for number in fold.unique().tolist():
        rest, test = fold != number, fold == number
        head = fit(x[rest], y[rest], fold[rest] == (number + 2) % FOLDS)
        parts = head(x[test]).split(_SIZES, dim=1)
        told[test] = torch.stack([part.argmax(1) for part in parts], dim=1)
    for (name, classes), answers, truth in zip(TASKS.items(), told.T, y.T, strict=True):
        sides = {word: truth == n for n, word in enumerate(classes) if (truth == n).any()}
        right = (answers == truth).float()
        films, least = {word: int(side.sum()) for word, side in sides.items()}, max(len(sides), 1)
        recalls = {word: right[side].mean().item() for word, side in sides.items()}
        total = max(sum(films.values()), 1)
        scores[name] = {
            "films": films, "recalls": recalls, "balanced": sum(recalls.values()) / least,
            "chance": 1 / least, "accuracy": right[truth >= 0].sum().item() / total,
            "most_common": max(films.values(), default=0) / total,
        }  # fmt: skip
    return scores


def scores_table(scores: dict[str, dict]) -> Table:
    """Return how well every task is answered, and what chance or one answer would give."""
    keys = ("balanced", "chance", "accuracy", "most_common")
    rows = [(name, *(it[key] for key in keys), sum(it["films"].values()))
            for name, it in scores.items()]  # fmt: skip
    headings = ["", "mean of classes", "by chance", "of films", "most common", "films"]
    return table("Told right of unseen scenes and places", headings, rows)
