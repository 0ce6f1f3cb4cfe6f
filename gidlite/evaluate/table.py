"""A report as tables for a terminal of ordinary width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from gidlite.evaluate.scores import MotionReport
    from gidlite.evaluate.video import VideoReport

__all__ = ["report_tables", "video_tables"]

_TABLES = {
    "Where: AUC of the prior and of four baselines (chance 0.5); shares of pixels": {
        "prior": "where_auc",
        "features": "where_auc_features",
        "colour": "where_auc_colour",
        "satur.": "where_auc_saturation",
        "centre": "where_auc_centre",
        "moving": "moving_fraction",
        "reliable": "reliable_fraction",
    },
    "How much: amplitude over observed, static over moving; which frequencies: distance in dB": {
        "amount": "amplitude_ratio",
        "static": "static_to_moving",
        "(real)": "static_to_moving_observed",
        "spectrum": "spectral_distance_db",
        "its shape": "spectral_shape_distance_db",
        "s/sample": "seconds_per_sample",
    },
    "Coherence: correlation length over observed, agreement of bins; diversity of seeds": {
        "length": "correlation_length_ratio",
        "axes": "bin_agreement",
        "(real)": "bin_agreement_observed",
        "phases": "phase_agreement",
        "(real) ": "phase_agreement_observed",
        "seeds": "diversity",
        "repeats": "same_seed_identical",
    },
}


def report_tables(report: MotionReport) -> list[Table]:
    """Return tables with a row per case and the medians last; undefined scores are "-"."""
    from rich.table import Table

    rows = [case.to_json() for case in report.cases] + [{"name": "median", **report.median()}]
    tables = []
    for title, columns in _TABLES.items():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for heading in columns:
            table.add_column(heading, justify="right")
        for row in rows:
            style = "bold" if row is rows[-1] else None
            table.add_row(row["name"], *(_cell(row[key]) for key in columns.values()), style=style)
        tables.append(table)
    return tables


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.2f}"


_METRIC_TITLES = {
    "fid": "FID", "kid": "KID", "fvd": "FVD", "fvd32": "FVD_32", "dtfvd": "DT-FVD",
    "dtfvd32": "DT-FVD_32",
}  # fmt: skip


def video_tables(report: VideoReport) -> list[Table]:
    """Return a table of distances and, if there are curves, one with a column per window."""
    from rich.table import Table

    title = f"{report.fake_videos} videos against {report.real_videos} real ones"
    caption = "* fewer samples than features: biased upwards; compare equal numbers only"
    few = any(distance.few_samples for distance in report.distances)
    distances = Table(
        title=title, title_justify="left", box=None, pad_edge=False,
        caption=caption if few else None, caption_justify="left",
    )  # fmt: skip
    distances.add_column("")
    for heading in ("distance", "95 %", "real n", "n"):
        distances.add_column(heading, justify="right")
    distances.add_column("features")
    for row in report.distances:
        spread = "-" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
        if row.deviation is not None:
            spread = f"± {row.deviation:.4f}"
        star = "*" if row.few_samples else ""
        distances.add_row(
            _METRIC_TITLES[row.metric], f"{row.value:.4g}{star}", spread, str(row.real_samples),
            str(row.fake_samples), row.network,
        )  # fmt: skip
    return [distances, *(_curve_table(curve) for curve in report.curves)]


def _curve_table(curve: Any) -> Table:
    from rich.table import Table

    title = f"{_METRIC_TITLES[curve.metric]} in windows of {curve.window} frames, by first frame"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for start in curve.starts:
        table.add_column(str(start), justify="right")
    table.add_row(*(f"{value:.4g}" for value in curve.values))
    return table
