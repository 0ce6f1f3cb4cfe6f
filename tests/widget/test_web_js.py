"""What the browser computes around the graphs equals Python."""

import json
import shutil
import subprocess
from statistics import NormalDist

import pytest
import torch

import gidlite.web
from gidlite.loops import close_loop
from gidlite.media import resize
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, spectral_to_motion
from gidlite.pipeline import SIZE_MULTIPLE, WORKING_PIXELS, working_size
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
import { anchored, calming, closeLoop, overTime } from "./volume.mjs";
const volume = anchored(given.drawn, given.sizes);
const closed = given.loops.map((frames) => closeLoop(volume, frames));
const factors = given.reaches.map((most) => calming(volume, most));
const motion = [...overTime(volume, given.sizes.numFrames)];
console.log(JSON.stringify(
  { volumes: [volume, ...closed].map(({ parts }) => [...parts]), factors, motion }));
"""
COORDINATES = """
import { coordinates, overTime } from "./volume.mjs";
const drawn = coordinates(given, given.factor, given.frames);
console.log(JSON.stringify([...overTime(drawn, given.frames)]));
"""
PIXELS = """
import { planes, resize, toHalves, workingSize } from "./pixels.mjs";
const [rows, columns] = given.size;
const photo = planes({ data: given.pixels, width: columns, height: rows });
const resized = given.sizes.map(([height, width]) => [...resize(photo, height, width).values]);
const working = given.photos.map(([height, width]) => workingSize(height, width, given));
console.log(JSON.stringify({ resized, working, halves: [...toHalves(given.numbers)] }));
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
    for number, (one, other) in enumerate(zip(found["volumes"], [spectral, *closed], strict=True)):
        parts = torch.cat([other.real, other.imag]).flatten()
        close_to(one, parts, lambda text, number=number: f"volume {number}: {text}")
    assert found["factors"] == pytest.approx([0.5, 1], rel=1e-5)
    close_to(found["motion"], spectral_to_motion(spectral, num_frames=frames).flatten())


def test_coordinates_move_shapes_as_the_volume_moves(tmp_path, generator):
    shapes = torch.randn(1, 8, 2, 3, 5, generator=generator)
    level, envelope = (torch.rand(1, *size, generator=generator) for size in ((3, 5), (8, 6)))
    rest = torch.zeros(1, 2), torch.zeros(1, 1, 3, 5), torch.zeros(1, 1, 3, 5), torch.zeros(1, 1, 1)
    modes = Modes(shapes, level, envelope, *rest, torch.rand(6, generator=generator))
    coords = torch.randn(1, 6, 2, 8, generator=generator)
    volume = torch.complex(*modes.compose(coords, torch.tensor([1.7]))[0])
    volume = anchor(torch.cat([torch.zeros_like(volume[:1]), volume]))
    expected = spectral_to_motion(volume, num_frames=20)
    q = in_node(
        COORDINATES, tmp_path, coords=coords.flatten().tolist(), scale=modes.scale.tolist(),
        envelope=envelope.flatten().tolist(), factor=1.7, frames=20,
    )  # fmt: skip
    q = torch.view_as_complex(torch.tensor(q).view(20, 4, 2))
    found = torch.einsum("pchw,tp->tchw", modes.basis()[0], q).real
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_pixels_are_those_of_python(tmp_path, generator):
    size, sizes = (37, 50), [(16, 32), (37, 50), (60, 20), (90, 110)]
    pixels = torch.randint(256, (*size, 4), generator=generator, dtype=torch.uint8)
    image = pixels[..., :3].movedim(-1, 0).float() / 255
    numbers = torch.randn(400, generator=generator) * 10 ** torch.linspace(-9, 6, 400)
    photos = [(427, 640), (640, 427), (3000, 4000), (16, 9000), (500, 500)]
    found = in_node(
        PIXELS, tmp_path, pixels=pixels.flatten().tolist(), size=size, sizes=sizes, photos=photos,
        numbers=numbers.tolist(), working_pixels=WORKING_PIXELS, size_multiple=SIZE_MULTIPLE,
    )  # fmt: skip
    for (height, width), values in zip(sizes, found["resized"], strict=True):
        close_to(values, resize(image, height=height, width=width).flatten())
    assert found["working"] == [list(working_size(*photo)) for photo in photos]
    halves = numbers.clamp(-65504, 65504).half().view(torch.int16).int() & 0xFFFF
    assert found["halves"] == halves.tolist()
