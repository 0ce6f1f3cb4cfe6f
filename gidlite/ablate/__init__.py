"""The ablation table: rows that differ in one thing, trained alike and measured alike.

``rows`` reads what each row is and how large a preset trains it, ``scenes`` makes the examples
that all rows share, ``training`` trains what is not there yet, ``stand_ins`` are what a user might
take instead, ``measure`` samples, renders and scores, ``table`` puts it beside the published one.

Source: Li et al. 2024, section 6 (ablations).
"""

from gidlite.ablate.measure import MeasureSettings, measure_rows
from gidlite.ablate.rows import PRESETS, Preset, Row, read_rows
from gidlite.ablate.scenes import StoredScenes, store_scenes
from gidlite.ablate.table import markdown_table, rich_table
from gidlite.ablate.training import pack_models, train_rows

__all__ = [
    "PRESETS",
    "MeasureSettings",
    "Preset",
    "Row",
    "StoredScenes",
    "markdown_table",
    "measure_rows",
    "pack_models",
    "read_rows",
    "rich_table",
    "store_scenes",
    "train_rows",
]
