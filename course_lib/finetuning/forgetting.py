"""Forgetting measured: a small model that is taught capitals, and what it knew before.

Fine-tuning walks down the gradient of the new text alone, and nothing holds the weights where the old text wants them
(catastrophic interference: McCloskey and Cohen 1989). A share of old text in every batch does: "replay" (arXiv 1811.11682).
"""

import copy
import random
from functools import cache

import torch

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.devices import single_thread
from course_lib.finetuning.chats import Example
from course_lib.finetuning.lora import LoraConfig, add_lora
from course_lib.finetuning.supervised import PackedExamples, answer_loss
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.pretraining.memorisation import planted_model

__all__ = ["taught_capitals"]

_N_STEPS, _BATCH, _LENGTH = 40, 16, 48


@cache
def taught_capitals(
    old_share: float, learning_rate: float = 1e-3, seed: int = 0, lora: LoraConfig | None = None
) -> TransformerLM:
    """Return `planted_model` after 40 steps of fine-tuning on its own text in capitals, which it had hardly seen: 2 seconds.

    `old_share`, from 0 to 1, of what it is shown is the old text, as it was. All weights are trained, or those of an adapter.
    """
    check("old_share", old_share, float, 0, 1)
    planted, chance = planted_model(), random.Random(seed)
    code = {character: i for i, character in enumerate(planted.characters)}
    texts = [planted.train_text, planted.train_text.upper()]
    examples, n = [], _N_STEPS * _BATCH
    for number in range(n):
        text = texts[number >= old_share * n]
        start = chance.randrange(len(text) - _LENGTH)
        known = (character for character in text[start : start + _LENGTH] if character in code)  # no X among them
        ids = tuple(code[character] for character in known)
        examples.append(Example(ids, (True,) * len(ids)))
    model = copy.deepcopy(planted.model).requires_grad_()
    if lora is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of the adapter's first numbers
            add_lora(model, lora)
    rows = PackedExamples(examples, _LENGTH, len(planted.characters))
    config = PretrainingConfig(
        n_steps=_N_STEPS, batch_size=_BATCH, context_length=_LENGTH, learning_rate=learning_rate, muon_learning_rate=None,
        weight_decay=0.0, decay=0.0, seed=seed,
    )  # fmt: skip
    with single_thread():
        for _ in Trainer(model, rows, None, config, loss=answer_loss):
            pass
    return model.requires_grad_(False).eval()
