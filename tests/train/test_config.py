"""Settings: what is refused, and how the learning rate runs."""

import json
import math

import jaxtyping
import pytest

from gidlite.errors import GidliteError
from gidlite.train import TrainConfig, learning_rate


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "ten"), ("steps", []), ("steps", -1), ("steps", 0), ("steps", 1.5),
        ("steps", True), ("steps", None), ("seed", -1), ("warmup_steps", -1),
        ("learning_rate", math.nan), ("learning_rate", math.inf), ("learning_rate", 0),
        ("learning_rate", "1e-3"), ("learning_rate", None), ("decay_minutes", 0),
        ("decay_minutes", math.nan), ("feature_dropout", 1.0), ("ema_decay", 1), ("real_share", 2),
        ("percentile", 101), ("mixed_precision", 1), ("guided", "no"), ("part", "unet"),
        ("part", []), ("normalization", None), ("autoencoder_channels", 8),
        ("autoencoder_channels", (8,)), ("renderer_channels", (8, 8, 0)),
        ("slices_per_scene", 17),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_one_sentence(key, value, tmp_path, monkeypatch):
    """Naming the key, to users, who run without the type checker of this suite."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(GidliteError, match=rf"^{key} is [^\n]*$"):
        TrainConfig(**{key: value})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value}))
    with pytest.raises(GidliteError, match=rf"^{key} is [^\n]*$"):
        TrainConfig.from_json(path)


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = TrainConfig(learning_rate=1, decay_minutes=2, autoencoder_channels=(8, 16))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_json()))
    assert TrainConfig.from_json(path) == config
    assert TrainConfig.from_json(path, part="vae").part == "vae"
    for content, problem in (
        ('{"stepz": 3}', "unknown keys stepz; valid: autoencoder_channels, .*steps"),
        ("[]", "holds no JSON object"), ("{", "not a readable JSON config"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(GidliteError, match=problem):
            TrainConfig.from_json(path)


def test_the_decay_ends_with_the_time_or_the_steps_whichever_is_first():
    config = TrainConfig(steps=100, warmup_steps=0, learning_rate=1.0, decay_minutes=2.0)
    assert learning_rate(config, 0, 0.0) == pytest.approx(1)
    assert learning_rate(config, 0, 60.0) == pytest.approx(0.51)
    assert learning_rate(config, 0, 120.0) == pytest.approx(0.02)
    assert learning_rate(config, 100, 0.0) == pytest.approx(0.02)
