"""Answers that rest on passages: each says which one, so that it can be opened; or none, where nothing fits.

    write_answers()     a model's answers to many questions, each after its passages
    quote()             the peer without a language model: the line that is nearest to the question
    best_threshold()    below which score a question is better refused, and refusals(), what that is worth
    Answers             all of it for one question: search, refuse or write, cite

A model of 135 million weights neither keeps to the passage nor stops by itself. So the beginning of its reply is given, up to
an opening quotation mark, and it writes to the closing one. Which passage an answer rests on is not asked of it either: it is
the one that the answer's words stand in, and `None` says that they stand in none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from course_lib.applications.retrieval import Chunk, Search, SentenceEncoder, asked, words
from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_texts
from course_lib.inference import roll_out
from course_lib.inference.generation import chat_prompt, tokenless_ids
from course_lib.tokenization import Tokenizer

__all__ = [
    "Answer", "Answers", "Refusals", "best_threshold", "cited", "confidence", "prompt", "quote", "refusals", "write_answers",
]  # fmt: skip

_LENGTH = 20  # tokens of an answer
_AT_ONCE = 8  # prompts
_END = re.compile(r'["“”\n]')  # of a quotation


@dataclass(frozen=True)
class Answer:
    """What is answered, the passages that it was written after, and which of them it rests on, counted from 0.

    A refused question has no `text` and no passages; a model that writes nothing has refused, too.
    """

    text: str
    passages: tuple[Chunk, ...] = ()
    source: int | None = None

    @property
    def refused(self) -> bool:
        """Whether there is no answer."""
        return not self.text

    def __str__(self) -> str:
        if self.refused:
            return "I find no passage that answers this."
        return self.text if self.source is None else f"{self.text} [{self.passages[self.source].place}]"


def prompt(tokenizer: Tokenizer, question: str, passages: Sequence[Chunk] = ()) -> list[int]:
    """Return the ids of a chat that asks `question` after `passages`, numbered if there are several, to within the reply."""
    question = asked(question)
    if not passages:
        text, begun = f"Answer briefly: {question}", 'It is "'
    elif len(passages) == 1:
        text = f"{passages[0].text}\n\nAccording to this passage, answer briefly: {question}"
        begun = 'According to the passage, it is "'
    else:
        shown = "\n\n".join(f"[{number}] {passage.text}" for number, passage in enumerate(passages, 1))
        text = f"{shown}\n\nAccording to these passages, answer briefly: {question}"
        begun = 'According to the passages, it is "'
    return tokenizer.encode(chat_prompt(tokenizer, [{"role": "user", "content": text}]) + begun)


def write_answers(
    model: TransformerLM,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[Sequence[Chunk]],
    max_new_tokens: int = _LENGTH,
) -> list[Answer]:
    """Return the model's greedy answer to each of `questions` after its `passages`, a list for each, which may be empty.

    Prompts of about the same length are answered at once. Passages that do not fit into the context are left out, the last
    first. ValueError if not even the question fits, or there are not as many lists as questions.
    """
    check_texts("questions", questions)
    if len(questions) != len(passages):
        raise ValueError(f"{len(questions)} questions need as many lists of passages, not {len(passages)}")
    room = model.config.context_length - max_new_tokens
    fitting = [_fitting(tokenizer, *pair, room) for pair in zip(questions, passages, strict=True)]
    stops = _stop_ids(tokenizer)
    banned = tokenless_ids(model, tokenizer)
    order = sorted(range(len(questions)), key=lambda row: len(fitting[row][0]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), _AT_ONCE):
        rows = order[start : start + _AT_ONCE]
        written = roll_out(
            model, [fitting[row][0] for row in rows], max_new_tokens, stop_ids=stops, banned_ids=banned
        ).answers
        for row, ids in zip(rows, written, strict=True):
            kept = fitting[row][1]
            text = _text(tokenizer, ids)
            answers[row] = Answer(text, kept, cited(text, kept))
    return [answers[row] for row in range(len(questions))]


def _fitting(tokenizer: Tokenizer, question: str, passages: Sequence[Chunk], room: int) -> tuple[list[int], tuple]:
    """Return a prompt of at most `room` tokens, and those of `passages` that it holds."""
    for n_kept in range(len(passages), -1, -1):
        ids = prompt(tokenizer, question, passages[:n_kept])
        if len(ids) <= room:
            return ids, tuple(passages[:n_kept])
    raise ValueError(f"the question has {len(ids)} tokens with its chat; the context leaves {room}")


@lru_cache(maxsize=4)
def _stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    ends = (id for token, id in tokenizer.vocab.items() if _END.search(tokenizer.decode([id])))
    return frozenset((*ends, *tokenizer.end_ids))


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    ids = [id for id in ids if id not in tokenizer.end_ids]
    return _END.split(tokenizer.decode(ids))[0].strip(" ,;:")


def cited(answer: str, passages: Sequence[Chunk]) -> int | None:
    """Return the index of the passage in which most words of `answer` stand, the first of equals; None if in none.

    Words are as `retrieval.words` has them, each counted once. Little words count too, so a long answer is hardly ever without
    a source: what is cited can be opened, and whether it says so is for the reader to see.
    """
    said = set(words(answer))
    shares = [len(said & set(words(passage.text))) for passage in passages]
    return shares.index(max(shares)) if any(shares) else None


def quote(encoder: SentenceEncoder, question: str, passages: Sequence[Chunk]) -> Answer:
    """Return the line of `passages` whose vector is nearest to that of `question`, as an answer. No passages: refused."""
    check("question", question, str)
    lines = [(line, source) for source, passage in enumerate(passages) for line in passage.text.splitlines()]
    if not lines:
        return Answer("")
    vectors = encoder([question, *(line for line, _ in lines)])
    line, source = lines[int((vectors[1:] @ vectors[0]).argmax())]
    return Answer(line, tuple(passages), source)


# ---------------------------------------------------------------- refusal


def confidence(search: Search, question: str) -> float:
    """Return the share, 0 to 1, of the question's rare words that stand in the best chunk by words, see `WordIndex.coverage`.

    A question in other words than the passage's scores as low as one without an answer: no index of words tells them apart.
    The largest cosine of MiniLM's vectors does not either, and parted questions on the plays worse.
    """
    best, _ = search.words.nearest(asked(question), 1)
    return search.words.coverage(question, best[0]) if best else 0.0


class Refusals(NamedTuple):
    """What refusals are worth: of the refused, the share that had no answer; of those without one, the share refused."""

    precision: float  # NaN if nothing is refused
    recall: float


def best_threshold(fits: Sequence[float], misfits: Sequence[float]) -> float:
    """Return the threshold below which to refuse, from the scores of questions with an answer (`fits`) and without one.

    It is the one with the largest mean of the shares that are treated rightly in both kinds, however many there are of each.
    Of equals it is the lowest: what is in doubt is answered. ValueError if one kind is missing or a score is not finite.
    """
    fits, misfits = _scores("fits", fits), _scores("misfits", misfits)
    tried = torch.cat([fits, misfits]).unique()
    gains = [((fits >= limit).double().mean() + (misfits < limit).double().mean()).item() for limit in tried]
    return tried[max(range(len(gains)), key=gains.__getitem__)].item()


def refusals(fits: Sequence[float], misfits: Sequence[float], threshold: float) -> Refusals:
    """Return precision and recall of refusing what scores below `threshold`. Raises as `best_threshold` does."""
    fits, misfits = _scores("fits", fits), _scores("misfits", misfits)
    wrongly, rightly = (fits < threshold).sum().item(), (misfits < threshold).sum().item()
    refused = wrongly + rightly
    return Refusals(rightly / refused if refused else float("nan"), rightly / len(misfits))


def _scores(name: str, scores: Sequence[float]) -> torch.Tensor:
    scores = torch.as_tensor(scores, dtype=torch.float64)
    if scores.ndim != 1 or not len(scores) or not scores.isfinite().all():
        raise ValueError(f"{name} must be a list of finite scores, at least one")
    return scores


# ---------------------------------------------------------------- all together


@dataclass(frozen=True)
class Answers:
    """Answers from a `search` by a model: `n_passages` each, and a refusal where the confidence is below `threshold`."""

    search: Search
    model: TransformerLM
    tokenizer: Tokenizer
    threshold: float
    n_passages: int = 1

    def __call__(self, question: str) -> Answer:
        """Return the answer to `question`, which may be a refusal. ValueError if it is empty."""
        if confidence(self.search, question) < self.threshold:
            return Answer("")
        found = [hit.chunk for hit in self.search.both(question, self.n_passages)]
        return write_answers(self.model, self.tokenizer, [question], [found])[0]
