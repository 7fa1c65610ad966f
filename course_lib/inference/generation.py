"""Text from a language model: choose the next token, append it, repeat."""

import codecs
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from course_lib.architecture import EncoderDecoder, TransformerLM
from course_lib.checks import check, check_fields
from course_lib.inference.prefix import PrefixCache
from course_lib.tokenization import Tokenizer
from course_lib.tokenization.chat_template import render

__all__ = [
    "Rule", "Sampling", "chat_prompt", "generate", "stream_reply", "stream_text", "text_pieces", "tokenless_ids", "translate",
]  # fmt: skip

Rule = Callable[[Sequence[int], Tensor], Tensor]
"""What changes logits: from the ids written so far, without the prompt, and the next token's logits (vocab,) new ones."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy: always the likeliest token.

    The filters leave out unlikely tokens, in this order: all but the `top_k` likeliest (of equals at the limit any, where
    `transformers` keeps all); all beyond the smallest set whose probability reaches `top_p` (nucleus sampling, arXiv
    1904.09751); all less likely than `min_p` times the likeliest (arXiv 2407.01082).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self):
        check_fields(self, temperature=(0, math.inf), top_p=(None, 1), min_p=(None, 1))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the distribution (…, vocab) that `logits` (…, vocab) are drawn from, in float32."""
        if self.temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        temperature = max(self.temperature, torch.finfo(torch.float32).tiny)  # else 0 / 0 where float32 cannot hold it
        scores = (logits.float() - logits.float().amax(dim=-1, keepdim=True)) / temperature  # at most 0: none overflows
        if self.top_k is not None:
            likeliest = scores.topk(min(self.top_k, scores.shape[-1]))
            scores = torch.full_like(scores, -torch.inf).scatter(-1, likeliest.indices, likeliest.values)
        if self.top_p is not None and self.top_p < 1:  # rounded sums of probabilities may reach 1 before the last one
            likeliest = scores.softmax(dim=-1).sort(dim=-1, descending=True)
            before = likeliest.values.cumsum(dim=-1) - likeliest.values  # the probability of all that are likelier
            beyond = torch.zeros_like(before, dtype=torch.bool).scatter(-1, likeliest.indices, before >= self.top_p)
            scores = scores.masked_fill(beyond, -torch.inf)
        if self.min_p is not None:
            floor = scores.softmax(dim=-1).amax(dim=-1, keepdim=True) * self.min_p
            scores = scores.masked_fill(scores.softmax(dim=-1) < floor, -torch.inf)
        return scores.softmax(dim=-1)

    def pick(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return the token ids (row,) that `noise` (row,), numbers from [0, 1), draws from `logits` (row, vocab).

        The probabilities lie side by side on a line of length 1, and the token is picked on whose part the number falls. So
        what is drawn depends on a row's own numbers alone. FloatingPointError if a row's largest logit is NaN or infinite, as
        those of a model are whose training has diverged.
        """
        if not logits.amax(dim=-1).isfinite().all():  # of numbers of which one is NaN, it is the largest
            raise FloatingPointError("the model's logits are no numbers")
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        probabilities = self.probabilities(logits)
        ends = probabilities.cumsum(dim=-1)
        # 1 − noise is never 0, so it falls on no part of length 0; the last end, a rounded sum, may not be quite 1
        found = torch.searchsorted(ends, (1 - noise[:, None]) * ends[:, -1:])
        # a GPU adds up in parts, and where a probability is 0 its rounded sum may still grow
        return found.where(probabilities.gather(-1, found) > 0, probabilities.argmax(dim=-1, keepdim=True))[:, 0]

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> int:
        """Return a token id drawn from `logits` (vocab,), with a CPU `generator`, so that a seed means the same anywhere.

        FloatingPointError if they are no numbers, see `pick`.
        """
        noise = torch.rand(1, generator=generator).to(logits.device)
        return int(self.pick(logits[None], noise))


@torch.inference_mode()
def generate(
    model: TransformerLM,
    ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    *,
    stop_ids: frozenset[int] = frozenset(),
    banned_ids: Sequence[int] = (),
    rule: Rule | None = None,
    generator: torch.Generator | None = None,
    cached: bool = True,
    prefix: PrefixCache | None = None,
) -> Iterator[int]:
    """Yield the tokens that follow `ids`, each as soon as it is drawn; a stop id ends the text and is not yielded.
    One of `banned_ids` is never drawn. A `rule` sees the logits after that ban and before `sampling`.

    With `cached`, the keys and values of past positions are kept, and each step computes one position; without, each step
    computes all of them again, to the same result. A `prefix` keeps them from text to text: what `ids` have in common with the
    text before is not computed again, see `PrefixCache`. Ends early where the model's context ends. ValueError for a prompt
    that is empty or longer than the context, an id that the model has not, a negative `max_new_tokens`, a ban on every token,
    or another model's `prefix` comes when the first token is asked for; one for a rule that leaves no token, or logits of
    another shape, when that happens.
    """
    context = model.config.context_length
    if not 0 < len(ids) <= context:
        raise ValueError(f"the prompt must have 1 to {context} tokens, not {len(ids)}")
    check("max_new_tokens", max_new_tokens, int, 0)
    sequence, banned = known_ids(model, "the prompt", ids), banned_rows(model, banned_ids)
    if prefix is not None and (prefix.model is not model or not cached):
        raise ValueError("a prefix is the cache of one model: make one for this model, and leave cached=True")
    written = []
    end = min(len(sequence) + max_new_tokens, context)
    if cached:
        reading = (PrefixCache(model) if prefix is None else prefix).reading(sequence, end)
    else:
        device = model.device
        reading = nullcontext(lambda ids: model.residual(torch.tensor([ids], device=device))[0, -1])
    with reading as read:
        while len(sequence) < end:
            logits = model.unembed(read(sequence)).index_fill_(-1, banned, -torch.inf)
            token = sampling.draw(logits if rule is None else ruled(rule, written, logits), generator)
            if token in stop_ids:
                return
            yield token
            sequence.append(token)
            written.append(token)


def ruled(rule: Rule, written: Sequence[int], logits: Tensor) -> Tensor:
    """Return what `rule` makes of `logits` (vocab,). ValueError if it leaves no token, or returns another shape."""
    changed = rule(written, logits)
    if not isinstance(changed, Tensor) or changed.shape != logits.shape:
        got = tuple(changed.shape) if isinstance(changed, Tensor) else repr(changed)
        raise ValueError(f"a rule must return logits of the shape {tuple(logits.shape)}, not {got}")
    if changed.max() == -torch.inf:
        raise ValueError(
            f"the rule leaves no token to be drawn after {len(written)} written ones; "
            "if the text is whole there, does the rule allow a token that ends it?"
        )
    return changed


def banned_rows(model: TransformerLM, banned_ids: Sequence[int]) -> Tensor:
    """Return `banned_ids` as a tensor on the model's device. ValueError if the model has not one of them, or no other."""
    banned_ids = known_ids(model, "banned_ids", banned_ids)
    if len(set(banned_ids)) == model.config.vocab_size:
        raise ValueError("banned_ids are all that there are: none is left to draw")
    return torch.tensor(banned_ids, dtype=torch.long, device=model.device)


def known_ids(model: TransformerLM, name: str, ids: Sequence[int]) -> list[int]:
    """Return `ids` as a list. Raises ValueError for one that `model` has no row for: −1 would be the last row."""
    ids, vocab_size = [index(i) for i in ids], model.config.vocab_size
    for i in ids:
        if not 0 <= i < vocab_size:
            raise ValueError(
                f"{name} holds the id {i}, but this model has the ids 0 to {vocab_size - 1}; "
                "does the tokenizer belong to it?"
            )
    return ids


def tokenless_ids(model: TransformerLM, tokenizer: Tokenizer) -> list[int]:
    """Return the ids for which `model` has a row and `tokenizer` no token: many models are a round number of rows wide."""
    ids = {*tokenizer.vocab.values(), *tokenizer.special_tokens.values()}
    return [i for i in range(model.config.vocab_size) if i not in ids]


def stream_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int = 100,
    sampling: Sampling = Sampling(),
    *,
    rule: Rule | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """Yield the text that follows `prompt` piece by piece; a character that takes several tokens comes once it is whole.
    A `rule` changes the logits, see `generate`.

    The model sees the prompt after the tokens that began every text in its training, see `Tokenizer.encode_prompt`.
    """
    ids = tokenizer.encode_prompt(prompt)
    return _stream(model, tokenizer, ids, max_new_tokens, sampling, rule, generator)


def _stream(
    model: TransformerLM,
    tokenizer: Tokenizer,
    ids: list[int],
    max_new_tokens: int,
    sampling: Sampling,
    rule: Rule | None,
    generator: torch.Generator | None,
) -> Iterator[str]:
    limits = {"stop_ids": tokenizer.end_ids, "banned_ids": tokenless_ids(model, tokenizer)}
    return text_pieces(
        tokenizer, generate(model, ids, max_new_tokens, sampling, **limits, rule=rule, generator=generator)
    )


def text_pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of `ids` piece by piece, as they come; a character that takes several tokens comes once it is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for id in ids:
        if text := decoder.decode(tokenizer.decode_bytes([id])):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[dict[str, str]]) -> str:
    """Return the text in which the model was trained to see a chat, up to where its next reply begins.

    Each message has a `role` ("system", "user", "assistant") and a `content`. The template is the checkpoint's own and writes
    all special tokens out, the first one too: give the text to `encode`. The text equals what `apply_chat_template` of
    `transformers` makes. Raises ValueError if there is no template or no message, or if the template refuses the messages, as
    some do two of one role in a row.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this tokenizer has no chat template: its model was not trained to chat; use stream_text")
    if not messages:
        raise ValueError("the chat is empty: give at least one message")
    return render(tokenizer.chat_template, messages, tokenizer.named_tokens)


def stream_reply(
    model: TransformerLM,
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, str]],
    max_new_tokens: int = 200,
    sampling: Sampling = Sampling(),
    *,
    rule: Rule | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """Yield the model's next reply in the chat `messages`, piece by piece; see `chat_prompt` and `stream_text`."""
    ids = tokenizer.encode(chat_prompt(tokenizer, messages))
    return _stream(model, tokenizer, ids, max_new_tokens, sampling, rule, generator)


@torch.inference_mode()
def translate(
    model: EncoderDecoder, source: Tensor, source_mask: Tensor | None, start_id: int, max_new_tokens: int
) -> Tensor:
    """Return the tokens (batch, max_new_tokens) that the decoder writes for each of `source` (batch, position), greedily.

    The memory is computed once and the past is cached. Every row gets `max_new_tokens`; what follows its stop token means
    nothing. Raises ValueError for a `start_id` that the model has not, and for no `max_new_tokens`.
    """
    check("max_new_tokens", max_new_tokens)
    known_ids(model.decoder, "start_id", [start_id])
    memory, cache = model.encode(source, source_mask), model.decoder.new_cache(len(source), max_new_tokens)
    written = [torch.full((len(source), 1), start_id, device=source.device)]
    for _ in range(max_new_tokens):
        written.append(model.decode(written[-1], memory, cache)[:, -1:].argmax(dim=-1))
    return torch.cat(written[1:], dim=1)
