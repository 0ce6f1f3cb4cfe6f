"""Shared fixtures and the one table of tolerances."""

import signal
from pathlib import Path

import pytest
import torch

# Largest acceptable absolute error by quantity; a test with a wider one says why.
TOLERANCE = {"spectral_px": 2e-5, "splat": 1e-4, "inverse": 1e-5}

torch.set_num_threads(2)

# What is started here should hear signals, also if the tests run under nohup or in the background.
for name, heard in (("SIGHUP", signal.SIG_DFL), ("SIGINT", signal.default_int_handler)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), heard)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tolerance() -> dict[str, float]:
    return TOLERANCE


@pytest.fixture
def clip() -> torch.Tensor:
    """Return a gray clip of 12 frames, 30 × 40, in which a bar swings along row 20."""
    frames = torch.full((12, 3, 30, 40), 90, dtype=torch.uint8)
    for t in range(12):
        frames[t, :, 19:22, 14 + t : 17 + t] = 250
    return frames


@pytest.fixture(scope="session")
def metric_weights() -> Path:
    """Return the folder of feature networks that lies beside a checkout, or skip loudly."""
    folder = Path(__file__).parents[2] / "shared" / "weights"
    if not folder.is_dir():
        pytest.skip("NOT CHECKED: feature networks are absent, see `gidlite weights`")
    return folder
