"""A conversation: who said what, with branches; what fits into the context; and replies that do not read it all again.

A language model remembers nothing. Each reply is written to a prompt that holds the whole conversation, as the checkpoint's
chat template writes it. What makes a chat of that:

- the *path*: turns form a tree, since a message may be edited and a reply written again; the model is shown one way through it;
- the *memory*: when the path no longer fits into the context, its first turns are left out, or a summary stands for them;
- the *prefix cache*: a prompt begins as the one before did, so what that has in the cache is not read again.

The text is what counts: a prompt is encoded from it, whichever tokens the model wrote it with. So a reply is the same as that
of `stream_reply` to the same messages, and the same after the chat was saved and loaded. Who writes the replies, a model here
or one behind an address, is its writer's business (`writers`); turns, path and memory are the same for both.
"""

import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal
from weakref import WeakSet

from course_lib.applications.writers import Draft, ModelWriter, Prompt, Writer
from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_fields, read_json_lines
from course_lib.inference.generation import Rule, Sampling
from course_lib.tokenization import Tokenizer

__all__ = ["Chat", "ModelWriter", "Turn"]

_SUMMARISE = "Summarise our conversation so far in three short sentences. Keep names and facts."
_SUMMARY = "Earlier in this conversation: "
_SUMMARY_TOKENS = 100


