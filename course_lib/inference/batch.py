"""A batch that texts join and leave at any step: what a server writes many people's texts with (Orca, Yu et al., OSDI 2022).

`roll_out` begins all texts together and is done when the last one is. Here a new text is read by itself, its keys and values
are put beside those of the others, and from the next step on it is written with them; one that ends, or that nobody wants any
more, makes room at once. As in `rollouts`, all texts go on in the same column, and what a row has on its left is padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.inference.blocked import blocked
from course_lib.inference.generation import Rule, Sampling, banned_rows, known_ids, ruled
from course_lib.inference.rollouts import read_columns

__all__ = ["Batch", "Text", "Token"]


@dataclass(frozen=True)
class Token:
    """A token that was written, and if the text asks for it, log-probabilities: of the model at temperature 1, without a rule.

    `likeliest` are the ids that were likeliest there and theirs, the likeliest first.
    """

    id: int
    log_prob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Text:
    """A text in a batch: how it is written, and the ids `written` so far, with the stop id if one ended it."""

    max_new_tokens: int
    sampling: Sampling
    stop_ids: frozenset[int]
    rule: Rule | None
    generator: torch.Generator | None
    n_likeliest: int | None
    n_read: int  # how many ids the cache holds of it
    unread: int  # the id that is read next
    written: list[int] = field(default_factory=list)

    @property
    def ended(self) -> str | None:
        """Why nothing more is written: "stop" after a stop id, "length" after `max_new_tokens`; None: it goes on."""
        if self.written and self.written[-1] in self.stop_ids:
            return "stop"
        return "length" if len(self.written) == self.max_new_tokens else None


class Batch:
    """Up to `n_rows` texts of up to `n_columns` tokens each, prompt and answer together, written token by token.

    Its cache is as large as it ever gets from the beginning: 2 · layers · n_rows · kv heads · n_columns · d_head numbers, of
    which a system hands out only what is written to. `n_columns` is at most the model's context, which is the default. One of
    `banned_ids` is never drawn. The matrices are copied, see `blocked`.
    """

    def __init__(
        self, model: TransformerLM, n_rows: int, n_columns: int | None = None, *, banned_ids: Sequence[int] = ()
    ):
        check("n_rows", n_rows)
        check("n_columns", n_columns, int | None, 1, model.config.context_length)
        self.n_rows, self.n_columns = n_rows, n_columns or model.config.context_length
        self.texts: list[Text] = []  # in the order of their rows
        self._model, self._banned = blocked(model, n_rows), banned_rows(model, banned_ids)
        self._cache = model.new_cache(n_rows, self.n_columns)
        self._end = 0  # the column that is filled next; all before it hold numbers in every row, those of padding too

    @torch.inference_mode()
    def add(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling = Sampling(),
        *,
        stop_ids: frozenset[int] = frozenset(),
        rule: Rule | None = None,
        generator: torch.Generator | None = None,
        n_likeliest: int | None = None,
    ) -> Text:
        """Begin a text that goes on from `prompt` (ids) as `generate` does, whoever else is in the batch, and return it.

        With `n_likeliest`, its tokens come with log-probabilities, and with those of so many others. ValueError for a prompt
        that is empty or leaves less than `max_new_tokens` of the columns, an id that the model has not, or a full batch.
        """
        check("max_new_tokens", max_new_tokens)
        check("n_likeliest", n_likeliest, int | None, 0, self._model.config.vocab_size)
        if len(self.texts) == self.n_rows:
            raise ValueError(
                f"the batch is full: it has {self.n_rows} rows; remove a text, or wait until one has ended"
            )
        if not 0 < len(prompt) <= self.n_columns - max_new_tokens:
            raise ValueError(
                f"the prompt must have 1 to {self.n_columns - max_new_tokens} tokens, not {len(prompt)}: "
                f"{max_new_tokens} of {self.n_columns} are for what is written"
            )
        *read, unread = known_ids(self._model, "the prompt", prompt)
        stop_ids = frozenset(known_ids(self._model, "stop_ids", stop_ids))
        self._shift(max(len(read) - self._end, 0))
        row, start = len(self.texts), self._end - len(read)
        for layer in self._cache:  # what is masked counts 0 times, which is a number only of a number
            layer.keys_values[:, row, :, :start] = 0
        if read:
            cache = [layer.part(slice(row, row + 1), slice(start, self._end)) for layer in self._cache]
            self._model.residual(torch.tensor([read], device=self._banned.device), cache)
        text = Text(max_new_tokens, sampling, stop_ids, rule, generator, n_likeliest, len(read), unread)
        self.texts.append(text)
        return text

    def remove(self, text: Text) -> None:
        """Take a text out of the batch; one that is not in it any more may be named too."""
        if text not in self.texts:
            return
        row, last = self.texts.index(text), self.texts.pop()
        if last is not text:
            self.texts[row] = last
            for layer in self._cache:
                layer.keys_values[:, row, :, : self._end] = layer.keys_values[:, len(self.texts), :, : self._end]
        if not self.texts:
            self._end = 0

    @torch.inference_mode()
    def step(self) -> dict[Text, Token | Exception]:
        """Write a token of every text, and return it; a text that has ended leaves the batch.

        A text whose rule fails, or leaves no token, gets the exception instead, and leaves too. FloatingPointError if the
        model's logits are no numbers.
        """
        texts = list(self.texts)
        if not texts:
            return {}
        logits = self._read()
        allowed, failed = logits.index_fill(-1, self._banned, -torch.inf), {}
        for row, text in enumerate(texts):
            if text.rule is not None:
                try:
                    allowed[row] = ruled(text.rule, text.written, allowed[row])
                except Exception as error:  # a rule is anybody's code, and the other texts are not to suffer from it
                    failed[text] = error
        got = {}
        for row, (text, id) in enumerate(zip(texts, self._draw(allowed), strict=True)):
            if text in failed:
                got[text] = failed[text]
                continue
            text.written.append(id)
            text.unread, text.n_read = id, text.n_read + 1
            got[text] = _token(id, logits[row], text.n_likeliest)
        for text in texts:
            if text in failed or text.ended:
                self.remove(text)
        return got

    def _read(self) -> Tensor:
        """Read the last token of each text, and return the logits (row, vocab) of the next one."""
        first = self._end - max(text.n_read for text in self.texts)  # the first column that is not padding in all rows
        if first and (self._end == self.n_columns or 2 * first > self._end):
            self._shift(-first)
            first = 0
        lengths = [text.n_read for text in self.texts]
        rows, columns = slice(len(self.texts)), slice(first, self._end + 1)
        cache = [layer.part(rows, columns, self._end - first) for layer in self._cache]
        ids = torch.tensor([[text.unread] for text in self.texts], device=self._banned.device)
        padding = self._end - first - torch.tensor(lengths, device=ids.device)
        stream = read_columns(self._model, ids, len({*lengths}) > 1, padding, cache)
        self._end += 1
        return self._model.unembed(stream).float()

    def _draw(self, logits: Tensor) -> list[int]:
        """Return an id for each row of `logits` (row, vocab), drawn as its text wants it; equal wishes are drawn together."""
        noise = torch.cat([torch.rand(1, generator=text.generator) for text in self.texts]).to(logits.device)
        drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
        for sampling in {text.sampling for text in self.texts}:
            rows = [row for row, text in enumerate(self.texts) if text.sampling == sampling]
            drawn[rows] = sampling.pick(logits[rows], noise[rows])
        return drawn.tolist()

    def _shift(self, columns: int) -> None:
        """Move all texts to the right by some `columns`, or if that is negative to the left."""
        if not columns:
            return
        first, rows = max(-columns, 0), len(self.texts)
        for layer in self._cache:
            moved = layer.keys_values[:, :rows, :, first : self._end].clone()
            layer.keys_values[:, :rows, :, first + columns : self._end + columns] = moved
            if columns > 0:
                layer.keys_values[:, :rows, :, :columns] = 0
        self._end += columns


def _token(id: int, logits: Tensor, n_likeliest: int | None) -> Token:
    if n_likeliest is None:
        return Token(id)
    log_probs = logits.log_softmax(dim=-1)
    likeliest = log_probs.topk(n_likeliest)
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    return Token(id, float(log_probs[id]), tuple(pairs))
