"""How well a model predicts a text: its loss, in nats a token or in bits a byte."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.corpora import TokenArray, TokenShards
from course_lib.corpora.shards import windows
from course_lib.devices import autocast
from course_lib.pretraining import processes

__all__ = ["bits_per_byte", "check_text", "evaluate", "next_token_loss"]

_EVALUATED_AT_ONCE = 1024  # tokens: nearly twice as fast on a CPU as 4,096, whose logits its caches do not hold


def next_token_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats a token, of `model`'s predictions from `ids` (batch, position).

    `targets` (batch, position) holds the token that follows each of `ids`.
    """
    return F.cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten())


def check_text(text: TokenShards | TokenArray, model: TransformerLM) -> None:
    """Raise ValueError if `text` has more tokens than `model`, or so few that there is nothing to predict."""
    if text.vocab_size > model.config.vocab_size:
        raise ValueError(f"the text has {text.vocab_size} tokens, the model {model.config.vocab_size}")
    if len(text) < 2:
        raise ValueError(f"a text of {len(text)} tokens has nothing to predict: two are the least")


@torch.no_grad()
def evaluate(
    model: TransformerLM, shards: TokenShards | TokenArray, context_length: int, *, dtype: torch.dtype = torch.float32
) -> float:
    """Return the mean loss, in nats a token, over the whole of `shards`, cut into consecutive windows of `context_length`.

    The first token of a window is predicted from one token, the last from `context_length`. Several processes share the
    windows out among themselves; each gets the mean of all. Matrix products are made in `dtype`.
    Raises ValueError if there is nothing to predict, or if the text has more tokens than the model.
    """
    check_text(shards, model)
    was_training, device = model.training, model.embedding.weight.device
    rank, world_size = processes.rank(), processes.world_size()
    summed, n_tokens = 0.0, 0
    batches = _stacked(windows(shards, context_length), max(1, _EVALUATED_AT_ONCE // context_length))
    model.eval()
    try:
        while turn := list(islice(batches, world_size)):
            ids, targets = turn[min(rank, len(turn) - 1)]
            with autocast(device, dtype):
                loss = next_token_loss(model, ids.to(device), targets.to(device))
            if rank < len(turn):  # else it has none in the last turn, and only helps to gather sharded weights
                summed += loss.item() * targets.numel()
                n_tokens += targets.numel()
    finally:
        model.train(was_training)
    processes.let_go(model)
    summed, n_tokens = processes.total(torch.tensor([summed, n_tokens], device=device)).tolist()
    return summed / n_tokens


def _stacked(pairs: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the windows `size` at a time, and one of another length (the last) by itself."""
    batch = []
    for pair in pairs:
        if len(batch) == size or (batch and len(pair[0]) != len(batch[0][0])):
            yield tuple(map(torch.stack, zip(*batch, strict=True)))
            batch = []
        batch.append(pair)
    if batch:
        yield tuple(map(torch.stack, zip(*batch, strict=True)))


def bits_per_byte(nats_a_token: float, shards: TokenShards | TokenArray) -> float:
    """Return a loss in bits a byte of the text, which does not depend on how the tokenizer cut it.

    A tokenizer with longer tokens has fewer and harder ones to predict, so losses a token cannot be compared between two.
    """
    return nats_a_token * len(shards) / shards.n_bytes / math.log(2)
