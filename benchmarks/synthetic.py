"""Synthetic scenes per second: photo and K = 16 volume at 256×160, by batch size and device."""

import time

import torch
from rich.console import Console
from rich.table import Table

from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces

SECONDS = 6.0


def rate(pieces: Pieces, *, batch: int, grid_stride: int) -> float:
    """Return scenes per second, after one batch to warm up."""
    cuda = pieces.device.type == "cuda"
    generator = torch.Generator(pieces.device).manual_seed(0)
    done, started = -batch, time.perf_counter()
    while done <= 0 or time.perf_counter() - started < SECONDS:
        scenes = make_scenes(batch, pieces, grid_stride=grid_stride, generator=generator)
        scenes.spectral(16)
        if cuda:
            torch.cuda.synchronize()
        done += batch
        if done == 0:
            started = time.perf_counter()
    return done / (time.perf_counter() - started)


def main() -> None:
    """Print a row per device, batch size and label grid."""
    pieces = Pieces.painted(generator=torch.Generator().manual_seed(1))
    table = Table("device", "scenes at once", "label grid", "scenes per second")
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    for device in devices:
        for batch in (1, 8) if device == "cpu" else (8, 64):
            for stride in (1, 2):
                value = rate(pieces.to(device), batch=batch, grid_stride=stride)
                grid = f"{256 // stride}x{160 // stride}"
                table.add_row(device, str(batch), grid, f"{value:.1f}")
    console = Console()
    console.print(table)
    console.print(f"{torch.get_num_threads()} threads on the CPU; target 8 per second at 256x160")


if __name__ == "__main__":
    main()
