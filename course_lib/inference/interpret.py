"""Look inside a running model: attention maps, value lengths, what each layer would predict, heads switched off, memory.

Everything here attaches to the model from outside with PyTorch's module hooks and is gone when it is done: the ordinary
forward pass has no branch, no flag and no cost for it.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib.architecture import EncoderDecoder, TransformerLM
from course_lib.checks import check

__all__ = [
    "Capture",
    "Lens",
    "capture_attention",
    "capture_cross_attention",
    "changed",
    "gate_slopes",
    "heads_off",
    "induction_scores",
    "largest_tensor",
    "logit_lens",
    "value_norms",
]


@dataclass(frozen=True)
class Capture:
    """What one forward pass showed.

    `maps` is uint8 (layer, head, query, key) on the CPU, the attention weight being maps / 255: a 270-head model on 512
    tokens fits in 71 MB. `logits` is float32 (query, vocab) on the CPU.
    """

    maps: Tensor
    logits: Tensor

    def weights(self, layer: int, head: int) -> Tensor:
        """Return one head's attention weights as float32 (query, key), exact to 1/510."""
        return self.maps[layer, head].float() / 255


@torch.inference_mode()
def capture_attention(
    model: TransformerLM,
    ids: Tensor,
    off: Collection[tuple[int, int]] = (),
    on_layer: Callable[[int, int], None] | None = None,
) -> Capture:
    """Run `model` on `ids` (query,) and return every head's attention map and the logits.

    `off` are the (layer, head) pairs to switch off, as in `heads_off`. `on_layer(done, of)` is called after each layer.
    """
    n_layers = len(model.blocks)
    maps = torch.empty(n_layers, model.config.n_heads, len(ids), len(ids), dtype=torch.uint8)

    def keep(layer: int, weights: Tensor) -> None:
        maps[layer] = (weights[0] * 255).round().to(torch.uint8)  # weights are float32 whatever the model's dtype
        if on_layer is not None:
            on_layer(layer + 1, n_layers)

    with ExitStack() as stack:
        stack.enter_context(heads_off(model, off))
        for layer, block in enumerate(model.blocks):
            stack.enter_context(_weights_of(block.attention, partial(keep, layer)))
        logits = model(ids[None].to(model.device))[0]
    return Capture(maps, logits.float().cpu())


@torch.inference_mode()
def capture_cross_attention(
    model: EncoderDecoder, source: Tensor, target: Tensor, source_mask: Tensor | None = None
) -> Tensor:
    """Return where each token of `target` (batch, query) looks in `source` (batch, key): (layer, batch, head, query, key)."""
    maps = []
    with ExitStack() as stack:
        for block in model.decoder.blocks:
            stack.enter_context(_weights_of(block.cross_attention, maps.append))
        model(source, target, source_mask)
    return torch.stack(maps).float().cpu()


