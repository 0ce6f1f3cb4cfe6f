"""Networks from folders: complete, or not at all."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["load_part"]


def load_part(kind: type[torch.nn.Module], folder: str | Path) -> torch.nn.Module:
    """Return a network with all its weights from a folder, in single precision.

    Raises:
        OSError: If the folder cannot be read.
        ValueError: If weights are missing; they would otherwise be random.
    """
    part, info = kind.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True,
        output_loading_info=True,
    )  # fmt: skip
    if missing := info["missing_keys"]:
        raise ValueError(f"{folder} lacks {len(missing)} weights, such as {min(missing)}")
    return part
