"""The settings of a training run: read from TOML, and wrong ones named."""

import json
from dataclasses import asdict, replace

import pytest

from course_lib.architecture import TransformerConfig
from course_lib.architecture.attention import RopeScaling
from course_lib.pretraining import PretrainingConfig
from course_lib.pretraining.config import read_run, transformer_config

TOML = """
[model]
vocab_size = 512
d_model = 64
n_layers = 2
n_heads = 4
d_ff = 256
context_length = 128
feed_forward = "relu2"

[training]
n_steps = 100
batch_size = 16
clip = 2          # a whole number is as good as one with a point
dtype = "bfloat16"

[data]
train = "shards/train"
validation = "/elsewhere/validation"

[checkpoints]
folder = "run"
"""


def test_a_run_is_read_from_toml(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(TOML)
    run = read_run(file)
    assert run.model == TransformerConfig(
        vocab_size=512, d_model=64, n_layers=2, n_heads=4, d_ff=256, context_length=128, feed_forward="relu2"
    )
    assert run.training == PretrainingConfig(n_steps=100, batch_size=16, clip=2, dtype="bfloat16")
    assert (run.train, run.folder) == (tmp_path / "shards" / "train", tmp_path / "run")  # from where the file lies
    assert str(run.validation) == "/elsewhere/validation"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("clip = 2", "clips = 2", "clips"),
        ("n_steps = 100", "", "n_steps"),
        ("n_steps = 100", 'n_steps = "100"', "n_steps must be int, not '100'"),
        ("n_steps = 100", "n_steps = true", "n_steps must be int, not True"),
        ("batch_size = 16", "batch_size = 0", "batch_size must be positive"),
        ("batch_size = 16", "batch_size = 16\nwarmup = 101", "warmup"),
        ("batch_size = 16", "batch_size = 16\naccumulation = 3", "3 equal micro-batches"),
        ("clip = 2", "clip = nan", "clip must be positive and finite, not nan"),
        ("clip = 2", "learning_rate = inf", "learning_rate must be positive and finite"),
        ("clip = 2", "seed = -1", "seed must be at least 0 and finite, not -1"),
        ('dtype = "bfloat16"', 'dtype = "float16"', "float16"),
        ("d_ff = 256", "", "d_ff"),
        ("d_ff = 256", 'd_ff = "wide"', "d_ff must be int"),
        ("[checkpoints]", "[checkpoint]", "checkpoint"),
        ('folder = "run"', 'directory = "run"', "directory"),
        ('train = "shards/train"', "", "train"),
        ("[data]", "[data", "run.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    file = tmp_path / "run.toml"
    file.write_text(TOML.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        read_run(file)
    assert str(file) in str(caught.value)


def test_a_models_config_survives_json():
    config = TransformerConfig(vocab_size=50, d_model=24, n_layers=3, n_heads=6, d_ff=40, context_length=16)
    for one in (config, replace(config, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))):
        assert transformer_config(json.loads(json.dumps(asdict(one)))) == one
