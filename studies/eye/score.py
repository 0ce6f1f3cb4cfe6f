"""What observers answered, opened with the key: how often first was preferred, and how surely."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binomtest

from gidlite.errors import require, require_file
from gidlite.evaluate import table
from studies.eye.make import FORMAT, SIDES

ANSWERS = {"format": "gidlite-eye", "version": 1}
EVERYONE = "all observers"  # no file that the page saves is called so
_DRAWS, _LEVEL = 2000, 0.95
_FAILED = 0.2  # more than this share of catch pairs is inattentive
_FORMER = {"pair": "first", "catch": "moving"}  # what a share counts
Answers = dict[str, str]  # by id of the pair: left, right or none


def read_key(folder: Path) -> dict:
    """Return the key of a set; raise ``GidliteError`` if there is none that can be read."""
    path = require_file(folder / "key.json", what="the key of a set")
    key = _read(path)
    require(key.items() >= FORMAT.items(), f"{path} is not a key; make the set again")
    return key


def read_results(paths: Iterable[Path], key: dict) -> dict[str, Answers]:
    """Return what every observer answered; observers are called as their files are.

    Raises:
        GidliteError: If a file is no result, is of another set, has an answer to no pair, two to
            one or one that is unknown, or if two files have one name or the same answers.
    """
    ids, found = {pair["id"] for pair in key["pairs"]}, {}
    for path in paths:
        result = _read(require_file(path, what="what the page saved"))
        known = result.items() >= ANSWERS.items() and isinstance(result.get("answers"), list)
        require(known, f"{path} is not what the page saved; give such files alone")
        require(result.get("set") == key["set"], f"{path} answers another set; leave it out")
        answers: Answers = {}
        for answer in result["answers"]:
            fields = answer if isinstance(answer, dict) else {}
            pair, choice = str(fields.get("id")), str(fields.get("choice"))
            good = pair in ids and choice in (*SIDES, "none") and pair not in answers
            require(good, f"{path} has an answer that is unknown or given twice; save it again")
            answers[pair] = choice
        require(bool(answers), f"{path} holds no answer; leave it out")
        name = path.stem.removeprefix("eye_")
        require(name not in found, f"two files are called {path.name}; rename one of them")
        twin = next((other for other, told in found.items() if told == answers), None)
        copied = twin is not None and len(answers) > 20  # so many agree by no chance
        require(not copied, f"{path} holds the same answers as that of {twin}; leave one out")
        found[name] = answers
    require(bool(found), "no results were given; give what the page saved")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    require(isinstance(content, dict), f"{path} is not readable as JSON; save it again")
    return content


def score(key: dict, results: dict[str, Answers]) -> dict:
    """Return the rows of the table, one per kind of pair and observer, and what to be warned of.

    A row has ``kind``, ``observer``, ``pairs``, how often the ``former`` (first, or what moves) and
    the ``latter`` was chosen or ``neither``, ``share``: of the former in [0, 1], neither counts
    half, and 95 % intervals of it: ``exact`` over pairs, ``photos`` by bootstrap over photos, None
    where every photo was judged once. The row of all observers averages each pair over them.
    """
    rows, warnings = [], []
    for kind in _FORMER:
        pairs = {pair["id"]: pair for pair in key["pairs"] if pair["kind"] == kind}
        everyone = {EVERYONE: list(results.values())} if len(results) > 1 else {}
        for name, several in ({n: [a] for n, a in results.items()} | everyone).items():
            row = _row(kind, pairs, several)
            if row is not None:
                rows.append({"kind": kind, "observer": name} | row)
    for row in rows:
        # A loop that moves beside one that does not is always to be seen.
        failed = row["latter"] + row["neither"]
        asked = row["former"] + failed
        if row["kind"] == "catch" and row["observer"] != EVERYONE and failed > _FAILED * asked:
            told = f"{row['observer']} failed {failed} of {asked} catch pairs"
            warnings.append(f"{told}; look at the table without this file, too")
    told = {name: key[name] for name in ("set", "first", "second")}
    return told | {"rows": rows, "warnings": warnings}


def _row(kind: str, pairs: dict[str, dict], several: list[Answers]) -> dict | None:
    """Return the counts of one or several observers, their share and its intervals."""
    sides = {name: {p[side]: side for side in SIDES} for name, p in pairs.items()}
    points: dict[str, list[float]] = {}
    for answers in several:
        for name in filter(answers.__contains__, pairs):
            won = answers[name] == sides[name][_FORMER[kind]]
            points.setdefault(name, []).append(0.5 if answers[name] == "none" else float(won))
    if not points:
        return None
    given = [point for found in points.values() for point in found]
    means = {name: sum(found) / len(found) for name, found in points.items()}
    by_photo: dict[str, list[float]] = {}
    for name, mean in means.items():
        by_photo.setdefault(pairs[name]["photo"], []).append(mean)
    repeated, total = len(given) > len(by_photo) > 1, sum(means.values())
    return {
        "pairs": len(means), "former": given.count(1.0), "latter": given.count(0.0),
        "neither": given.count(0.5), "share": total / len(means),
        "exact": exact_interval(total, len(means)),
        "photos": photo_interval(list(by_photo.values())) if repeated else None,
    }  # fmt: skip


def exact_interval(won: float, count: int) -> list[float]:
    """Return Clopper and Pearson's 95 % interval of a share, [low, high], of ``won`` in ``count``.

    A broken number is widened to the whole ones around it. Points between 0 and 1 scatter less
    than wins and losses of the same mean do, so the interval is on the safe side.
    """
    low, high = math.floor(won + 1e-9), math.ceil(won - 1e-9)
    ends = [binomtest(k, count).proportion_ci(_LEVEL, method="exact") for k in (low, high)]
    return [float(ends[0].low), float(ends[1].high)]


def photo_interval(points: list[list[float]], *, seed: int = 0) -> list[float]:
    """Return the 95 % interval of the mean point, [low, high], of photos drawn with replacement.

    ``points`` has a list for every photo. Percentiles of 2000 draws; where all points are equal
    it has no width, and the exact one says more.
    """
    sums = np.array([(sum(found), len(found)) for found in points])
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_DRAWS, len(sums)))
    total = sums[drawn].sum(1)
    tail = 50 * (1 - _LEVEL)
    return np.percentile(total[:, 0] / total[:, 1], [tail, 100 - tail]).tolist()


def score_table(key: dict, report: dict) -> Table:
    """Return the table of a report."""
    kinds = {"pair": f"{key['first']} over {key['second']}", "catch": "catch: moving"}
    columns = ("", "observer", "pairs", "chosen", "none", "share", "by pairs", "by photos")
    rows = [
        (
            kinds[row["kind"]], row["observer"], row["pairs"], row["former"], row["neither"],
            row["share"], _shown(row["exact"]), _shown(row["photos"]),
        )
        for row in report["rows"]
    ]  # fmt: skip
    note = (
        "Chosen and none (cannot tell, counts half): answers; of all observers, those to a "
        "pair are averaged. 95 % intervals: exact over pairs, bootstrap over photos."
    )
    return table("Which one moves as it would in the wind?", columns, rows, note=note)


def _shown(interval: list[float] | None) -> str | None:
    return None if interval is None else f"{interval[0]:.2f}–{interval[1]:.2f}"
