"""Splatting: ours, its PyTorch reference and two other PyTorch routes, side by side in one run.

All move the same features with the same smooth motion and metric, and give gradients of all three.
The two other routes weigh with exp(Z − global maximum): less work, and wrong where Z varies widely.
The number is the fastest of interleaved rounds, as other work on the machine only ever adds; where
it keeps all cores busy, threads wait for each other: compare with OMP_NUM_THREADS=1.
On a GPU (`--device cuda`) "ours" is the Triton kernels, with copies of the bytes that must move.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.rows import Row
from gidlite.render import splat_fast as compiled
from gidlite.render.splat import ReferencePlan, splat

SIZES = ((256, 160, 3), (256, 160, 64), (1280, 720, 3))
GPU_SIZES = ((256, 160, 64), (1280, 720, 64))
ROUNDS = 9
PLAN_BYTES = 24  # per pixel, read or written beside the features: motion, factor, scale
PLANNING_BYTES = 52  # per pixel, read or written to make a plan: motion, metric, factor
WHAT = "", ", gradients"
# Width, height, channels; the least ratio to the fastest PyTorch route, forward and with gradients.
TARGETS = {(256, 160, 3): (1.3, 1.3), (1280, 720, 3): (2.5, 2.2)}


def landing(motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return where every pixel lands, column and row."""
    height, width = motion.shape[-2:]
    columns = torch.arange(width, device=motion.device)
    rows = torch.arange(height, device=motion.device)[:, None]
    return motion[:, 0] + columns, motion[:, 1] + rows


def scatter_in_place(features: Tensor, motion: Tensor, metric: Tensor) -> Tensor:
    """Splat weighted features and their weights as one tensor, one scatter_add_ per corner."""
    height, width = motion.shape[-2:]
    weights = (metric - metric.amax().detach()).exp()
    moved = torch.cat([features * weights, weights], 1).flatten(2)
    x, y = landing(motion)
    left, top = x.detach().floor(), y.detach().floor()
    out = torch.zeros_like(moved)
    for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = torch.where(inside, share_x * share_y, 0).flatten(1)
            target = torch.where(inside, row * width + column, 0).long().flatten(1)
            out.scatter_add_(2, target[:, None].expand_as(moved), moved * share[:, None])
    total = out[:, -1:]
    return (out[:, :-1] / torch.where(total == 0, 1, total)).view_as(features)


class GridAdjoint(torch.autograd.Function):
    """The gradient that grid_sample gives to its input is a sum splat of the gradient it gets."""

    @staticmethod
    def forward(ctx, moved: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(moved, grid)
        out, _ = torch.ops.aten.grid_sampler_2d_backward(
            moved, torch.empty_like(moved), grid, 0, 0, True, [True, False]
        )
        return out

    @staticmethod
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor, Tensor]:
        moved, grid = ctx.saved_tensors
        grad_moved = functional.grid_sample(grad_out, grid, align_corners=True)
        _, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            moved, grad_out, grid, 0, 0, True, [False, True]
        )
        return grad_moved, grad_grid


def grid_adjoint(features: Tensor, motion: Tensor, metric: Tensor) -> Tensor:
    """Splat weighted features and weights; channels in as many groups as there are threads."""
    height, width = motion.shape[-2:]
    weights = (metric - metric.amax().detach()).exp()
    moved = torch.cat([features * weights, weights], 1)
    channels, groups = moved.shape[1], torch.get_num_threads()
    moved = functional.pad(moved, (0, 0, 0, 0, 0, -channels % groups))
    x, y = landing(motion)
    grid = torch.stack([x * 2 / (width - 1) - 1, y * 2 / (height - 1) - 1], -1).expand(
        groups, -1, -1, -1
    )
    out = GridAdjoint.apply(moved.reshape(groups, -1, height, width), grid)
    out = out.reshape(1, -1, height, width)[:, :channels]
    total = out[:, -1:]
    return out[:, :-1] / torch.where(total == 0, 1, total)


def reference(features: Tensor, motion: Tensor, metric: Tensor) -> Tensor:
    """Splat with the package's PyTorch version."""
    return ReferencePlan(motion, metric, "softmax").splat(features)


def ours(features: Tensor, motion: Tensor, metric: Tensor) -> Tensor:
    """Splat with the package."""
    return splat(features, motion, metric=metric)


ROUTES = {
    "in-place scatter_add_": scatter_in_place,
    "adjoint of grid_sample": grid_adjoint,
    "reference (PyTorch)": reference,
    "ours": ours,
}


