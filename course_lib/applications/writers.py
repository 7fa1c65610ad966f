"""Who writes the replies of a chat: a model in memory, which keeps what it has read; `endpoint` has one behind an address."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, Protocol

import torch

from course_lib.architecture import TransformerLM
from course_lib.inference.generation import Rule, Sampling, chat_prompt, generate, text_pieces, tokenless_ids
from course_lib.inference.prefix import PrefixCache
from course_lib.tokenization import Tokenizer

__all__ = ["Draft", "ModelWriter", "Prompt", "Writer"]


@dataclass(frozen=True)
class Prompt:
    """What a writer is shown, and how many tokens that has: exactly, or as far as can be told without its tokenizer."""

    content: Any  # token ids for a model, messages for a server
    n_tokens: int


@dataclass
class Draft:
    """A reply while it is written: what it took so far, as in `chat.Turn`; its writer keeps it up to date."""

    n_prompt: int = 0
    n_cached: int | None = 0
    n_tokens: int = 0
    ending: Literal["end", "length", "stopped"] = "stopped"
    seconds_to_first: float = 0.0
    seconds: float = 0.0


class Writer(Protocol):
    """Who writes replies: a model in memory (`ModelWriter`) or a server (`endpoint.Endpoint`)."""

    context_length: int | None  # tokens of prompt and reply together; None: as many as the server takes

    def count(self, text: str) -> int:
        """Return how many tokens `text` has, 0 if that is not known. ValueError if it is no text that may be said."""

    def prompt(self, messages: list[dict[str, str]]) -> Prompt:
        """Return what is shown of `messages`. ValueError if they are refused."""

    def write(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        sampling: Sampling,
        draft: Draft,
        *,
        rule: Rule | None = None,
        seed: int | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """Yield the reply piece by piece and note in `draft` how far it is; an empty piece says that one has to wait."""


class ModelWriter:
    """Lets `model` write, and keeps what it has read in `prefix`. ValueError for a tokenizer without a chat template."""

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer):
        chat_prompt(tokenizer, [{"role": "user", "content": ""}])  # says so if there is no template
        self.model, self.tokenizer, self.context_length = model, tokenizer, model.config.context_length
        self._banned = tokenless_ids(model, tokenizer)
        self.forget()

    def forget(self) -> None:
        """Let go of what has been read: the next prompt is read as a whole."""
        self.prefix = PrefixCache(self.model)

    def count(self, text: str) -> int:
        """Return how many tokens `text` has. ValueError if it is no text, or holds a token that could end a turn."""
        for token in self.tokenizer.special_tokens:
            if token in text:
                raise ValueError(
                    f"the text holds {token!r}, which this model reads as a sign of the chat's form, not as text"
                )
        return len(self.tokenizer.encode(text))

    def prompt(self, messages: list[dict[str, str]]) -> Prompt:
        """Return the token ids of `messages`, as the chat template writes them. ValueError if it refuses them."""
        ids = self.tokenizer.encode(chat_prompt(self.tokenizer, messages))
        return Prompt(ids, len(ids))

    def write(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        sampling: Sampling,
        draft: Draft,
        *,
        rule: Rule | None = None,
        seed: int | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """Yield the reply to `prompt`, see `generate`; the time in which nobody asks for the next piece does not count."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        limits = {"stop_ids": self.tokenizer.end_ids, "banned_ids": self._banned, "prefix": self.prefix}
        tokens = generate(
            self.model, prompt.content, max_new_tokens, sampling, rule=rule, generator=generator, **limits
        )
        start = perf_counter() - draft.seconds
        draft.n_prompt = prompt.n_tokens

        def until_stopped() -> Iterator[int]:
            while not is_stopped():
                if (token := next(tokens, None)) is None:
                    draft.ending = "end" if draft.n_tokens < max_new_tokens else "length"
                    return
                draft.n_tokens += 1
                draft.n_cached = self.prefix.n_kept
                draft.seconds_to_first = draft.seconds_to_first or perf_counter() - start
                yield token

        try:
            for piece in text_pieces(self.tokenizer, until_stopped()):
                handed_over = perf_counter()
                draft.seconds = handed_over - start
                try:
                    yield piece
                finally:
                    start += perf_counter() - handed_over
        finally:
            tokens.close()
            draft.seconds = perf_counter() - start
