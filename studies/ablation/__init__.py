"""The ablation table: rows that differ in one thing, trained alike and measured alike.

``rows`` reads what each row is and how large a preset trains it, ``scenes`` makes the examples
that all rows share, ``training`` trains what is not there yet, ``stand_ins`` are what a user might
take instead, ``measure`` samples, renders and scores, ``table`` puts it beside the published one.

Source: Li et al. 2024, section 6 (ablations).
"""

from __future__ import annotations

from studies.ablation.measure import MeasureSettings, measure_rows
from studies.ablation.rows import PRESETS, Preset, Row, read_rows
from studies.ablation.scenes import StoredScenes, store_scenes
from studies.ablation.table import markdown_table, rich_table
from studies.ablation.training import pack_models, train_rows