def scene(width: int, height: int, channels: int, device: str = "cpu") -> tuple[Tensor, ...]:
    """Return features, smooth motion of a few px, and a metric of 0 to 20."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, height // 16, width // 16, generator=generator)
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic")
    features = torch.rand(1, channels, height, width, generator=generator)
    inputs = features, 3 * smooth[:, :2].contiguous(), 20 * smooth[:, 2:].sigmoid()
    return tuple(tensor.to(device) for tensor in inputs)


def seconds(function: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fastest_ms(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the fastest time of each call in milliseconds; rounds are interleaved."""
    for call in calls.values():
        call()
        call()
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: 1000 * min(times[name] for times in rounds) for name in calls}


def forward_call(route: Callable, inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """Return the call without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return route(*inputs)

    return call


def backward_call(route: Callable, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """Return the call with the gradients of all three inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    gradient = torch.ones_like(inputs[0])
    return lambda: torch.autograd.grad(route(*leaves), leaves, gradient)


def measure(inputs: tuple[Tensor, ...]) -> list[dict[str, float]]:
    """Return the milliseconds of every route, without gradients and with them."""
    return [
        fastest_ms({name: make(route, inputs) for name, route in ROUTES.items()})
        for make in (forward_call, backward_call)
    ]


def rows() -> Iterator[Row]:
    """Yield the rows of the table of all benchmarks."""
    for size, targets in TARGETS.items():
        for what, found, target in zip(WHAT, measure(scene(*size)), targets, strict=True):
            mine = found.pop("ours")
            peer, theirs = min(found.items(), key=lambda item: item[1])
            work = f"splat {'×'.join(map(str, size))}{what}, {mine:.2f} ms"
            told = {"most": False, "peer": f"ms, {peer}", "beside": theirs}
            yield Row(work, theirs / mine, "× as fast", target, **told)


def compare(size: tuple[int, int, int], device: str) -> Table:
    """Return the table of all routes at one size (width, height, channels)."""
    table = Table(
        "route", "forward ms", "ratio", "forward + backward ms", "ratio", "largest error",
        title="×".join(map(str, size)),
    )  # fmt: skip
    inputs = scene(*size, device)
    exact = reference(*(tensor.double() for tensor in inputs))
    times = measure(inputs)
    limits = [min(found[name] for name in ROUTES if name != "ours") for found in times]
    for name, route in ROUTES.items():
        cells = []
        for found, limit in zip(times, limits, strict=True):
            cells += [f"{found[name]:.2f}", f"{limit / found[name]:.2f}"]
        error = (route(*inputs) - exact).abs().max()
        table.add_row(name, *cells, f"{error:.1e}")
    return table


def bound(size: tuple[int, int, int]) -> Table:
    """Return the bytes per second of both parts of the forward pass, and of a copy as large."""
    features, motion, metric = scene(*size)
    plan = compiled.CompiledPlan(motion, metric, "softmax")
    moved = 2 * features.numel() * 4 + motion[0, 0].numel() * PLAN_BYTES
    source = torch.rand(moved // 8)
    copy = torch.empty_like(source)
    times = fastest_ms(
        {
            "plan": lambda: compiled.CompiledPlan(motion, metric, "softmax"),
            "move features": lambda: plan.splat(features),
            "copy as much": lambda: copy.copy_(source),
        }
    )
    megabytes = {
        "plan": motion[0, 0].numel() * PLANNING_BYTES / 1e6,
        "move features": moved / 1e6,
        "copy as much": moved / 1e6,
    }
    table = Table("part", "ms", "MB at least", "GB/s")
    for name, time_ms in times.items():
        rate = megabytes[name] / time_ms
        table.add_row(name, f"{time_ms:.2f}", f"{megabytes[name]:.1f}", f"{rate:.1f}")
    return table


def beside_copies(size: tuple[int, int, int], device: str) -> Table:
    """Return our times and those of copies that move features, output and gradients but once."""
    inputs = scene(*size, device)
    table = Table("ours", "ms", "copy ms", "ratio", "copy GB/s")
    makers = {"forward": (forward_call, 2), "forward + backward": (backward_call, 5)}
    for name, (make, passes) in makers.items():
        source = torch.rand(passes * inputs[0].numel() // 2, device=device)
        copy = torch.empty_like(source)
        calls = {"ours": make(ours, inputs), "copy": partial(copy.copy_, source)}
        times = fastest_ms(calls)
        cells = times["ours"], times["copy"], times["copy"] / times["ours"]
        rate = 8 * source.numel() / times["copy"] / 1e6
        table.add_row(name, *(f"{cell:.3f}" for cell in cells), f"{rate:.0f}")
    return table


def main() -> None:
    """Print two tables for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    console = Console()
    console.print(f"{torch.get_num_threads()} threads; ratio: fastest PyTorch route / this one")
    for size in SIZES if device == "cpu" else GPU_SIZES:
        console.print(compare(size, device))
        console.print(bound(size) if device == "cpu" else beside_copies(size, device))


if __name__ == "__main__":
    main()
