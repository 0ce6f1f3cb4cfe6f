"""The browser's physics equals Python's on the same course of events."""

import json
import shutil
import subprocess

import pytest
import torch
from conftest import MODULE

from gidlite.dynamics.modal import ModalSystem
from gidlite.motion.spectral import pack_complex

NODE = shutil.which("node") or shutil.which("nodejs")
DT, WIND, STEPS = 0.045, 1.5, 20

SCRIPT = """
import { ModalSystem, ModeField, halfToFloat } from "./explorer.mjs";
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0));
const system = new ModalSystem(given.hertz, given.damping);
const course = [];
const note = () => course.push([[...system.q], [...system.rate], system.energy(),
                                system.at(given.shape)]);
const noise = given.noise.values();
const normal = () => noise.next().value;
system.drag(given.shape, 12, -5, given.radius);
note();
system.drag(given.line, 3, 1);
note();
system.drag(given.still, 3, 1);
note();
system.drag(given.shape, 4, 2.5);
note();
system.impulse(given.shape, -30, 10);
for (let i = 0; i < given.steps; i++) { system.step(given.dt); note(); }
system.pull(given.shape, 8, 3);
for (let i = 0; i < given.steps; i++) { system.step(given.dt, given.wind, normal); note(); }
const field = new ModeField(given.modes, 5, [4, 6], 6, 4);
system.attract([field], 2.25, 4.5, 70, 1.5, Math.max(...field.mobility(system.omega)));
for (let i = 0; i < given.steps; i++) { system.step(given.dt); note(); }
system.settle();
note();
const settled = system.unrest();
console.log(JSON.stringify({ course, settled, halves: given.halves.map(halfToFloat) }));
"""


@pytest.fixture
def system(generator) -> ModalSystem:
    modes = torch.randn(5, 4, 4, 6, generator=generator).half().double()
    modes = torch.complex(modes[:, :2], modes[:, 2:])  # exact as half floats
    modes[:, :, 0, 0] = 0
    modes[:, 1, 1, 1] = -0.5 * modes[:, 0, 1, 1]
    return ModalSystem(modes, frequencies_hz=torch.arange(5) * 0.7, damping=0.06)


def course_in_python(system: ModalSystem, radius: float, noise: torch.Tensor) -> list:
    course = []

    def note() -> None:
        parts = (system.modal_coords.clone(), system.modal_velocity.clone())
        flat = [torch.view_as_real(part).flatten().tolist() for part in parts]
        course.append([*flat, system.energy(), system.displacement_at(3, 2).tolist()])

    system.drag(x=3, y=2, dx=12, dy=-5, limit=radius * system.reach())
    note()
    for x, y, dx, dy in ((1, 1, 3, 1), (0, 0, 3, 1), (3, 2, 4, 2.5)):
        system.drag(x=x, y=y, dx=dx, dy=dy)
        note()
    system.release()
    system.impulse(x=3, y=2, vx=-30, vy=10)
    for _ in range(STEPS):
        system.step(DT)
        note()
    system.pull(x=3, y=2, ax=8, ay=3)
    feed = iter(noise)
    original, torch.randn = torch.randn, lambda *_, **__: next(feed)
    try:
        for _ in range(STEPS):
            system.step(DT, wind=WIND)
            note()
    finally:
        torch.randn = original
    system.attract(x=2.25, y=4.5, strength=70, radius=1.5)
    for _ in range(STEPS):
        system.step(DT)
        note()
    system.step(1e4)
    note()
    return course


def half_bits(values: torch.Tensor) -> list:
    return (values.half().view(torch.int16).int() & 0xFFFF).flatten().tolist()


