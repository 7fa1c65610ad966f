"""Chats in one format or another: the templates to choose from, who said which token, and the loss on more of them or fewer."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

from course_lib.finetuning import Example, tokenize_chat
from course_lib.finetuning.chats import CHATML, write_chat
from course_lib.inference.prefix import n_shared
from course_lib.tokenization import Tokenizer

__all__ = ["FORMATS", "MASKS", "Chat", "Format", "example_of", "said", "with_template"]

Chat = Sequence[dict[str, str]]

LLAMA3_HEADERS = """\
{%- for message in messages -%}
<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content }}<|eot_id|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start_header_id|>assistant<|end_header_id|>

{% endif -%}
"""

PLAIN = """\
{%- for message in messages -%}
{{ message.role | capitalize }}: {{ message.content }}
{% endfor -%}
{%- if add_generation_prompt -%}
Assistant:
{%- endif -%}
"""

MASKS = ("answers", "everything", "unended")
"""The loss on what the assistant says and what ends its turn; on all tokens; on what it says alone."""


@dataclass(frozen=True)
class Format:
    """A chat `template`, and the `markers` in it that should be special tokens."""

    template: str
    markers: tuple[str, ...] = ()


FORMATS = {
    "ChatML": Format(CHATML, ("<|im_start|>", "<|im_end|>")),
    "Llama 3 headers": Format(LLAMA3_HEADERS, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "plain text": Format(PLAIN),
}


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """Return a copy of `tokenizer` that writes chats as `template` says; its tokens are the same."""
    other = copy(tokenizer)
    other.chat_template = template
    return other


def example_of(tokenizer: Tokenizer, chat: Chat, mask: str) -> Example:
    """Return `chat` with the loss on what `mask`, one of MASKS, says. Raises ValueError as `tokenize_chat` does."""
    if mask == "everything":
        ids = tokenizer.encode(write_chat(tokenizer, chat))
        return Example(tuple(ids), (True,) * len(ids))
    example = tokenize_chat(tokenizer, chat)
    if mask == "answers":
        return example
    kept = {
        position
        for turn, message in enumerate(chat)
        if message["role"] == "assistant"
        for position in range(*said(tokenizer, chat, turn))
    }
    return replace(example, trained=tuple(on and at in kept for at, on in enumerate(example.trained)))


def said(tokenizer: Tokenizer, chat: Chat, turn: int) -> tuple[int, int]:
    """Return where, in the tokens of `chat`, the content of message `turn` begins and ends.

    These are the tokens that change if the message says something else; those around them are the template's.
    """
    content = chat[turn]["content"].strip()
    other = next(digit for digit in "012" if digit not in (content[:1], content[-1:]))
    otherwise = [*chat[:turn], {**chat[turn], "content": other}, *chat[turn + 1 :]]
    ids, others = (tokenizer.encode(write_chat(tokenizer, messages)) for messages in (chat, otherwise))
    start = n_shared(ids, others)
    return start, len(ids) - n_shared(ids[start:][::-1], others[start:][::-1])
