"""The published shapes have the published numbers of parameters, and one of them is the model that we have."""

from dataclasses import replace

import pytest
import torch

from course_lib.architecture import TransformerLM
from course_lib.architecture.accounting import parameter_count
from course_lib.architecture.open_models import OPEN_MODELS

PUBLISHED = {  # parameters, as the model cards state them
    "GPT-2": 124e6,
    "Llama 3.1 8B": 8.03e9,
    "Mistral 7B": 7.24e9,
    "Qwen 3 8B": 8.19e9,
    "OLMo 2 7B": 7.30e9,
    "Gemma 3 1B": 1.00e9,
    "SmolLM2 135M": 135e6,
}


@pytest.mark.parametrize("name", OPEN_MODELS)
def test_parameters_are_as_many_as_published(name):
    config = OPEN_MODELS[name]
    with torch.device("meta"):
        model = TransformerLM(replace(config, n_layers=2))
    counted = sum(parameter_count(replace(config, n_layers=2)).values())
    assert sum(parameter.numel() for parameter in model.parameters()) == counted
    assert sum(parameter_count(config).values()) == pytest.approx(PUBLISHED[name], rel=0.005)


def test_smollm2_is_the_real_one(smollm2):
    config = smollm2[0].config
    assert config.norm_eps == pytest.approx(1e-5)  # the file has it in float32
    assert replace(config, norm_eps=1e-5) == OPEN_MODELS["SmolLM2 135M"]