@pytest.mark.skipif(
    NODE is None, reason="no Node.js on this machine: physics of the page not compared"
)
def test_javascript_equals_python(system, generator, tmp_path):
    shutil.copy(MODULE, tmp_path / "explorer.mjs")
    (tmp_path / "run.mjs").write_text(SCRIPT)
    noise = torch.randn(STEPS, 4, 2, 2, generator=generator, dtype=torch.float64)
    halves = torch.tensor([0.0, 1.0, -2.5, 6e-8, 1e-5, -60000.0, 0.333]).half()

    def shape(x: int, y: int) -> list:
        return torch.view_as_real(system.mode_at(x, y)).flatten().tolist()

    given = {
        "hertz": [0.7 * k for k in range(5)], "damping": 0.06, "shape": shape(3, 2),
        "line": shape(1, 1), "still": shape(0, 0), "radius": 1.7, "dt": DT, "wind": WIND,
        # The browser draws both numbers of the real part, then both of the imaginary part.
        "steps": STEPS, "noise": noise.transpose(-1, -2).flatten().tolist(),
        "halves": half_bits(halves),
        "modes": half_bits(pack_complex(system.spectral).movedim(1, -1)),
    }  # fmt: skip
    answer = subprocess.run(
        [NODE, "run.mjs"], cwd=tmp_path, input=json.dumps(given), text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    torch.testing.assert_close(torch.tensor(result["halves"]), halves.float(), rtol=0, atol=0)
    expected = course_in_python(system, 1.7, noise)
    assert len(result["course"]) == len(expected)
    assert result["settled"] == 0
    for step, (browser, python) in enumerate(zip(result["course"], expected, strict=True)):
        for name, one, two in zip(("q", "rate", "energy", "at"), browser, python, strict=True):
            torch.testing.assert_close(
                torch.tensor(one, dtype=torch.float64), torch.tensor(two, dtype=torch.float64),
                rtol=1e-6, atol=1e-5, msg=lambda text, at=(step, name): f"{at}: {text}",
            )  # fmt: skip


GRIP = """
import { ModalSystem, gripOf } from "./explorer.mjs";
const system = new ModalSystem([1.5, 1.5, 0], 0.05);
const [own, rim] = [3.0, 0.9]; // how far each body moves at the pixel; elsewhere one of them only
const here = Float64Array.of(own, 0.2, 0.1, own, 0, rim, -rim, 0, 9, 9, 9, 9);
const alone = (k) => here.map((value, i) => (i >> 2 === k ? value : 0));
const grip = gripOf(here, system.omega);
const at = (q) => [here, alone(0), alone(1).map((value) => value * own / rim)]
  .map((shape) => system.at(shape, q));
console.log(JSON.stringify([at(system.leastNorm(here, 30, -8, Infinity, grip)),
                            at(system.leastNorm(here, 30, -8)), [...grip]]));
"""


@pytest.mark.skipif(NODE is None, reason="no Node.js on this machine: the grip is not tested")
def test_a_hand_on_a_soft_rim_moves_the_neighbour_by_less_than_a_tenth(tmp_path):
    shutil.copy(MODULE, tmp_path / "explorer.mjs")
    (tmp_path / "run.mjs").write_text(GRIP)
    run = [NODE, "run.mjs"]
    answer = subprocess.run(
        run, cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True
    )
    held, even, grip = (torch.tensor(part) for part in json.loads(answer.stdout))
    target = torch.tensor([30.0, -8.0])
    torch.testing.assert_close(held[0], target)  # at the pointer, however it is held
    torch.testing.assert_close(even[0], target)
    assert (held[1] - target).norm() < 0.1 * target.norm(), "the body follows as a whole"
    assert held[2].norm() < 0.1 * target.norm() < 0.25 * target.norm() < even[2].norm()
    assert grip[0] == 1 and grip[1] < 0.1 and grip[2] == 0


BRUSH = """
import { Gain, ModalSystem, ModeField } from "./explorer.mjs";
const gain = new Gain(256, 160);
const right = (_, i) => ((i >> 2) % 32 < 12 ? 0 : 0x3c00); // 1 px from column 12 on
const halves = Uint16Array.from({ length: 4 * 20 * 32 }, right);
const field = new ModeField(halves, 1, [20, 32], 256, 160, gain);
const seen = () => [0, 8, 12, 16, 20, 24, 32].map((away) => field.shape(100, 80 + away)[0]);
const push = () => {
  const system = new ModalSystem([1], 0.05);
  system.attract([field], 100, 80, 50, 10, 1);
  return Math.hypot(...system.force);
};
field.seen = new Float32Array(20 * 32).fill(1);
const results = [seen(), [push(), field.farthest(Float64Array.of(1, 0))]];
gain.brush([60, 80], [140, 80], 20, () => 0);
const first = gain.values;
gain.brush([60, 80], [140, 80], 20, () => 0);
results.push(seen(), [push(), gain.values.every((value, i) => value === first[i])]);
gain.brush([60, 80], [140, 80], 20, null);
results.push([gain.free]);
gain.brush([0, 0], [256, 160], 1e4, () => 0);
results.push([push(), field.farthest(Float64Array.of(1, 0))]);
gain.clear();
for (const time of [1, 2]) gain.brush([60, 80], [140, 80], 20, () => 3);
results.push(seen());
gain.brush([0, 150], [256, 150], 5, () => 0);
results.push([gain.at(100, 80), gain.at(100, 150), gain.at(100, 120)]);
gain.brush([0, 80], [256, 80], 1e4, null);
results.push([gain.free]);
console.log(JSON.stringify(results));
"""


@pytest.mark.skipif(NODE is None, reason="no Node.js on this machine: the brush is not tested")
def test_a_brush_holds_softly_however_often_and_what_it_gave_is_freed(tmp_path):
    shutil.copy(MODULE, tmp_path / "explorer.mjs")
    (tmp_path / "run.mjs").write_text(BRUSH)
    answer = subprocess.run(
        [NODE, "run.mjs"], cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True
    )
    free, (pull, far), held, (less, again), (freed,), nothing, *raised = json.loads(answer.stdout)
    assert free == pytest.approx([1] * 7) and far == pytest.approx(2**0.5)
    # Smoothstep from half the radius, 10 px, to the radius; the grid has a point every 2 px.
    steps = [share * share * (3 - 2 * share) for share in (0, 0, 0.2, 0.6, 1, 1, 1)]
    assert held == pytest.approx(steps, abs=0.02)
    assert again is True and freed is True
    assert 0 < less < 0.3 * pull and nothing == [0, 0]
    assert raised[0] == pytest.approx([3 - 2 * step for step in steps], abs=0.04)
    assert raised[1] == pytest.approx([3, 0, 1], abs=0.01), "one brush leaves the other's alone"
    assert raised[2] == [True]
