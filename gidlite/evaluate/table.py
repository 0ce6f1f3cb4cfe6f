"""A report as tables for a terminal of ordinary width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from gidlite.evaluate.scores import MotionReport

__all__ = ["report_tables"]

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