@contextmanager
def _weights_of(attention: nn.Module, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Within the block, `keep` is given the weights (batch, head, query, key) whenever `attention` runs."""

    def ask(_module, args, kwargs):
        return args, kwargs | {"return_weights": True}

    def take(_module, _args, output):
        out, weights = output
        keep(weights)
        return out

    hooks = attention.register_forward_pre_hook(ask, with_kwargs=True), attention.register_forward_hook(take)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def heads_off(model: TransformerLM, off: Collection[tuple[int, int]]) -> Iterator[None]:
    """Within the block, the (layer, head) pairs of `off` write nothing into the residual stream.

    A head is switched off where the heads are concatenated: its part of the output projection's input becomes zero
    (zero ablation; arXiv 1905.10650).
    """
    config = model.config
    for layer, head in off:
        if not (0 <= layer < config.n_layers and 0 <= head < config.n_heads):
            raise ValueError(
                f"there is no head {head} in layer {layer}: the model has layers 0 to {config.n_layers - 1} "
                f"with heads 0 to {config.n_heads - 1}"
            )

    def silence(heads: list[int], d_head: int):
        def hook(_module, args):
            kept = args[0].unflatten(-1, (-1, d_head)).clone()  # (batch, query, head, d_head)
            for head in heads:
                kept[..., head, :] = 0
            return (kept.flatten(-2),)

        return hook

    with ExitStack() as stack:
        for layer in {layer for layer, _ in off}:
            attention = model.blocks[layer].attention
            heads = [head for at, head in off if at == layer]
            hook = attention.output.register_forward_pre_hook(silence(heads, attention.d_head))
            stack.callback(hook.remove)
        yield


@contextmanager
def changed(change: Callable[[Tensor], Tensor | None], *modules: nn.Module) -> Iterator[None]:
    """Within the block, `change(output)` takes the place of every output of `modules`; None leaves it as it is.

    So `changed(kept.append, module)` only keeps what comes out, and a `change` that gives what another run gave is activation
    patching.
    """
    hooks = [module.register_forward_hook(lambda _module, _args, output: change(output)) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def gate_slopes(model: TransformerLM, ids: Tensor) -> Tensor:
    """Return how fast the loss on `ids` (query,) rises as each head's output is turned up: float32 (layer, head), bits.

    Each head is multiplied by a gate of 1 where the heads are concatenated, and the slope is that of the mean loss per token
    with regard to the gate: its size is the head's importance (arXiv 1905.10650, there as a mean over texts).
    """
    gates = [torch.ones(model.config.n_heads, 1, device=ids.device, requires_grad=True) for _ in model.blocks]
    with ExitStack() as stack:
        for gate, block in zip(gates, model.blocks, strict=True):

            def turn(_module, args, gate=gate, d_head=block.attention.d_head):
                return ((args[0].unflatten(-1, (-1, d_head)) * gate.to(args[0].dtype)).flatten(-2),)

            stack.callback(block.attention.output.register_forward_pre_hook(turn).remove)
        loss = F.cross_entropy(model(ids[None])[0, :-1].float(), ids[1:]) / math.log(2)
        slopes = torch.autograd.grad(loss, gates)
    return torch.stack([slope[:, 0] for slope in slopes]).cpu()


@torch.inference_mode()
def value_norms(model: TransformerLM, ids: Tensor) -> Tensor:
    """Return the length of every value vector as float32 (layer, kv_head, key), for `ids` (key,)."""
    cache = model.new_cache(1, len(ids))
    model.residual(ids[None].to(model.device), cache)
    # an induction head's layer holds a head more, and behind all layers a model of n-grams keeps the ids
    layers = zip(cache, model.blocks, strict=False)
    return torch.stack(
        [layer.values[0, : block.attention.n_kv_heads].float().norm(dim=-1) for layer, block in layers]
    ).cpu()


@torch.inference_mode()
def induction_scores(model: TransformerLM, n_tokens: int = 40, seed: int = 0) -> Tensor:
    """Return how far each head is an induction head, 0 to 1, as float32 (layer, head).

    `n_tokens` random tokens are repeated once, so that nothing but repetition can help; in a short context, half as many as
    fit. The score is the mean weight that the second occurrence of a token gives to what came after the first ("prefix
    matching", arXiv 2209.11895).
    """
    check("n_tokens", n_tokens)
    n_tokens = min(n_tokens, model.config.context_length // 2)
    ids = torch.randint(model.config.vocab_size, (n_tokens,), generator=torch.Generator().manual_seed(seed))
    maps = capture_attention(model, ids.repeat(2)).maps
    return maps.diagonal(1 - n_tokens, dim1=2, dim2=3)[..., 1:].float().mean(-1) / 255  # query n + i to key i + 1


@dataclass(frozen=True)
class Lens:
    """What the residual stream would predict if the model ended after each layer; all on the CPU.

    The first axis is the depth: 0 is the embedding, i + 1 is the stream after layer i, and the last one is the whole model.
    Ranks are int64 and count from 1, the likeliest token; probabilities and entropies are float32.

    `top_ids`, `top_probabilities` (depth, position, top): the likeliest tokens, likeliest first.
    `entropy` (depth, position): of the whole distribution, in bits.
    `answer` (position): the whole model's likeliest next token; `answer_probability` and `answer_rank` (depth, position).
    `actual_probability`, `actual_rank` (depth, position − 1): those of the token that comes next in the text.
    """

    top_ids: Tensor
    top_probabilities: Tensor
    entropy: Tensor
    answer: Tensor
    answer_probability: Tensor
    answer_rank: Tensor
    actual_probability: Tensor
    actual_rank: Tensor


@torch.inference_mode()
def logit_lens(
    model: TransformerLM, ids: Tensor, top: int = 10, on_layer: Callable[[int, int], None] | None = None
) -> Lens:
    """Read the residual stream of `model` on `ids` (position,) after every layer with the model's own unembedding.

    This is the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"). Only the last layer was trained to be
    read so. What an early layer holds may lie in directions that the unembedding does not look at, so that a poor reading
    does not show that nothing is there; the tuned lens (arXiv 2303.08112) learns a translation for each layer.

    The logits of one depth are held at a time. `on_layer(done, of)` is called after each.
    """
    check("top", top)
    streams = []
    with ExitStack() as stack:
        keep_input = model.blocks[0].register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
        stack.callback(keep_input.remove)
        for block in model.blocks:
            hook = block.register_forward_hook(lambda _module, _args, output: streams.append(output))
            stack.callback(hook.remove)
        ids = ids.to(model.device)
        answer = model(ids[None])[0].argmax(dim=-1)

    readings = []
    for stream in streams:
        readings.append(_read(model.unembed(model.final_norm(stream))[0].float(), answer, ids[1:], top))
        if on_layer is not None:
            on_layer(len(readings), len(streams))
    top_ids, top_probabilities, entropy, *followed = map(torch.stack, zip(*readings, strict=True))
    return Lens(top_ids, top_probabilities, entropy, answer.cpu(), *followed)


def _read(logits: Tensor, answer: Tensor, actual: Tensor, top: int) -> tuple[Tensor, ...]:
    """Return one depth of every tensor of a `Lens` but `answer`, in its order, from `logits` (position, vocab)."""
    log_probabilities = logits.log_softmax(dim=-1)
    probabilities = log_probabilities.exp()
    likeliest = log_probabilities.topk(min(top, logits.shape[-1]))
    entropy = -(probabilities * log_probabilities).sum(dim=-1) / math.log(2)
    readings = [likeliest.indices, likeliest.values.exp(), entropy]
    for target in (answer, actual):
        chosen = logits[: len(target)].gather(-1, target[:, None])  # (position, 1)
        readings.append(probabilities[: len(target)].gather(-1, target[:, None])[:, 0])
        readings.append((logits[: len(target)] > chosen).sum(dim=-1) + 1)
    return tuple(reading.cpu() for reading in readings)


def largest_tensor(compute: Callable[[], object]) -> int:
    """Run `compute` and return the size in bytes of the largest tensor that any operation in it made."""

    class Meter(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            self.largest = max(self.largest, *sizes, 0)
            return out

    with Meter() as meter:
        compute()
    return meter.largest
