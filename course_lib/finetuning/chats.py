"""Chats as a model sees them: one row of tokens, some of which it is trained to write itself.

A chat template makes one text of the messages. Fine-tuning is pretraining on such texts with one difference: only what the
assistant says, to the token that ends its turn, is a target. The rest is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from course_lib.architecture import TransformerLM
from course_lib.inference.prefix import n_shared
from course_lib.tokenization import Tokenizer
from course_lib.tokenization.chat_template import render

__all__ = ["CHATML", "Example", "add_chat_format", "prompted", "tokenize_chat", "write_chat"]

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""The template of OpenAI's first chat models, of Qwen's and SmolLM2's, without their default system messages."""

_START, _END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class Example:
    """Token `ids`, and which of them are `trained`: those that the model shall write. ValueError if none is."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    def __post_init__(self):
        if len(self.ids) != len(self.trained):
            raise ValueError(f"an example of {len(self.ids)} tokens has {len(self.trained)} marks of what is trained")
        if not any(self.trained[1:]):  # nothing comes before the first, from which to predict it
            raise ValueError("an example has nothing to train on: no answer, or none that a prompt comes before")

    @property
    def answer(self) -> tuple[int, ...]:
        """The ids that are trained on."""
        return tuple(id for id, trained in zip(self.ids, self.trained, strict=True) if trained)


def prompted(tokenizer: Tokenizer, prompt: str, answer: str) -> Example:
    """Return the example that `answer` follows the text `prompt`, without a chat format, and ends with the end token."""
    given, wanted = tokenizer.encode_prompt(prompt), tokenizer.encode(answer + tokenizer.end_tokens[0])
    return Example((*given, *wanted), (False,) * len(given) + (True,) * len(wanted))


def tokenize_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> Example:
    """Return `messages` as the tokenizer's chat template writes them; trained are the assistant's, with what ends its turn.

    Each message has a `role` ("system", "user", "assistant") and a `content`. What the assistant says is found by writing the
    chat up to where its reply begins, and once more to where it ends, as `trl` does; so this works for any template that
    writes the beginning of a chat the same way however it goes on. A token that holds the end of the prompt and the beginning
    of the reply belongs to the reply.

    Raises ValueError if there is no template, if it refuses the messages, if no message is the assistant's, or if the template
    writes earlier messages differently when others follow: then take each reply as a chat of its own.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this tokenizer has no chat template; add_chat_format gives it one")
    text = write_chat(tokenizer, messages)
    ids = tokenizer.encode(text)
    trained = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = write_chat(tokenizer, messages[:turn], opens_reply=True)
        after = write_chat(tokenizer, messages[: turn + 1])
        if not (after.startswith(before) and text.startswith(after)):
            raise ValueError(
                f"the chat template writes what stands before and in message {turn} differently once more follows, so the "
                "reply cannot be found in the whole; make a chat of it that ends there"
            )
        start, end = (n_shared(tokenizer.encode(part), ids) for part in (before, after))
        trained[start:end] = [True] * (end - start)
    return Example(tuple(ids), tuple(trained))


def add_chat_format(model: TransformerLM, tokenizer: Tokenizer) -> tuple[TransformerLM, Tokenizer]:
    """Return a copy of a model that was not made to chat, and of its tokenizer, that have the format ChatML.

    Two special tokens are new, <|im_start|> and <|im_end|>, and with them two rows of the embedding. They begin as the mean of
    the old ones, so that they change next to nothing before training (Hewitt 2021, "Initializing New Word Embeddings for
    Pretrained Language Models"). Raises ValueError if the tokenizer has a chat template already or is not byte-level.
    """
    if tokenizer.chat_template is not None:
        raise ValueError("this tokenizer has a chat template already")
    if type(tokenizer) is not Tokenizer:
        raise ValueError("new tokens can be added to a byte-level tokenizer only")
    first = model.config.vocab_size
    size = first + 2
    chatting = Tokenizer(
        tokenizer.vocab,
        tokenizer.merges,
        tokenizer.special_tokens | {_START: first, _END: first + 1},
        words=tokenizer.words,
        split_digits=tokenizer.split_digits,
        normal_form=tokenizer.normal_form,
        normalised_tokens=tokenizer.normalised_tokens,
        ignore_merges=tokenizer.ignore_merges,
        start_tokens=tokenizer.start_tokens,
        end_tokens=(_END, *tokenizer.end_tokens),
        chat_template=CHATML,
        named_tokens=tokenizer.named_tokens,
    )
    larger = TransformerLM(replace(model.config, vocab_size=size)).to(model.device, model.dtype)
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    for name in ("embedding.weight", "unembedding.weight"):
        if name in weights:
            mean = weights[name].mean(dim=0, keepdim=True)
            weights[name] = torch.cat([weights[name], mean.expand(2, -1)])
    larger.load_state_dict(weights)
    return larger.train(model.training), chatting


def write_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, opens_reply: bool = False) -> str:
    """Return `messages` as one text, and if it `opens_reply` what stands before the next. ValueError if they are refused."""
    return render(tokenizer.chat_template, messages, tokenizer.named_tokens, opens_reply=opens_reply)
