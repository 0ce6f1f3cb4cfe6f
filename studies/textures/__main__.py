"""Commands: learn the head of the substitute, and compare it with FVD on faults of motion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from gidlite.__main__ import run
from gidlite.cli import MetricWeights, Sprites, progress_bar, show_report
from gidlite.data.world.pieces import Pieces, collect_pieces
from gidlite.errors import alone, require, require_file, written
from gidlite.evaluate.networks import load_published
from studies.textures.compare import DRAWS, bootstrap, report_on, tables
from studies.textures.films import (
    COMPARE_SEED,
    LEARN_SEED,
    clip_examples,
    compared_films,
    look,
    scene_examples,
    stored,
)
from studies.textures.head import FOLDS, clips_to_learn, cross_validate, fit, scores_table

app = typer.Typer(help="Does a network of dynamic textures see faults that FVD's does not?")
Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder of features and results.")]


def _remember(output: Path, told: dict) -> None:
    """Keep with what the features of a folder are made, and refuse to mix two kinds."""
    path = output / "made_with.json"
    if path.is_file():
        other = json.loads(path.read_text()) != told
        require(not other, f"{output} was begun with other options; choose another folder")
    with written(path) as hidden:
        hidden.write_text(json.dumps(told, indent=1) + "\n")


def _pieces(sprites: str | None, seed: int) -> Callable[[int], Pieces]:
    """Return a function from the number of a scene to its pieces, which are read when needed."""
    read = cache(lambda: collect_pieces(sprites, seed=seed))
    return lambda number: read()[number % len(read())]


def _answered(network: nn.Module, examples: Iterable[tuple]) -> dict[str, Tensor]:
    """Return what a network sees of films, and their classes."""
    pairs = [(look(network, film), torch.tensor(classes)) for film, classes in examples]
    return dict(zip("xy", map(torch.stack, zip(*pairs, strict=True)), strict=True))


@app.command()
def learn(
    output: Folder,
    clips: Annotated[Path, typer.Option(help="Folder of real clips with manifest.csv.")],
    *,
    sprites: Sprites = None,
    weights: MetricWeights = None,
    scenes: Annotated[int, typer.Option(help="Of two films each.", min=FOLDS)] = 300,
    every: Annotated[int, typer.Option(help="Films have every n-th frame.", min=1, max=3)] = 1,
) -> None:
    """Learn the head, and tell how well it knows films of unseen scenes and places."""
    begun, listed = time.monotonic(), clips_to_learn(clips)
    names = {"sprites": sprites, "weights": weights}
    told = {"every": every} | {name: path and str(path) for name, path in names.items()}
    pieces = _pieces(sprites, LEARN_SEED)
    jobs = [(f"scene {n}", n % FOLDS, lambda n=n: scene_examples(n, pieces(n), every))
            for n in range(scenes)]  # fmt: skip
    jobs += [(path.stem, fold, partial(clip_examples, path, subject, every))
             for path, subject, fold in listed]  # fmt: skip
    found, folds = [], []
    with alone(output, "films"), progress_bar("Looking at films") as progress:
        progress(0, len(jobs))
        network = load_published("i3d", weights)
        _remember(output, told)
        for done, (name, fold, make) in enumerate(jobs, start=1):
            path = output / "films" / f"learn {name}.safetensors"
            found.append(stored(path, lambda make=make: _answered(network, make())))
            folds += [fold] * len(found[-1]["x"])
            progress(done, len(jobs))
        x, y = (torch.cat([one[name] for one in found]) for name in "xy")
        fold = torch.tensor(folds)
        scores, head = cross_validate(x, y, fold), fit(x, y, fold == FOLDS - 1)
        with written(output / "head.safetensors") as hidden:
            save_file(head.state_dict(), hidden)
    report = {"i3d": network.label, **told, "scenes": scenes, "clips": len(listed)}
    report |= {"films": len(x), "seconds": time.monotonic() - begun, "held_out": scores}
    show_report([scores_table(scores)], output / "head.json", report)


@app.command()
def compare(
    output: Folder,
    *,
    scenes: Annotated[int, typer.Option(help="Unseen ones; intervals need many.", min=3)] = 64,
) -> None:
    """Make faults in unseen scenes, and tell which features set them apart from another wind."""
    begun, path = time.monotonic(), output / "made_with.json"
    head = load_file(require_file(output / "head.safetensors", what="what learn writes"))
    told = json.loads(require_file(path, what="what learn writes").read_text())
    pieces = _pieces(told["sprites"], COMPARE_SEED)

    def features(number: int) -> dict[str, Tensor]:
        films = compared_films(number, pieces(number), told["every"])
        return {name: look(network, film) for name, film in films}

    found = []
    with alone(output, "films"), progress_bar("Looking at faults") as progress:
        progress(0, scenes)
        network = load_published("i3d", told["weights"])
        for number in range(scenes):
            path = output / "films" / f"compare {number}.safetensors"
            found.append(stored(path, lambda number=number: features(number)))
            progress(number + 1, scenes)
    sets = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    last = network.logits["conv3d"]
    seen_by = {
        "fvd": lambda x: functional.linear(x, last.weight.flatten(1), last.bias),
        "pooled": lambda x: x,
        "substitute": lambda x: functional.linear(x, head["0.weight"], head["0.bias"]).relu(),
    }  # fmt: skip
    differences = {}
    with progress_bar("Resampling scenes") as progress:
        for turn, (name, see) in enumerate(seen_by.items()):

            def advance(done: int, before: int = turn * DRAWS) -> None:
                progress(before + done, len(seen_by) * DRAWS)

            views = {title: see(x) for title, x in sets.items()}
            differences[name] = bootstrap(views, draws=DRAWS, progress=advance)
    report = report_on(differences, scenes) | {"seconds": time.monotonic() - begun}
    show_report(tables(report), output / "compare.json", report)


if __name__ == "__main__":
    run(app)
