"""Many requests to a chat model answered at once: the chats of `generation`, the batches of `rollouts`, texts in and out."""

from collections.abc import Mapping, Sequence

import torch

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.inference.generation import Rule, Sampling, chat_prompt, tokenless_ids
from course_lib.inference.rollouts import roll_out
from course_lib.tokenization import Tokenizer

__all__ = ["write_replies"]

_AT_ONCE = 32  # rows


def write_replies(
    model: TransformerLM,
    tokenizer: Tokenizer,
    requests: Sequence[str | Sequence[Mapping[str, str]]],
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    *,
    begun: Sequence[str] | None = None,
    rules: Sequence[Rule | None] | None = None,
    ends: bool = True,
    seed: int = 0,
) -> list[str]:
    """Return the model's reply to each of `requests`, a user's text or the messages of a chat (see `chat_prompt`).

    `begun` has the first words of each reply, which are not returned; `rules` a rule or None for each, see `generate`. Without
    `ends`, no token that ends a text is drawn, and each reply has `max_new_tokens`. A reply depends on its request, its place
    and `seed`, not on what is answered beside it. Requests of about the same length are answered at once. ValueError for not
    as many `begun` or `rules` as requests, and as of `chat_prompt` and `roll_out`.
    """
    check("max_new_tokens", max_new_tokens)
    for name, given in (("begun", begun), ("rules", rules)):
        if given is not None and len(given) != len(requests):
            raise ValueError(f"{name} must have one for each of {len(requests)} requests, not {len(given)}")
    chats = [[{"role": "user", "content": one}] if isinstance(one, str) else one for one in requests]
    texts = [chat_prompt(tokenizer, chat) for chat in chats]
    prompts = [tokenizer.encode(text + first) for text, first in zip(texts, begun or [""] * len(texts), strict=True)]
    banned = {*tokenless_ids(model, tokenizer), *(() if ends else tokenizer.special_tokens.values())}
    noise = torch.rand(len(prompts), max_new_tokens, generator=torch.Generator().manual_seed(seed))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    replies: dict[int, str] = {}
    for start in range(0, len(order), _AT_ONCE):
        rows = order[start : start + _AT_ONCE]
        written = roll_out(
            model, [prompts[row] for row in rows], max_new_tokens, sampling, stop_ids=tokenizer.end_ids,
            banned_ids=sorted(banned), rules=rules and [rules[row] for row in rows], noise=noise[rows],
        ).answers  # fmt: skip
        for row, ids in zip(rows, written, strict=True):
            replies[row] = tokenizer.decode([id for id in ids if id not in tokenizer.end_ids])
    return [replies[row] for row in range(len(prompts))]
