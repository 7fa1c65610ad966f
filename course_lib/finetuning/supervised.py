"""Supervised fine-tuning: the pretraining of lesson 04, on examples, with a loss on their answers alone.

    rows = PackedExamples([tokenize_chat(tokenizer, chat) for chat in chats], 128, model.config.vocab_size)
    for report in Trainer(model, rows, None, PretrainingConfig(n_steps=100, batch_size=8), loss=answer_loss): ...

LoRA, in `lora`, changes which weights are trained, and nothing here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.corpora.packing import IGNORED, SHARED, pack, places, same_document
from course_lib.finetuning.chats import Example
from course_lib.finetuning.rows import Rows
from course_lib.inference.prefix import n_shared
from course_lib.pretraining.evaluation import as_in_use

__all__ = ["PackedExamples", "Scores", "answer_loss", "score_answers", "train_last_blocks"]

SCORED_AT_ONCE = 1024  # tokens


class PackedExamples(Rows):
    """Examples side by side in rows of `context_length` tokens: ids, targets, and of each token the number of its example.

    A row that `shares_prompt` holds what all examples begin with, such as a system prompt and worked examples, once: it is
    computed for all of them together, and all of them look at it. Not for models with a window or ALiBi.

    Raises ValueError for no example at all, and for one that is longer than a row, and says which.
    """

    def __init__(
        self, examples: Sequence[Example], context_length: int, vocab_size: int, *, shares_prompt: bool = False
    ):
        check("context_length", context_length)
        if not examples:
            raise ValueError("there is no example to train on")
        for number, example in enumerate(examples):
            if len(example.ids) > context_length:
                raise ValueError(
                    f"example {number} has {len(example.ids)} tokens and does not fit into a row of {context_length}; "
                    "leave it out, shorten it, or take longer rows"
                )
        n = _shared_length(examples) if shares_prompt else 0
        packed = pack(
            [example.ids[n:] for example in examples],
            context_length - n,
            trained=[example.trained[n:] for example in examples],
        )
        first = torch.tensor(examples[0].ids[:n], dtype=torch.long).expand(len(packed.ids), n)
        beginnings = first, torch.full_like(first, IGNORED), torch.full_like(first, SHARED)
        rests = packed.ids, packed.targets, packed.documents
        super().__init__(tuple(torch.cat(both, dim=1) for both in zip(beginnings, rests, strict=True)), vocab_size)
        self.n_examples, self.n_targets = len(examples), int((packed.targets != IGNORED).sum())


def _shared_length(examples: Sequence[Example]) -> int:
    """Return how many tokens all examples begin with, but for the last before an answer, which has a target of its own."""
    prompts = [example.ids[: example.trained.index(True, 1) - 1] for example in examples]
    return min(n_shared(prompts[0], prompt) for prompt in prompts)


def answer_loss(
    model: nn.Module, ids: Tensor, targets: Tensor, documents: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Return the mean cross-entropy, in nats a token, of the targets that are not IGNORED; or its sum.

    All three are (row, position), as `PackedExamples` has them. Examples in a row do not see each other, and each begins at
    position 0. Logits are made only where there is a target: in a model of 49,152 tokens they cost more than ten layers.
    Raises ValueError for rows that share a prompt if the model has a window or ALiBi.
    """
    logits, wanted = _answered(model, ids, targets, documents)
    return F.cross_entropy(logits, wanted, reduction=reduction)


def _answered(model: nn.Module, ids: Tensor, targets: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (target, vocab), in float32, where there are targets, and those targets (target,)."""
    config = getattr(model, "module", model).config  # DDP wraps the model
    counts_along = config.window is not None or config.positions == "alibi"
    if counts_along and (documents == SHARED).any():
        raise ValueError(
            "a window and ALiBi count along the row, where a shared prompt is farther away than it should be"
        )
    keep = targets != IGNORED
    logits = model(ids, mask=same_document(documents), positions=places(documents), keep=keep)
    return logits.float(), targets[keep]


class Scores(NamedTuple):
    """How well a model gives the answers of examples: tensors with a number for each example, in their order."""

    exact: Tensor  # bool: written greedily, the answer would be this one to the last token, and end there
    nats: Tensor  # the summed cross-entropy of its tokens
    n_tokens: Tensor  # int64: how many those are

    @property
    def nats_a_token(self) -> float:
        """The mean cross-entropy of all answers' tokens: a token of a long answer counts as much as one of a short answer."""
        return (self.nats.sum() / self.n_tokens.sum()).item()


def score_answers(model: TransformerLM, examples: PackedExamples) -> Scores:
    """Return how well `model` gives the answers of `examples`, without writing any.

    Greedy writing would give an answer exactly if each of its tokens is the likeliest after those before it, for it would have
    written these too. One forward pass over whole examples tells, where writing takes a pass for each token.
    """
    device = model.device
    exact = torch.ones(examples.n_examples, dtype=torch.bool)
    nats, n_tokens = torch.zeros(examples.n_examples), torch.zeros(examples.n_examples, dtype=torch.long)
    at_once = max(1, SCORED_AT_ONCE // examples.context_length)
    with as_in_use(model):
        for ids, targets, documents in zip(*(part.to(device).split(at_once) for part in examples.parts), strict=True):
            logits, wanted = _answered(model, ids, targets, documents)
            losses = F.cross_entropy(logits, wanted, reduction="none").cpu()
            whose, right = documents[targets != IGNORED].cpu(), (logits.argmax(dim=-1) == wanted).cpu()
            nats.index_add_(0, whose, losses)
            n_tokens.index_add_(0, whose, torch.ones_like(whose))
            exact[whose[~right]] = False
    return Scores(exact, nats, n_tokens)


def train_last_blocks(model: TransformerLM, n_blocks: int) -> None:
    """Freeze `model` but for its last `n_blocks` blocks and its final norm. 0 leaves the final norm alone to be trained.

    The first layers hold what texts have in common, and stay. Raises ValueError for more blocks than there are.
    """
    check("n_blocks", n_blocks, int, 0, len(model.blocks))
    model.requires_grad_(False)
    model.final_norm.requires_grad_(True)
    for block in model.blocks[len(model.blocks) - n_blocks :]:
        block.requires_grad_(True)
