"""The table beside the published one, and whether rows come in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from studies.ablation.rows import Row

if TYPE_CHECKING:
    from rich.table import Table

_VIDEO = {"fid": "FID", "kid": "KID", "fvd": "FVD", "fvd32": "FVD_32"}
_MOTION = {"auc": "AUC", "spectrum": "spectrum", "axes": "axes", "phase": "phase"}
CAPTION = (
    "Lower is better but for AUC. Brackets: 95 % bootstrap intervals over photos; [–]: too few "
    "photos, the distance may be their bias alone. AUC: where it moves; spectrum: distance "
    "of the shapes of power spectra in dB, over the bins the row has; axes, phase: how far the "
    "agreement of neighbouring bins is from the observed. Paper: FVD and DT-FVD of Li et al. 2024, "
    "on their data; compare signs of differences, not numbers. Its full model renders with a "
    "network: other renderers are compared with ours of that kind."
)


def ordering(published: dict[str, float], full: dict[str, float], difference: dict | None) -> str:
    """Return whether a row is worse or better than "full" here as it is in the paper.

    Args:
        published: Of the row; empty if the paper has none.
        full: Published, of "full".
        difference: FVD minus that of the row it is compared with, as "value", "low" and "high".

    Returns:
        "holds" or "reversed" if the interval excludes 0, otherwise "undecided" with the sign.
    """
    if difference is None or not published or not full:
        return "-"
    same = (published["fvd"] > full["fvd"]) == (difference["value"] > 0)
    if difference["low"] <= 0 <= difference["high"]:
        return "undecided, same" if same else "undecided, other"
    return "holds" if same else "reversed"


def _cells(
    rows: Sequence[Row], found: dict[str, Any], *, intervals: bool
) -> tuple[list[str], list[list[str]]]:
    full = next((row.published for row in rows if row.name == "full"), {})
    metrics = next(iter(found.values()))["video"].keys()
    video = {key: title for key, title in _VIDEO.items() if key in metrics}
    headings = [
        "", *video.values(), *_MOTION.values(), "FVD - full", "paper FVD", "DT-FVD", "ordering"
    ]  # fmt: skip
    lines = []
    for row in (row for row in rows if row.name in found):
        one = found[row.name]
        difference = one.get("fvd_difference")
        lines.append(
            [
                row.title,
                *(
                    format_number(one["video"][key], 3 if key == "kid" else 1, intervals)
                    for key in video
                ),
                *(format_number(one["motion"][key], 2, intervals) for key in _MOTION),
                _against(difference),
                *(_plain(row.published.get(key)) for key in ("fvd", "dtfvd")),
                ordering(row.published, full, difference),
            ]
        )
    return headings, lines


def format_number(
    entry: dict | None, digits: int, interval: bool = True, *, sign: bool = False
) -> str:
    """Return a value with its interval; a dash for what is not known."""
    if entry is None or entry["value"] is None:
        return "-"
    text = f"{entry['value']:{'+' if sign else ''}.{digits}f}"
    if entry["low"] is None or not interval:
        return text
    # Both ends lie below the value where it is mostly the bias of few samples.
    if not entry["low"] <= entry["value"] <= entry["high"]:
        return f"{text} [–]"
    return f"{text} [{entry['low']:.{digits}f}, {entry['high']:.{digits}f}]"


def _against(difference: dict | None) -> str:
    text = format_number(difference, 1, sign=True)
    other = (difference or {}).get("against", "full")
    return text if other == "full" else f"{text} to {other}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def markdown_table(rows: Sequence[Row], table: dict[str, Any]) -> str:
    """Return one table per set of photos, as Markdown.

    Args:
        rows: All of them; those that were not measured are left out.
        table: From ``measure_rows``.
    """
    parts = []
    for name, one in table["sets"].items():
        headings, lines = _cells(rows, one["rows"], intervals=True)
        rule = ["---", *["---:"] * (len(headings) - 1)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))
        parts.append(
            f"**{name}**, n = {one['photos']} photos, {_frames(table)} frames each\n\n{text}"
        )
    missing = [f"{name}: {reason}" for name, reason in table["left_out"].items()]
    notes = [CAPTION, _training(table)]
    notes += ["Left out: " + "; ".join(missing) + "."] if missing else []
    notes = [note for note in notes if note]
    return "\n\n".join([*parts, *notes]) + "\n"


def _training(table: dict[str, Any]) -> str:
    """Return on what, and for how long, the rows were trained."""
    found = [about["trained"] for about in table["rows"].values() if "trained" in about]
    if not found:
        return ""
    seconds = [sum(one["seconds"].values()) for one in found]
    steps = " + ".join(str(count) for count in found[0]["steps"].values())
    devices = ", ".join(sorted({one["device"] for one in found}))
    return (
        f"Trained on {devices}: {steps} steps of {', '.join(found[0]['steps'])}, "
        f"{min(seconds):.0f} to {max(seconds):.0f} s a row. "
        f"Predictions: {table['settings']['samples']} per photo, seed {table['settings']['seed']}, "
        f"{table['settings']['steps']} steps; videos rendered by {table['settings']['renderer']} "
        "where a row does not say."
    )


def rich_table(rows: Sequence[Row], table: dict[str, Any]) -> list[Table]:
    """Return the same tables for a terminal; intervals of the difference alone."""
    from rich.table import Table

    tables = []
    for name, one in table["sets"].items():
        headings, lines = _cells(rows, one["rows"], intervals=False)
        title = f"{name}, n = {one['photos']} photos, {_frames(table)} frames each"
        # Two, because one does not fit a terminal: the scores, and the order of the rows.
        parts = (title, slice(1, -4)), ("Against full", slice(-4, None))
        for head, columns in parts:
            shown = Table(title=head, title_justify="left", box=None, pad_edge=False)
            shown.add_column("", no_wrap=True)
            for heading in headings[columns]:
                shown.add_column(heading, justify="right", no_wrap=True)
            names = [
                row.title if head == title else row.name for row in rows if row.name in one["rows"]
            ]
            for name_of_row, line in zip(names, lines, strict=True):
                shown.add_row(name_of_row, *(cell.replace("[", "\\[") for cell in line[columns]))
            tables.append(shown)
    tables[-1].caption = CAPTION
    return tables


def _frames(table: dict[str, Any]) -> int:
    return table["settings"]["frames"]
