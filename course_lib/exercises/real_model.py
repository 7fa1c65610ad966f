"""The real model that lessons 01 to 03 ask *what if* of, with a memory, and the text that they measure it on."""

import functools
import math

import torch
from torch import Tensor

from course_lib import checkpoints
from course_lib.architecture import TransformerLM

__all__ = ["TEXT_IN_A_CELL", "Remembering", "bits_per_token", "lesson_names", "text_ids"]

TEXT = """\
Attention is a mechanism that lets every position of a sequence look at every other position. Before it, a recurrent
network had to carry everything it had read in one vector of fixed size, and whatever did not fit was lost. With attention
the network keeps all of its vectors and chooses, at every step, which of them to read."""
TEXT_IN_A_CELL = TEXT.replace(" Before", " \\\nBefore").replace(" fit was", " \\\nfit was")
"""The same text, in lines that a cell shows without scrolling."""


class Remembering:
    """A model with a memory: the known wrong versions of an exercise mostly differ in what they do with the same logits.

    Two calls are the same if their ids are, what each query sees, and what the hooks in the model make of a probe.
    `whole` is the model itself.
    """

    def __init__(self, model: TransformerLM):
        self.whole, self.blocks = model, model.blocks
        width = model.blocks[0].attention.qkv.out_features
        generator = torch.Generator().manual_seed(0)
        self._probe = torch.randn(2, 1, 2, width, generator=generator)  # what goes into a module, what comes out
        self._seen = {}

    @torch.inference_mode()
    def __call__(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits (batch, position, vocab), as `whole` does."""
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        visible = causal if mask is None else causal & mask.cpu()
        key = tuple(ids.flatten().tolist()), visible.numpy().tobytes(), self._changes()
        if key not in self._seen:
            self._seen[key] = self.whole(ids, mask=mask)
        return self._seen[key]

    def _changes(self) -> tuple:
        """Return which modules have a hook, and what it does to the probe."""
        changes = []
        for name, module in self.whole.named_modules():
            for hook in module._forward_hooks.values():
                before, after = self._probe.clone()
                changed = hook(module, (before,), after)
                changes.append((name, changed.shape, changed.numpy().tobytes()))
        return tuple(changes)


@functools.cache
def lesson_names() -> dict[str, object]:
    """Return what the lessons have at hand when the exercise comes: `model`, here with a memory, `tokenizer`, `device`."""
    model, tokenizer = checkpoints.load("smollm2-135m-instruct")
    return {"model": Remembering(model), "tokenizer": tokenizer, "device": model.device}


@functools.cache
def text_ids() -> Tensor:
    """Return the text as ids (1, position), on the model's device."""
    names = lesson_names()
    return torch.tensor([names["tokenizer"].encode(TEXT)], device=names["device"])


def bits_per_token(logits: Tensor) -> float:
    """Return the loss on the text for its `logits` (1, position, vocab), token by token and in plain numbers."""
    chances, targets = logits[0].float().cpu().softmax(dim=-1), text_ids()[0, 1:].tolist()
    return -sum(math.log2(chances[at, token]) for at, token in enumerate(targets)) / len(targets)
