"""The ablation table."""

from gidlite.ablate.rows import PRESETS, Preset, Row, read_rows
from gidlite.ablate.scenes import StoredScenes, store_scenes
from gidlite.ablate.training import pack_models, train_rows
