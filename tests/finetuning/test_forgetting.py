"""The small model that is taught capitals."""

import torch

from course_lib.finetuning import LoraConfig
from course_lib.finetuning.forgetting import taught_capitals


def test_an_adapter_is_drawn_by_the_seed_alone():
    models = []
    for elsewhere in (1, 2):
        torch.manual_seed(elsewhere)
        models.append(taught_capitals.__wrapped__(0.0, lora=LoraConfig(2, 4.0)))
    for one, same in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, same)
    assert torch.initial_seed() == 2