@dataclass(frozen=True)
class Turn:
    """One message: what was said by whom, after which turn (`parent`, None: it is the first), and what a reply took.

    `n_tokens` are those of the content alone. Of a reply: `ending` is "end" if the model ended it, "length" if there was no
    room for more, "stopped" if it was stopped or interrupted. Its prompt had `n_prompt` tokens, `n_cached` of which were not
    read again (None: the server does not say); it left out the first `n_forgotten` turns of the path, for which `summary`
    stood, if there is one.
    """

    id: int
    parent: int | None
    role: Literal["user", "assistant"]
    content: str
    n_tokens: int
    ending: Literal[None, "end", "length", "stopped"] = None
    n_prompt: int = 0
    n_cached: int | None = 0
    n_forgotten: int = 0
    summary: str = ""
    seconds_to_first: float = 0.0
    seconds: float = 0.0  # in all, without those in which nobody asked for the next piece

    def __post_init__(self):
        counts = ("id", "n_tokens", "n_prompt", "n_cached", "n_forgotten", "seconds_to_first", "seconds")
        check_fields(self, parent=(0,), **dict.fromkeys(counts, (0,)))

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the tokens behind the first one came; None if there were none."""
        seconds = self.seconds - self.seconds_to_first
        return (self.n_tokens - 1) / seconds if self.n_tokens > 1 and seconds > 0 else None


class Chat:
    """A conversation with `model`, under a `system` prompt if there is one.

        chat = Chat(model, tokenizer, system="You are a poet.")
        for piece in chat.reply("Sing of the sea."):
            print(piece, end="")

    `turns` are all that were said, in the order in which they were; `path` those that lead to the last one, and a new message
    goes on there. `memory` says what becomes of turns for which `context_length` tokens, the model's context if None, have no
    room: "drop" leaves them out, "summarise" has the model sum them up, and shows it that in the system prompt. They stay in
    `turns`; `forgotten` are those that the last reply was written without.

    One reply is written at a time; until it has ended all that would change the chat raises RuntimeError, but for `stop`.
    ValueError for a tokenizer without a chat template, and a `context_length` beyond the model's. Instead of a model and its
    tokenizer it takes any `Writer`, as `endpoint.Endpoint`, alone.
    """

    def __init__(
        self,
        model: TransformerLM | Writer,
        tokenizer: Tokenizer | None = None,
        *,
        system: str = "",
        memory: Literal["drop", "summarise"] = "drop",
        context_length: int | None = None,
    ):
        check("system", system, str)
        check("memory", memory, Literal["drop", "summarise"])
        writer = model if tokenizer is None else ModelWriter(model, tokenizer)
        check("context_length", context_length, int | None, 1, writer.context_length or math.inf)
        writer.count(system)  # says so if it is no valid text
        self.writer, self.system, self.memory = writer, system, memory
        self.context_length = context_length or writer.context_length
        self.turns: list[Turn] = []
        self.last: int | None = None
        self._stopping, self._lock = False, threading.Lock()
        self._replies: WeakSet[Iterator[str]] = WeakSet()  # weak: one that is dropped is closed at once

    # ---------------------------------------------------------------- the tree of turns

    @property
    def path(self) -> list[Turn]:
        """The turns from the first to the last one, a message and a reply in turn."""
        return self._path_to(self.last)

    @property
    def forgotten(self) -> list[Turn]:
        """The turns of the path that the last reply was written without."""
        path = self.path
        replies = [turn for turn in path if turn.role == "assistant"]
        return path[: replies[-1].n_forgotten] if replies else []

    def siblings(self, id: int) -> list[Turn]:
        """Return the turns that stand where turn `id` does, itself among them: edited ones, and replies written again."""
        parent = self._turn(id).parent
        return [turn for turn in self.turns if turn.parent == parent]

    def go_to(self, id: int | None) -> None:
        """Let the path end at turn `id`; None: before the first. What is said next goes on there, on a branch of its own."""
        with self._alone():
            self.last = None if id is None else self._turn(id).id

    def edit(self, id: int, content: str) -> Turn:
        """Put an edited turn beside turn `id`, of the same role, and let the path end there; `answer` writes a reply to it."""
        with self._alone():
            turn = self._turn(id)
            kept = {"n_forgotten": turn.n_forgotten, "summary": turn.summary}
            return self._add(self._draft(turn.parent, turn.role, content, **kept))

    def _turn(self, id: int) -> Turn:
        if not self.turns:
            raise ValueError("nothing has been said in this chat yet")
        check("id", id, int, 0, len(self.turns) - 1)
        return self.turns[id]

    def _path_to(self, id: int | None) -> list[Turn]:
        path = []
        while id is not None:
            path.append(self.turns[id])
            id = path[-1].parent
        return path[::-1]

    def _draft(self, parent: int | None, role: str, content: str, **kept: Any) -> Turn:
        """Return a person's turn. ValueError if it is no text, or holds a token that could end it and begin another."""
        check("content", content, str)
        return Turn(len(self.turns), parent, role, content, self.writer.count(content), **kept)

    def _add(self, turn: Turn) -> Turn:
        self.turns.append(turn)
        self.last = turn.id
        return turn

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this chat is writing a reply: stop() it, or take the rest of it first")
        try:
            yield
        finally:
            self._lock.release()

    # ---------------------------------------------------------------- replies

    def reply(
        self,
        content: str,
        max_new_tokens: int = 200,
        sampling: Sampling = Sampling(),
        *,
        rule: Rule | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Say `content`, and yield the reply piece by piece; see `generate` for what changes it. `seed` decides what is drawn.

        However it ends early, by `stop`, `close` or an interrupt, the part so far is kept as a turn that says so. A message
        without a reply is left on a branch of its own by the next one. ValueError, when the first piece is asked for, if the
        message does not fit into the context even alone, holds special tokens, or is refused by the template; then nothing was
        said.
        """

        def say() -> _Shown:
            path = self.path[:-1] if self.path and self.path[-1].role == "user" else self.path
            message = self._draft(path[-1].id if path else None, "user", content)
            prompt = self._prompt([*path, message], max_new_tokens)
            self._add(message)
            return prompt

        return self._begun(self._replying(say, max_new_tokens, sampling, rule, seed))

    def answer(
        self,
        max_new_tokens: int = 200,
        sampling: Sampling = Sampling(),
        *,
        rule: Rule | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield a reply to the message at which the path ends, as `reply` does; if it ends at a reply, another one beside it.

        ValueError if nothing has been said.
        """

        def return_to_message() -> _Shown:
            path = self.path[:-1] if self.path and self.path[-1].role == "assistant" else self.path
            if not path:
                raise ValueError("there is no message to answer: reply(…) says one")
            prompt = self._prompt(path, max_new_tokens)
            self.last = path[-1].id
            return prompt

        return self._begun(self._replying(return_to_message, max_new_tokens, sampling, rule, seed))

    def stop(self) -> None:
        """End the reply that is being written, from whatever thread: at once where it waits, else after its next token."""
        self._stopping = True
        for reply in list(self._replies):
            with suppress(ValueError):  # it is at work in another thread, and sees that it is to stop
                reply.close()

    def _begun(self, reply: Iterator[str]) -> Iterator[str]:
        self._replies.add(reply)
        return reply

    def _replying(self, begin: Callable[[], "_Shown"], *how: Any) -> Iterator[str]:
        with self._alone():
            self._stopping = False
            yield from self._written(begin(), *how)

    def _written(
        self, shown: "_Shown", max_new_tokens: int, sampling: Sampling, rule: Rule | None, seed: int | None
    ) -> Iterator[str]:
        """Yield the reply to the last turn, and at its end, whatever the reason, add what there is of it."""
        draft, written, is_kept = Draft(seconds=shown.seconds), [], True
        pieces = self._write(shown.prompt, max_new_tokens, sampling, draft, rule=rule, seed=seed)
        try:
            for piece in pieces:
                written.append(piece)
                yield piece
        except Exception:
            is_kept = draft.n_tokens > 0
            raise
        finally:
            pieces.close()
            if is_kept:
                took = asdict(draft) | {"n_forgotten": shown.n_forgotten, "summary": shown.summary}
                self._add(Turn(len(self.turns), self.last, "assistant", "".join(written), **took))

    def _write(
        self, prompt: Prompt, max_new_tokens: int, sampling: Sampling, draft: Draft, **how: Any
    ) -> Iterator[str]:
        return self.writer.write(prompt, max_new_tokens, sampling, draft, is_stopped=lambda: self._stopping, **how)

    # ---------------------------------------------------------------- memory

    def _prompt(self, path: list[Turn], max_new_tokens: int) -> "_Shown":
        """Return what the model is shown of `path`, so that `max_new_tokens` fit behind it."""
        check("max_new_tokens", max_new_tokens)
        start, room = perf_counter(), (self.context_length or math.inf) - max_new_tokens
        n_forgotten, summary = (path[-2].n_forgotten, path[-2].summary) if len(path) > 1 else (0, "")
        prompt = self._shown(path[n_forgotten:], summary)
        if prompt.n_tokens > room:
            n_forgotten, summary = self._forget(path, n_forgotten, summary, room)
            prompt = self._shown(path[n_forgotten:], summary)
        return _Shown(prompt, n_forgotten, summary, perf_counter() - start)

    def _forget(self, path: list[Turn], n_forgotten: int, summary: str, room: int) -> tuple[int, str]:
        """Leave out as many pairs of turns as leave a quarter of the room free.

        With each pair left out, all behind it stands elsewhere and has to be read anew. So it is done seldom, and then at once.
        """
        if (alone := self._n_shown(path[-1:], "")) > room:
            raise ValueError(
                f"the message alone takes {alone} tokens with the system prompt and what the template adds; the context of "
                f"{self.context_length} has {room} beside those for the reply: shorten it, or lower max_new_tokens"
            )
        n_summary = min(_SUMMARY_TOKENS, room // 4) if self.memory == "summarise" else 0
        before = n_forgotten
        while n_forgotten + 1 < len(path) and self._n_shown(path[n_forgotten:], "") > room - room // 4 - n_summary:
            n_forgotten += 2
        if self.memory == "drop":
            return n_forgotten, ""
        summary = self._summarise(path[before:n_forgotten], summary, n_summary)
        return n_forgotten, summary if self._n_shown(path[n_forgotten:], summary) <= room else ""

    def _summarise(self, turns: list[Turn], summary: str, max_new_tokens: int) -> str:
        """Return what the model makes of `turns` and the summary so far; of turns too long for the context the last ones."""
        request = {"role": "user", "content": _SUMMARISE}
        prompts = (self.writer.prompt([*self._messages(turns[i:], summary), request]) for i in range(0, len(turns), 2))
        prompt = next((prompt for prompt in prompts if prompt.n_tokens + max_new_tokens <= self.context_length), None)
        if prompt is None:
            return summary
        return "".join(self._write(prompt, max_new_tokens, Sampling(), Draft())).strip()

    def _messages(self, turns: list[Turn], summary: str) -> list[dict[str, str]]:
        system = "\n\n".join(part for part in (self.system, summary and _SUMMARY + summary) if part)
        opening = [{"role": "system", "content": system}] if system else []
        return opening + [{"role": turn.role, "content": turn.content} for turn in turns]

    def _shown(self, turns: list[Turn], summary: str) -> Prompt:
        return self.writer.prompt(self._messages(turns, summary))

    def _n_shown(self, turns: list[Turn], summary: str) -> int:
        return self._shown(turns, summary).n_tokens

    # ---------------------------------------------------------------- files

    def save(self, path: str | os.PathLike) -> None:
        """Write the chat to a file of JSON lines: its settings, then a turn a line. The file is the old one or all new."""
        path = Path(path)
        settings = _Settings(self.system, self.memory, self.context_length, self.last, len(self.turns))
        lines = (json.dumps(asdict(line), ensure_ascii=False) for line in (settings, *self.turns))
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as stage:
            fresh = Path(stage, "fresh")
            fresh.write_bytes("".join(f"{line}\n" for line in lines).encode())
            fresh.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike, model: TransformerLM | Writer, tokenizer: Tokenizer | None = None) -> "Chat":
        """Return the chat that `save` wrote, to go on with any model. ValueError that names the file if it is damaged.

        Figures of its turns are those of the model that wrote them.
        """
        settings, *turns = read_json_lines(path, _line)
        try:
            _check_tree(settings, turns)
            chat = cls(
                model, tokenizer,
                system=settings.system, memory=settings.memory, context_length=settings.context_length,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{path} holds no chat that can go on here: {error}") from None
        chat.turns, chat.last = turns, settings.last
        return chat


@dataclass(frozen=True)
class _Shown:
    """What the model is shown of a path."""

    prompt: Prompt
    n_forgotten: int
    summary: str
    seconds: float  # that it took to make


@dataclass(frozen=True)
class _Settings:
    """The first line of a chat's file."""

    system: str
    memory: Literal["drop", "summarise"]
    context_length: int | None
    last: int | None
    n_turns: int

    def __post_init__(self):
        check_fields(self, last=(0,), n_turns=(0,))


def _line(**fields: Any) -> _Settings | Turn:
    return _Settings(**fields) if "n_turns" in fields else Turn(**fields)


def _check_tree(settings: _Settings | Turn, turns: list[_Settings | Turn]) -> None:
    """Raise ValueError unless the lines of a file are settings, and as many turns in order, of which each answers another."""
    if not isinstance(settings, _Settings) or not all(isinstance(turn, Turn) for turn in turns):
        raise ValueError("the first line, and no other, must hold its settings")
    if len(turns) != settings.n_turns:
        raise ValueError(f"it has {len(turns)} turns, and had {settings.n_turns} when it was written")
    if settings.last is not None and settings.last >= len(turns):
        raise ValueError(f"its path ends at turn {settings.last}, which it has not")
    depths: list[int] = []
    for number, turn in enumerate(turns):
        if turn.id != number or (turn.parent is not None and turn.parent >= number):
            raise ValueError(f"turn {number} stands in another's place, or before the one that it follows")
        depths.append(0 if turn.parent is None else depths[turn.parent] + 1)
        if turn.role != ("user", "assistant")[depths[number] % 2]:
            raise ValueError(f"turn {number} is the {turn.role}'s, and so is the one before it, or there is none")
        if turn.n_forgotten % 2 or turn.n_forgotten > depths[number]:
            raise ValueError(f"turn {number} was written without {turn.n_forgotten} turns: no pairs of those before it")
