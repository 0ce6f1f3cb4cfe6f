"""Motion ↔ spectral volume: one real matrix product (ours) against FFT routes, in one run."""

import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gidlite.motion.spectral import motion_to_spectral, spectral_to_motion


def median_ms(function, repeats: int = 7) -> float:
    """Return the median time of a call in milliseconds, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print the table for K = 16, T = 150, 256×160."""
    motion = torch.randn(150, 2, 160, 256, generator=torch.Generator().manual_seed(0))
    volume = motion_to_spectral(motion, num_frequencies=16)
    array, spectrum = motion.numpy(), volume.numpy()
    one = torch.tensor([7.5])

    def padded_inverse():
        full = torch.zeros(76, *volume.shape[1:], dtype=volume.dtype)
        full[:16] = volume
        return torch.fft.irfft(full, n=150, dim=0, norm="forward")

    forward = {
        "matrix product (ours)": lambda: motion_to_spectral(motion, num_frequencies=16),
        "torch rfft": lambda: torch.fft.rfft(motion, dim=0, norm="forward")[:16],
        "NumPy rfft": lambda: np.fft.rfft(array, axis=0, norm="forward")[:16],
    }
    inverse = {
        "matrix product (ours)": lambda: spectral_to_motion(volume, num_frames=150),
        "torch irfft": padded_inverse,
        "NumPy irfft": lambda: np.fft.irfft(spectrum, n=150, axis=0, norm="forward"),
        "one frame (ours)": lambda: spectral_to_motion(volume, num_frames=150, times=one),
    }
    table = Table("direction", "route", "ms", "relative to ours")
    for direction, routes in (("motion → volume", forward), ("volume → motion", inverse)):
        results = {name: median_ms(function) for name, function in routes.items()}
        ours = results["matrix product (ours)"]
        for name, value in results.items():
            table.add_row(direction, name, f"{value:.1f}", f"{value / ours:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
