"""What the browser computes around the graphs equals Python."""

import json
import shutil
import subprocess
from statistics import NormalDist

import pytest
import torch

import gidlite.web
from gidlite.loops import close_loop
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor
from gidlite.prior.diffusion import make_scheduler, sample, solver_steps
from gidlite.prior.modes import Modes
from gidlite.render import farthest_motion

NODE = shutil.which("node") or shutil.which("nodejs")
FOLDER = gidlite.web.FOLDER
BINS, ROWS, COLUMNS, FRAMES = 5, 24, 50, 30
WINDS = (None, 0.0, 0.02, 0.3, 0.5, 0.85, 1.0)

SOLVE = """
import { drawAmount, normalQuantile, solve } from "./sampler.mjs";
// A nonlinear network that knows the step.
const predict = async (z, step) => z.map((value, i) => Math.sin(value + i + step / 300));
const drawn = [];
for (const [order, schedule] of given.runs) {
  drawn.push([...(await solve(predict, Float32Array.from(given.start), schedule, { order }))]);
}
const amounts = given.winds.map((wind) => drawAmount(given.told, 0.7, wind));
const quantiles = given.shares.map(normalQuantile);
console.log(JSON.stringify({ drawn, amounts, quantiles }));
"""
CLOSE = """
import { anchored, closeLoop, withinReach } from "./volume.mjs";
const volume = anchored(given.drawn, given.sizes);
const tamed = given.reaches.map((most) => withinReach(volume, most));
const closed = given.loops.map((frames) => closeLoop(volume, frames));
console.log(JSON.stringify([volume, ...tamed, ...closed].map(({ parts }) => [...parts])));
"""


def in_node(script, tmp_path, **given):
    if NODE is None:
        pytest.skip("no Node.js on this machine: the page's arithmetic is not compared")
    for file in FOLDER.glob("*.js"):
        shutil.copy(file, tmp_path / f"{file.stem}.mjs")
    read = 'import { readFileSync } from "node:fs";\nconst given = JSON.parse(readFileSync(0));\n'
    (tmp_path / "run.mjs").write_text(read + script)
    answer = subprocess.run(
        [NODE, "run.mjs"], cwd=tmp_path, input=json.dumps(given), text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def close_to(found, expected, message=None):
    found = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5, msg=message)


def test_the_solver_and_the_amount(tmp_path, generator):
    start = torch.randn(40, generator=generator)
    kinds = [(solver, steps) for solver in ("ddim", "dpm") for steps in (1, 2, 12, 40)]

    def predict(z, step):
        return torch.sin(z + torch.arange(40) + step / 300)

    expected = [
        sample(predict, start, scheduler=make_scheduler(solver), num_steps=steps)
        for solver, steps in kinds
    ]
    told, shares = torch.tensor([0.4, -1.3]), [0.01, 0.2, 0.5, 0.77, 0.99]
    found = in_node(
        SOLVE, tmp_path, start=start.tolist(), told=told.tolist(), winds=WINDS, shares=shares,
        runs=[[1 + (solver == "dpm"), gidlite.web.schedule(steps)] for solver, steps in kinds],
    )  # fmt: skip
    for kind, one, other in zip(kinds, found["drawn"], expected, strict=True):
        close_to(one, other, lambda text, kind=kind: f"{kind}: {text}")
    # Of modes, only the amount matters here.
    shapes = [(1, 1, 2, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1), (1,)]
    rest = [torch.zeros(shape) for shape in shapes]
    modes = Modes(*rest[:3], told[None], *rest[3:])
    amounts = [modes.draw_amount(torch.tensor([0.7]), wind) for wind in WINDS]
    close_to(found["amounts"], torch.cat(amounts))
    exact = [NormalDist().inv_cdf(share) for share in shares]
    assert found["quantiles"] == pytest.approx(exact, abs=1e-12)


def test_a_schedule_ends_without_noise():
    schedule = gidlite.web.schedule(12)
    assert schedule["steps"] == solver_steps(12).tolist()
    assert schedule["noise"][-1] == 0 and schedule["signal"][-1] == 1
    squares = [a * a + b * b for a, b in zip(schedule["signal"], schedule["noise"], strict=True)]
    assert len(squares) == 13 and squares == pytest.approx([1] * 13)


@pytest.mark.parametrize("frames", [FRAMES, 2 * (BINS - 1)], ids=["period", "nyquist"])
def test_anchoring_closing_and_holding_back(tmp_path, generator, frames):
    drawn = torch.randn(2, BINS - 1, 2, ROWS, COLUMNS, generator=generator)
    drawn[1, -1] *= 2 * (BINS - 1) != frames  # at Nyquist there is no imaginary part
    drawn *= torch.linspace(2, 0.1, COLUMNS)
    sizes = {"bins": BINS, "rows": ROWS, "columns": COLUMNS, "numFrames": frames}
    spectral = torch.complex(*drawn)
    spectral = anchor(torch.cat([torch.zeros_like(spectral[:1]), spectral]))
    loops = [2.0, frames / 2, frames / 3 + 0.4, 0.7 * frames, 1.0 * frames, 1.3 * frames]
    far = farthest_motion(SpectralVolume(spectral))
    reaches = [0.5 * far, 1.01 * far]
    found = in_node(
        CLOSE, tmp_path, drawn=drawn.flatten().tolist(), sizes=sizes, loops=loops, reaches=reaches
    )
    closed = [close_loop(spectral, num_frames=frames, loop_frames=n) for n in loops]
    expected = [spectral, 0.5 * spectral, spectral, *closed]
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        parts = torch.cat([other.real, other.imag]).flatten()
        close_to(one, parts, lambda text, number=number: f"volume {number}: {text}")
