"""How far three networks set faults apart from chance, and which of them does it best."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from gidlite.evaluate import FeatureMoments, frechet_distance, table
from studies.textures.films import MOTION_FAULTS, SEEN_FAULTS

DRAWS = 200
NETWORKS = {"fvd": "FVD", "pooled": "not adapted", "substitute": "substitute"}
FAULTS = (*SEEN_FAULTS, *MOTION_FAULTS)
# What is judged: (fault, truth, that wind without the fault). A control has no fault.
_MADE = (*MOTION_FAULTS, "control, rendered")
ROWS = {name: (name, "truth", "wind") for name in (*SEEN_FAULTS, "control")}
ROWS |= {name: (name, "truth, rendered", "wind, rendered") for name in _MADE}
# As FVD is used: rendered films against those of the world.
ROWS |= {f"{name} | unrendered": (name, "truth", "wind, rendered") for name in _MADE}
Sets = dict[str, Float[Tensor, "scenes features"]]


def _differences(sets: Sets, times: Float[Tensor, " scenes"]) -> list[float]:
    """Return d(truth, fault) - d(truth, no fault) of every row, scenes counted so many times."""
    drawn = times > 0
    moments = {
        name: FeatureMoments(x.shape[1]).add(x[drawn], times[drawn]) for name, x in sets.items()
    }
    far = cache(lambda one, other: frechet_distance(moments[one], moments[other]))
    return [far(truth, fault) - far(truth, none) for fault, truth, none in ROWS.values()]


def bootstrap(
    sets: Sets, *, draws: int = DRAWS, progress: Callable[[int], None] = lambda done: None
) -> Float[Tensor, "draws rows"]:
    """Return the differences of all rows, first of the scenes as they are, then of resamples.

    Scenes are drawn for all sets alike, and for every network in the same way.
    """
    count, generator = len(sets["truth"]), torch.Generator().manual_seed(0)
    found = [_differences(sets, torch.ones(count))]
    for done in range(draws):
        drawn = torch.randint(count, (count,), generator=generator)
        found.append(_differences(sets, drawn.bincount(minlength=count).float()))
        progress(done + 1)
    return torch.tensor(found, dtype=torch.float64)


def separations(found: Float[Tensor, "draws rows"]) -> Float[Tensor, "draws rows"]:
    """Return differences in units of their standard deviation over resamples."""
    return found / found[1:].std(0).clamp(min=1e-12)


def better(one: Float[Tensor, "draws rows"], other: Float[Tensor, "draws rows"]) -> dict:
    """Return where one network separates better than another; faults only, and their mean.

    Intervals are basic bootstrap ones, 95 %, of the difference between separations.
    """
    chosen = [list(ROWS).index(name) for name in FAULTS]
    gap = separations(one)[:, chosen] - separations(other)[:, chosen]
    gap = torch.cat([gap, gap.mean(1, keepdim=True)], dim=1)
    ends = 2 * gap[0] - gap[1:].quantile(torch.tensor([0.975, 0.025]).double(), dim=0)
    rows = {
        name: {"gap": gap[0, n].item(), "low": ends[0, n].item(), "high": ends[1, n].item()}
        for n, name in enumerate((*FAULTS, "mean"))
    }
    mean, faults = rows.pop("mean"), rows.values()
    return {
        "faults": len(FAULTS), "better": sum(row["gap"] > 0 for row in faults),
        "surely_better": sum(row["low"] > 0 for row in faults),
        "surely_worse": sum(row["high"] < 0 for row in faults), "mean": mean, "rows": rows,
    }  # fmt: skip


def report_on(found: dict[str, Float[Tensor, "draws rows"]], scenes: int) -> dict:
    """Return everything that was measured, by network."""
    rows = {}
    for number, name in enumerate(ROWS):
        rows[name] = {
            network: {
                "difference": values[0, number].item(),
                "separation": separations(values)[0, number].item(),
            }
            for network, values in found.items()
        }
    verdicts = {
        f"{NETWORKS[one]}, {NETWORKS[other]}": better(found[one], found[other])
        for other, one in combinations(NETWORKS, 2)
    }
    draws = len(found["fvd"]) - 1
    return {"scenes": scenes, "draws": draws, "rows": rows, "verdicts": verdicts}


def tables(report: dict) -> list[Table]:
    """Return the separations, a row for each fault, and what follows."""
    rows = [
        (name, *(row[network]["separation"] for network in NETWORKS))
        for name, row in report["rows"].items()
    ]
    title = f"Separation in standard deviations, {report['scenes']} scenes"
    note = "control: another wind, no fault; chance is about ±2"
    made = [table(title, ["", *NETWORKS.values()], rows, note=note)]
    columns = ["", "better", "95 % above 0", "below 0", "mean gap", "95 %"]
    rows = []
    for name, it in report["verdicts"].items():
        mean = it["mean"]
        spread = f"{mean['low']:.2f} to {mean['high']:.2f}"
        counts = (f"{it['better']} of {it['faults']}", it["surely_better"], it["surely_worse"])
        rows.append((name, *counts, mean["gap"], spread))
    return [*made, table("Separation of the first less that of the second", columns, rows)]
