"""Write docs/ablations.json and docs/ablations.md from what `gidlite ablate measure` measured.

python tools/ablation_docs.py runs/ablation --hardware "2 CPU cores, one thread"
"""

import argparse
import json
from pathlib import Path
from typing import Any

from gidlite.ablate import markdown_table, read_rows
from gidlite.ablate.table import ordering

ROOT = Path(__file__).resolve().parents[1]

# What is different here, row by row: reasons to expect another order, whatever was measured.
WHY = {
    "k4": "4 bins end at 0.6 Hz: what is lost is small beside the mean motion in 1.6 s of video.",
    "k8": "8 bins hold 88 % of the energy of real plants, 16 hold 96 %: faint in pixels.",
    "k24": "In the paper as good as 16 bins, within noise; 24 are more to learn in the same steps.",
    "unnormalized": "One scale for all bins. Milder than in the paper: the amplitude network "
    "whitens every latent per bin and per place anyway, and takes over most of what the "
    "normalization is for.",
    "independent": "Bins drawn one by one. The amplitude network already agrees on where and how "
    "much; what is left to coordinate are axes and phases, which FVD hardly sees (the columns axes "
    "and phase do). 700 steps teach attention little.",
    "volume": "All bins as channels of one latent: the same parts otherwise. Fewer, larger "
    "examples hurt little when the network is small.",
    "average": "The same motion as full, compared with the neural renderer. Only occlusions "
    "differ, and small motion has few.",
    "softmax": "The same motion as full, compared with the neural renderer, which is small here "
    "and learnt from few clips.",
}  # fmt: skip


def rounded(value: Any) -> Any:
    """Return floats with five significant digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def verdicts(rows: dict[str, dict], table: dict[str, Any]) -> str:
    """One line of Markdown per row of the paper: whether its place beside full is the same."""
    full = rows["full"]["published"]
    lines = ["| row | paper, FVD − full | " + " | ".join(table["sets"]) + " | what differs here |"]
    lines.append("|---|---:|" + "---|" * (len(table["sets"]) + 1))
    for name, why in WHY.items():
        if name not in rows:
            continue
        gap = rows[name]["published"]["fvd"] - full["fvd"]
        cells = [
            ordering(rows[name]["published"], full, part["rows"][name].get("fvd_difference"))
            for part in table["sets"].values()
        ]
        lines.append(f"| {rows[name]['title']} | {gap:+.1f} | {' | '.join(cells)} | {why} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the ablation")
    parser.add_argument("--hardware", required=True, help="what it was measured on")
    parser.add_argument("--note", default="", help="one sentence on the photos")
    arguments = parser.parse_args()
    table = rounded(json.loads((arguments.out / "table.json").read_text()))
    table["measured_on"], table["note"] = arguments.hardware, arguments.note
    text = json.dumps(table, indent=1) + "\n"
    (ROOT / "docs" / "ablations.json").write_text(text)
    rows = read_rows(ROOT / "configs" / "ablations")
    parts = [
        "# Ablations",
        "The paper's experiment at a small scale: rows that differ from *full* in one thing, with "
        "the same scenes, seeds, steps and scenes per step. Made with `gidlite ablate train "
        "--preset gpu` and `gidlite ablate measure`, written by `tools/ablation_docs.py`; "
        "notebook 09 reads the JSON beside this page.",
        markdown_table(rows, table),
        f"Measured on {arguments.hardware}. {arguments.note}".strip(),
        "## Does the paper's order hold?",
        "Whether a row is worse or better than full as it is in the paper. \"Undecided\": the "
        "interval of the difference contains 0, followed by whether its sign is the same or the "
        "other one. With so few photos only large differences can be decided.",
        verdicts(table["rows"], table),
    ]  # fmt: skip
    (ROOT / "docs" / "ablations.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
