"""How well a model predicts a text: its loss, in nats a token or in bits a byte."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.corpora import TokenArray, TokenShards
from course_lib.corpora.packing import IGNORED
from course_lib.corpora.shards import Windowed
from course_lib.devices import autocast
from course_lib.pretraining import processes

__all__ = ["Loss", "as_in_use", "bits_per_byte", "check_text", "evaluate", "next_token_loss"]

_EVALUATED_AT_ONCE = 1024  # tokens: nearly twice as fast on a CPU as 4,096, whose logits its caches do not hold


class Loss(Protocol):
    """What a Trainer makes smaller: the cross-entropy of `targets`, given what else a batch holds.

    The mean over the targets that are not IGNORED, or with `reduction="sum"` their sum, in nats.
    """

    def __call__(
        self, model: nn.Module, ids: Tensor, targets: Tensor, *rest: Tensor, reduction: str = "mean"
    ) -> Tensor: ...


def next_token_loss(model: nn.Module, ids: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return the mean cross-entropy, in nats a token, of `model`'s predictions from `ids` (batch, position); or its sum.

    `targets` (batch, position) holds the token that follows each of `ids`.
    """
    return F.cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten(), reduction=reduction)


def check_text(text: Windowed, model: TransformerLM) -> None:
    """Raise ValueError if `text` has more tokens than `model`, or so few that there is nothing to predict."""
    if text.vocab_size > model.config.vocab_size:
        raise ValueError(f"the text has {text.vocab_size} tokens, the model {model.config.vocab_size}")
    if len(text) < 2:
        raise ValueError(f"a text of {len(text)} tokens has nothing to predict: two are the least")


@contextmanager
def as_in_use(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` is in evaluation mode and has no gradients; afterwards it is as before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def evaluate(
    model: TransformerLM,
    text: Windowed,
    context_length: int,
    *,
    dtype: torch.dtype = torch.float32,
    loss: Loss = next_token_loss,
) -> float:
    """Return the mean `loss`, in nats a target, over the whole of `text`, cut into consecutive windows of `context_length`.

    Of a text, the first token of a window is predicted from one token, the last from `context_length`. Several processes share
    the windows out among themselves; each gets the mean of all. Matrix products are made in `dtype`.
    Raises ValueError if there is nothing to predict, or if the text has more tokens than the model.
    """
    check_text(text, model)
    device = model.device
    rank, world_size = processes.rank(), processes.world_size()
    summed, n_targets = 0.0, 0
    batches = _stacked(text.windows(context_length), max(1, _EVALUATED_AT_ONCE // context_length))
    with as_in_use(model):
        while turn := list(islice(batches, world_size)):
            batch = [part.to(device) for part in turn[min(rank, len(turn) - 1)]]
            with autocast(device, dtype):
                sum_of_batch = loss(model, *batch, reduction="sum")
            if rank < len(turn):  # else it has none in the last turn, and only helps to gather sharded weights
                summed += sum_of_batch.item()
                n_targets += (batch[1] != IGNORED).sum().item()
    processes.let_go(model)
    summed, n_targets = processes.total(torch.tensor([summed, n_targets], device=device)).tolist()
    return summed / n_targets


def _stacked(rows: Iterable[tuple[Tensor, ...]], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the windows `size` at a time, and one of another length (the last) by itself."""
    batch = []
    for row in rows:
        if len(batch) == size or (batch and len(row[0]) != len(batch[0][0])):
            yield tuple(map(torch.stack, zip(*batch, strict=True)))
            batch = []
        batch.append(row)
    if batch:
        yield tuple(map(torch.stack, zip(*batch, strict=True)))


def bits_per_byte(nats_a_token: float, shards: TokenShards | TokenArray) -> float:
    """Return a loss in bits a byte of the text, which does not depend on how the tokenizer cut it.

    A tokenizer with longer tokens has fewer and harder ones to predict, so losses a token cannot be compared between two.
    """
    return nats_a_token * len(shards) / shards.n_bytes / math.log(2)
