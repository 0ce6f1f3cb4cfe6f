"""Augmentations change photo and motion together; the dataset is a function of seed and number."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from gidlite.data import (
    Augmentation,
    Augmented,
    Example,
    MotionDataset,
    ShardSource,
    SyntheticSource,
    crop,
    flip,
    load_items,
    recolor,
    retime,
    reverse_time,
)
from gidlite.data.shards import (
    Sample,
    ShardFolder,
    alone,
    finish_folder,
    write_json,
    write_scene_shards,
    write_scene_sheet,
    write_shard,
)
from gidlite.data.splits import (
    HELD_OUT_CLIPS,
    LAST_SEED,
    MOVING_CAMERA,
    SHEETS,
    STATISTICS,
    check_seed,
    judges,
    place,
    place_of,
    scene_of,
    seeded,
)
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError
from gidlite.motion.flow import sample_at
from gidlite.motion.normalize import fit_frequency_stats
from gidlite.motion.spectral import motion_to_spectral, spectral_to_motion

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"


@pytest.fixture(scope="module")
def pieces():
    return Pieces.painted(count=17, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def filmed(pieces):
    """A scene as an example with all its frequencies, and one of its frames."""
    scenes = make_scenes(1, pieces, generator=torch.Generator().manual_seed(10))
    time = 40
    spectral = motion_to_spectral(scenes.motion()[0], num_frequencies=76)
    sure = ~scenes.occluded(time)[0] & (scenes.depth[0] > 0)
    return Example(scenes.image[0], spectral, sure), scenes.frame(time)[0], time


def gap(example: Example, frame: torch.Tensor, time: int) -> float:
    """Mean difference between the photo and the frame fetched back by the motion."""
    motion = spectral_to_motion(example.spectral, num_frames=150, times=torch.tensor([time]))
    returned = sample_at(frame[None], motion, mode="bicubic")[0]
    return (returned - example.image).abs().mean(0)[example.reliable].mean().item()


def test_photo_and_motion_stay_together(filmed):
    example, frame, time = filmed
    assert gap(example, example.image, time) > 3 * gap(example, frame, time)
    limit = 1.5 * gap(example, frame, time)
    assert gap(flip(example), frame.flip(-1), time) < limit
    # Played backwards, frame 40 comes after 110 frames.
    assert gap(reverse_time(example), frame, 150 - time) < limit
    window = {"top": 0.2, "left": 0.1, "share": 0.7}
    enlarged = crop(Example(frame, example.spectral, example.reliable), **window).image
    assert gap(crop(example, **window), enlarged, time) < limit
    gain = torch.tensor([0.9, 1.0, 0.8])
    assert gap(recolor(example, gain), frame * gain[:, None, None], time) < limit


def test_amounts(filmed):
    example, _, _ = filmed
    assert torch.equal(flip(flip(example)).spectral, example.spectral)
    assert torch.equal(flip(example).spectral[:, 0], -example.spectral[:, 0].flip(-1))
    vary = Augmentation(flip=0, smallest_crop=1, amplitude=2.0, color=0)
    larger = vary(example, torch.Generator().manual_seed(0)).spectral
    factor = larger.abs().max() / example.spectral.abs().max()
    assert 0.5 < factor < 2 and abs(factor - 1) > 0.05
    assert torch.allclose(larger, factor * example.spectral, atol=1e-5)
    whole = crop(example, top=0, left=0, share=1.0)
    assert torch.allclose(whole.spectral, example.spectral, atol=1e-5)
    uniform = Example(example.image, torch.ones_like(example.spectral), example.reliable)
    doubled = crop(uniform, top=0.3, left=0.4, share=0.5).spectral
    assert torch.allclose(doubled, 2 * torch.ones_like(doubled), atol=1e-5)
    darker = recolor(example, torch.full((3,), 0.5))
    assert torch.allclose(darker.image, example.image * 0.5, atol=1e-6)


def write_folder(folder, pieces, count=3):
    """Two shards of samples whose left half cannot be trusted; the second of them is a loop."""
    scenes = make_scenes(
        count, pieces, height=64, width=96, generator=torch.Generator().manual_seed(4)
    )
    volumes = scenes.spectral(16)
    sure = torch.ones(64, 96, dtype=torch.bool)
    sure[:, :48] = False
    volumes[..., :48] = 1e3  # garbage
    infos = [{"source": "x.mp4", "start": n / 3, "loop": n == 1} for n in range(count)]
    samples = [
        Sample((photo * 255).round().byte(), volume, sure, infos[n])
        for n, (photo, volume) in enumerate(zip(scenes.photo, volumes, strict=True))
    ]
    write_json(folder / "settings.json", {"num_frequencies": 16})
    write_shard(folder / "shards" / "a.safetensors", samples[:2])
    write_shard(folder / "shards" / "b.safetensors", samples[2:])
    shards = [
        {"file": "a.safetensors", "samples": [0, 1]}, {"file": "b.safetensors", "samples": [0]},
    ]  # fmt: skip
    finish_folder(folder, shards, report={})
    return samples


def test_shards_hold_what_was_put_in(tmp_path, pieces):
    samples = write_folder(tmp_path, pieces)
    folder = ShardFolder(tmp_path)
    assert len(folder) == 3
    for sample, expected in zip(folder, samples, strict=False):
        assert torch.equal(sample.image, expected.image) and sample.info == expected.info
        scale = expected.spectral.abs().max()
        assert (sample.spectral - expected.spectral).abs().max() < 1e-3 * scale
    # Percentiles come from histograms 3.7 % wide, of trusted pixels alone.
    exact = fit_frequency_stats([sample.spectral[..., 48:] for sample in samples], percentile=99)
    listed = json.loads((tmp_path / "statistics.json").read_text())
    assert listed["percentile_99_px"] == pytest.approx(exact.scale.tolist(), rel=0.04)
    for content in ("", "[]"):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(GidliteError, match=r"index\.json is no JSON object; give a folder"):
            ShardFolder(tmp_path)
    with pytest.raises(GidliteError, match=r"index\.json"):
        ShardFolder(tmp_path / "shards")


def test_items_depend_on_seed_and_number_alone(tmp_path, pieces):
    write_folder(tmp_path, pieces)
    shape = {"grid_stride": 2, "num_frequencies": 4}
    synthetic = SyntheticSource(pieces, height=64, width=96, block=3, **shape)
    sources = [synthetic, Augmented(ShardSource(tmp_path, **shape))]
    dataset = MotionDataset(sources, weights=[1, 3], length=200)
    fetched = {n: dataset[n] for n in (7, 3, 5)}
    again = MotionDataset(sources, weights=[1, 3], length=200)
    for number in (5, 7, 3):
        for key, value in again[number].items():
            assert torch.equal(value, fetched[number][key])
    other = MotionDataset(sources, weights=[1, 3], length=200, seed=1)
    assert not torch.equal(other[3]["image"], dataset[3]["image"])
    drawn = torch.stack([dataset[n]["source"] for n in range(200)]).float().mean()
    assert abs(drawn - 0.75) < 0.1
    loader = DataLoader(dataset, batch_size=4, num_workers=2)
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 3, 64, 96)
    assert batch["spectral"].shape == (4, 4, 2, 32, 48)
    with pytest.raises(IndexError):
        dataset[200]


def test_every_sample_comes_once_before_any_comes_again(tmp_path, pieces):
    write_folder(tmp_path, pieces)
    source = ShardSource(tmp_path)
    seen = {source.example(n, seed=0).image.sum().item() for n in range(3)}
    assert len(seen) == 3


def test_another_speed_is_another_frequency_from_the_same_photo_on():
    spectral = torch.zeros(8, 2, 3, 4, dtype=torch.complex64)
    spectral[4] = torch.randn(2, 3, 4, dtype=torch.complex64)
    example = Example(torch.rand(3, 6, 8), spectral, torch.ones(3, 4, dtype=torch.bool))
    faster = retime(example, 1.25)
    assert torch.allclose(faster.spectral[5], spectral[4], atol=1e-5)
    others = [1, 2, 3, 4, 6, 7]
    assert faster.spectral[others].abs().max() < 1e-5
    assert torch.equal(faster.image, example.image)
    for speed in (0.8, 1.0, 1.1):
        moved = retime(example, speed).spectral
        start = spectral_to_motion(moved, num_frames=150, times=torch.tensor([0]))
        assert start.abs().max() < 1e-5
    assert torch.allclose(retime(example, 1.0).spectral[1:], spectral[1:], atol=1e-5)


def test_another_speed_fills_the_gaps_of_a_loop():
    """A loop half as long as the period has nothing in odd bins; at other speeds it has."""
    torch.manual_seed(0)
    spectral = torch.randn(16, 2, 30, 30, dtype=torch.complex64)
    spectral[1::2] = 0
    example = Example(torch.rand(3, 60, 60), spectral, torch.ones(30, 30, dtype=torch.bool))
    speeds = torch.linspace(0.8, 1.25, 10).tolist()
    powers = [retime(example, s).spectral.abs().square().mean((1, 2, 3)) for s in speeds]
    mean = torch.stack(powers).mean(0)
    assert mean[3:12].min() > 0.2 * mean[3:12].max()


def steps(example: Example) -> torch.Tensor:
    """RMS way of all pixels from each frame to the next, over an ordinary one."""
    way = spectral_to_motion(example.spectral, num_frames=150).diff(dim=0)
    length = way.square().sum(1).mean((1, 2)).sqrt()
    # A truncated volume of anything but a loop rings where the last frame meets the first.
    return (length / length.median())[15:-15]


def test_only_loops_are_played_at_another_speed_or_backwards(filmed):
    """Faster, what does not repeat jumps from its last frame back to its first; a loop goes on."""
    torch.manual_seed(0)
    spectral = torch.randn(16, 2, 30, 30, dtype=torch.complex64)
    spectral[1::2] = 0
    spectral /= torch.arange(1, 17)[:, None, None, None]
    reliable = torch.ones(30, 30, dtype=torch.bool)
    loop = Example(torch.rand(3, 60, 60), spectral, reliable, periodic=True)
    real = replace(filmed[0], spectral=filmed[0].spectral[:16])
    for speed in (0.8, 1.1, 1.25):
        assert steps(retime(loop, speed)).max() < 1.5
    assert steps(retime(real, 1.25)).max() > 1.5
    vary = Augmentation(flip=0, reverse=1, smallest_crop=1, amplitude=1, color=0)
    generator = torch.Generator().manual_seed(0)
    assert not real.periodic and torch.equal(vary(real, generator).spectral, real.spectral)
    assert not torch.allclose(vary(loop, generator).spectral, loop.spectral)
    still = replace(vary, speed=1.0)
    assert torch.equal(still(loop, generator).spectral, loop.spectral.conj())


def test_shards_tell_which_examples_are_loops(tmp_path, pieces):
    samples = write_folder(tmp_path, pieces)
    source = ShardSource(tmp_path, num_frequencies=4)
    found = [source.example(n, seed=0) for n in range(3)]
    assert sum(example.periodic for example in found) == 1
    loop = next(example for example in found if example.periodic)
    assert torch.equal(loop.image, samples[1].image.float() / 255)
    assert not SyntheticSource(pieces, height=64, width=96).example(0, 0).periodic


def test_every_clip_and_photo_has_a_place():
    assert place("phys_telephone_0.mp4") == place("folder/candle_glass.mp4") == "test"
    assert place("phys_telephone_1.mp4") == place("phys_yellow_tulip_3.mp4") == "test"
    assert place("syn_flag_thai.mp4") == "unused"
    assert place("wind_reeds.mp4") == place("rose_loop.mp4") == place("gd_rose.jpg") == "train"
    assert place("candle_glass_ocean.mp4") == "train" and place("curtain_001.jpg") == "show"
    assert len(set(HELD_OUT_CLIPS)) == 10
    assert STATISTICS[:3] == range(10**9, 10**9 + 3) and SHEETS[:2][1] == 2 * 10**9 + 1


def test_clips_that_judge_are_real_and_their_camera_stands_still():
    names = "apple_blossom palm_shadow_a syn_candles_red foxtail_grass maple_overhang_b".split()
    clips = [Path("clips") / f"{name}.mp4" for name in names]
    assert judges(clips) == clips[:2]
    assert len(set(MOVING_CAMERA)) == 15 == len(set(map(scene_of, MOVING_CAMERA)))


def test_a_place_has_takes_and_plants():
    assert place_of("flag_us_slowmo_a.mp4") == place_of("flag_us_slowmo_b") == "flag_us_slowmo"
    flowers = "phys_orange_rose_0", "phys_white_rose_3.mp4", "clips/phys_yellow_tulip_1.mp4"
    assert {place_of(name) for name in flowers} == {"phys_desk"}
    assert place_of("phys_alocasia_0") != place_of("phys_telephone_0")
    assert place_of("candle_glass") != place_of("candle_glass_ocean")


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_the_real_clips_are_counted_by_place():
    clips = sorted(CLIPS.glob("*.mp4"))
    still, unseen = judges(clips), [clip for clip in clips if place(clip.name) == "test"]
    assert [len(still), len({place_of(clip.name) for clip in still})] == [47, 26]
    assert [len(unseen), len({place_of(clip.name) for clip in unseen})] == [14, 8]
    with (CLIPS / "manifest.csv").open(encoding="utf-8") as file:
        listed = {row["file"]: row for row in csv.DictReader(file)}
    for clip in clips:
        row = listed[clip.name]  # "mostly", "likely" and "see notes" are no
        asked = row["static_camera"] == "yes" and row["quality"] != "SYN"
        assert (clip in still) == asked, clip.name


def test_augmentation_is_seeded_and_varied(filmed):
    example, _, _ = filmed
    vary = Augmentation()
    one, two = (vary(example, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.image, two.image) and torch.equal(one.spectral, two.spectral)
    other = vary(example, torch.Generator().manual_seed(6))
    assert not torch.equal(one.spectral, other.spectral)


def test_errors(tmp_path, pieces):
    source = SyntheticSource(pieces)
    with pytest.raises(GidliteError, match="2 weights"):
        MotionDataset([source], weights=[1, 2])
    with pytest.raises(GidliteError, match="all 0"):
        MotionDataset([source], weights=[0])
    write_folder(tmp_path, pieces)
    with pytest.raises(GidliteError, match="--num-frequencies 24"):
        ShardSource(tmp_path, num_frequencies=24)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("index.json", "[]", "is no JSON object"), ("index.json", "[" * 100_000, "no JSON object"),
        ("index.json", "{}", "is damaged"), ("index.json", '{"shards": 5}', "is damaged"),
        ("index.json", '{"shards": [{"file": 3, "samples": [0]}]}', "shards/3 cannot be read"),
        ("index.json", '{"shards": [{"file": "gone", "samples": [0]}]}', "gone cannot be read"),
        ("index.json", '{"shards": [{"file": "b.safetensors", "samples": [1]}]}', "does not hold"),
        ("index.json", '{"shards": [{"file": "b.safetensors", "samples": [-1]}]}', "does not hold"),
        ("index.json", '{"shards": [{"file": "b.safetensors", "samples": "0"}]}', "does not hold"),
        ("settings.json", "[]", "is no JSON object"), ("settings.json", "{}", "is damaged"),
        ("settings.json", '{"num_frequencies": "16"}', "is damaged"),
        ("settings.json", '{"num_frequencies": 8}', "does not hold"),
        ("shards/b.safetensors", "junk", "b.safetensors cannot be read"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_of_a_wrong_type_is_named_when_a_folder_is_opened(
    name, content, problem, tmp_path, pieces
):
    write_folder(tmp_path, pieces)
    (tmp_path / name).write_text(content)
    with pytest.raises(GidliteError, match=problem):
        ShardFolder(tmp_path)


def test_shards_without_what_they_should_hold_and_of_another_size_are_refused(tmp_path, pieces):
    write_folder(tmp_path, pieces)
    assert ShardFolder(tmp_path).sizes == {(64, 96)}
    with pytest.raises(GidliteError, match="holds samples of 96x64, 64x64 are needed"):
        ShardSource(tmp_path, size=(64, 64))
    path = tmp_path / "shards" / "b.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(GidliteError, match=r"b\.safetensors cannot be read"):
        ShardFolder(tmp_path)
    save_file({"image": torch.zeros(1, 3, 64, 96)}, path)
    with pytest.raises(GidliteError, match=r"b\.safetensors does not hold"):
        ShardFolder(tmp_path)


class Breaks(torch.utils.data.Dataset):
    """Items of which the third cannot be made, for one reason or another."""

    def __init__(self, how):
        self.how = how

    def __getitem__(self, number):
        if number == 2 and self.how == "refused":
            raise GidliteError("x.safetensors cannot be read; extract again")
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@pytest.mark.parametrize(
    ("how", "problem"),
    [("refused", "^x.safetensors cannot be read; extract again$"), ("killed", "fewer --workers$")],
)
def test_what_goes_wrong_in_another_process_is_one_sentence_too(how, problem):
    with pytest.raises(GidliteError, match=problem):
        list(load_items(Breaks(how), (range(n, n + 1) for n in range(9)), workers=1))


@pytest.mark.parametrize("seed", [0, 2**53, LAST_SEED])
def test_every_seed_in_range_can_be_used(seed):
    first, second = (torch.rand(1, generator=seeded(seed, number)) for number in (0, 3 * 10**9))
    assert first != second
    check_seed(seed)
    for wrong in (-1, LAST_SEED + 1, 2**64):
        with pytest.raises(GidliteError, match=f"^seed is {wrong}; it must lie between 0 and 92"):
            check_seed(wrong)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_of_any_new_file(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_scene_shards(tmp_path, count=1, size=(64, 96))
    finally:
        os.umask(before)
    found = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert len(found) == 4 and set(found.values()) == {mode}, found


def test_scenes_that_cannot_be_made_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("gidlite.data.shards.collect_pieces", None)
    (tmp_path / "file").write_text("kept")
    for options, problem in (
        ({"count": 0}, "count is 0"), ({"count": 10**12}, "ask for fewer with --count"),
        ({"count": 1, "seed": -1}, "seed is -1"), ({"count": 1, "seed": 2**64}, "seed is 184"),
    ):  # fmt: skip
        with pytest.raises(GidliteError, match=problem):
            write_scene_shards(tmp_path / "out", **options)
    with pytest.raises(GidliteError, match="existing file"):
        write_scene_shards(tmp_path / "file", count=1)
    for path, options, problem in (
        ("a.png", {"count": 10**12}, "count is 1000000000000; a sheet shows 1 to 2000"),
        ("a.png", {"seed": 2**64}, "seed is 184"), ("file/a.png", {}, "cannot write"),
        ("a.txt", {}, "use one of the suffixes"),
    ):  # fmt: skip
        with pytest.raises(GidliteError, match=problem):
            write_scene_sheet(tmp_path / path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_scenes_that_were_not_finished_are_made_again_and_finished_ones_kept(tmp_path):
    write_scene_shards(tmp_path, count=1, size=(64, 96))
    with pytest.raises(GidliteError, match="already holds samples"):
        write_scene_shards(tmp_path, count=1, size=(64, 96))
    whole = (tmp_path / "shards" / "scenes_00000.safetensors").read_bytes()
    (tmp_path / "index.json").unlink()
    with pytest.raises(GidliteError, match="already holds samples"):
        write_scene_shards(tmp_path, count=1, size=(64, 96), seed=1)
    write_scene_shards(tmp_path, count=1, size=(64, 96))
    assert (tmp_path / "shards" / "scenes_00000.safetensors").read_bytes() == whole


def test_a_folder_is_for_one_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gidlite.data.shards import alone\n"
        "with alone(Path(sys.argv[1])): pass"
    )

    def other():
        run = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True)
        return run.returncode, run.stderr.decode()

    with alone(tmp_path / "a"):
        status, said = other()
    assert status == 1 and "another process is writing to" in said
    assert not (tmp_path / "a").exists() and other()[0] == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()  # as a process that was killed leaves it
    assert other()[0] == 0 and (tmp_path / "a").is_dir()
