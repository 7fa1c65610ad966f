"""How good is it, and is it better than the other? Ways to score answers, and what a score on some dozen items is worth.

- multiple choice: which of the given answers is the likeliest, by four ways to compare answers of different lengths
- a verifier: of many answers, the first that passes a check
- a model as judge of two answers, and its biases
- paired tests: whether one system is better than another on the same items, and how many items that takes

For the interval around one score see `finetuning.intervals`; for the expected score of the best of n by any reward, a check or
a judge too, `alignment.best_of_n`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_texts
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference.generation import chat_prompt, known_ids
from course_lib.inference.rollouts import by_length
from course_lib.pretraining.evaluation import as_in_use
from course_lib.tokenization import Tokenizer

__all__ = [
    "HOW", "Judge", "LengthBias", "OptionScores", "PairedDifference", "PositionBias", "answer_log_probs", "binomial_tail",
    "first_verified", "items_needed", "judge", "length_bias", "mcnemar", "mcnemar_power", "paired_difference", "position_bias",
    "score_options",
]  # fmt: skip

Answer = TypeVar("Answer")
Judge = Callable[[str, str, str], float]
"""Of a question and two answers, a and b, the probability that a is better; such as `judge` with its first two filled in."""

_READ_AT_ONCE = 1024  # tokens


# ---------------------------------------------------------------- multiple choice

HOW = ("sum", "per token", "per byte", "against prior")
"""The ways to compare the log-probabilities of answers."""


@dataclass(frozen=True)
class OptionScores:
    """How likely a model finds each of some answers; all are (option,), on the CPU."""

    log_probs: Tensor  # float32: of the whole answer after the question, in nats
    prior: Tensor  # float32: of the whole answer after "Answer:" alone
    n_tokens: Tensor  # int64
    n_bytes: Tensor  # int64, in UTF-8

    def by(self, how: str) -> Tensor:
        """Return the score of each option (option,), `how` being one of HOW.

        "sum": the log-probability itself; every further token makes it less, so short answers win. "per token" and "per byte":
        divided by the length, which gives long words cheap ends (a byte is the same to all tokenizers). "against prior": less
        the prior, what the question adds (arXiv 2005.14165, section 2.4; 2104.08315).
        """
        check("how", how, str)
        scores = {
            "sum": self.log_probs,
            "per token": self.log_probs / self.n_tokens,
            "per byte": self.log_probs / self.n_bytes,
            "against prior": self.log_probs - self.prior,
        }
        if how not in scores:
            raise ValueError(f"how must be one of {HOW}, not {how!r}")
        return scores[how]


def score_options(model: TransformerLM, tokenizer: Tokenizer, question: str, options: Sequence[str]) -> OptionScores:
    """Return how likely `model` finds each of `options` after "Question: … Answer:", and after "Answer:" alone.

    ValueError for fewer than two options, an empty one, and texts that are longer than the model's context.
    """
    check_texts("options", options)
    if len(options) < 2 or not all(option.strip() for option in options):
        raise ValueError(f"there must be two options or more, and none empty: {list(options)}")
    answers = [f" {option.strip()}" for option in options]
    pairs = [_cut(tokenizer, f"Question: {question.strip()}\nAnswer:", answer) for answer in answers]
    alone = [_cut(tokenizer, "Answer:", answer) for answer in answers]
    scored = answer_log_probs(model, pairs + alone)
    sums = torch.stack([log_probs.sum() for log_probs in scored])
    n_tokens = torch.tensor([len(answer) for _, answer in pairs])
    n_bytes = torch.tensor([len(option.strip().encode()) for option in options])
    return OptionScores(sums[: len(options)], sums[len(options) :], n_tokens, n_bytes)


def answer_log_probs(model: TransformerLM, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Tensor]:
    """Return, of each (prompt, answer) in ids, the log-probability of every token of the answer: float32 (token,), on the CPU.

    ValueError for an empty prompt or answer, a pair longer than the model's context, and an id that the model has not;
    FloatingPointError if the model's logits are NaN or infinite.
    """
    for number, (prompt, answer) in enumerate(pairs):
        if not prompt or not answer or len(prompt) + len(answer) > model.config.context_length:
            raise ValueError(
                f"pair {number} has a prompt of {len(prompt)} tokens and an answer of {len(answer)}: "
                f"each must have one at least, and both together at most {model.config.context_length}"
            )
        known_ids(model, f"pair {number}", [*prompt, *answer])
    found: list[Tensor] = [torch.empty(0)] * len(pairs)
    device = model.device
    with as_in_use(model):
        for batch in by_length([len(prompt) + len(answer) for prompt, answer in pairs], _READ_AT_ONCE):
            longest = max(sum(map(len, pairs[number])) for number in batch)
            ids = torch.zeros(len(batch), longest, dtype=torch.long)  # padded behind, where no token of a text looks
            keep = torch.zeros(len(batch), longest, dtype=torch.bool)
            for row, number in enumerate(batch):
                prompt, answer = pairs[number]
                ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
                keep[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
            logits = model(ids.to(device), keep=keep.to(device)).float()
            wanted = ids.roll(-1, dims=1)[keep].to(device)
            log_probs = -F.cross_entropy(logits, wanted, reduction="none").cpu()
            if not log_probs.isfinite().all():
                raise FloatingPointError("the model's logits are no numbers")
            for number, part in zip(batch, log_probs.split([len(pairs[number][1]) for number in batch]), strict=True):
                found[number] = part
    return found


def _cut(tokenizer: Tokenizer, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the ids of `prompt` and of `answer` behind it. ValueError if one token spans both."""
    before, whole = tokenizer.encode_prompt(prompt), tokenizer.encode_prompt(prompt + answer)
    if whole[: len(before)] != before:
        raise ValueError(f"this tokenizer joins the end of the prompt and the answer {answer!r} into one token")
    return before, whole[len(before) :]


# ---------------------------------------------------------------- a verifier


def first_verified(answers: Iterable[Answer], accepts: Callable[[Answer], bool]) -> Answer | None:
    """Return the first of `answers` that `accepts` says yes to, or None; give a generator, and no more are made than needed.

    It is as good as its check: a wrong answer that passes is returned as gladly as a right one.
    """
    return next((answer for answer in answers if accepts(answer)), None)


# ---------------------------------------------------------------- a model as judge


def judge(model: TransformerLM, tokenizer: Tokenizer, question: str, a: str, b: str) -> float:
    """Return the probability that answer `a` is better than `b`, as a chat model says that is asked for one letter.

    It is that of "A" among the two letters, as its next token. Turn the order, and a fair judge says 1 less that. ValueError
    for a tokenizer without a chat template, one in which A and B are not a token each, and texts longer than the context.
    """
    request = (
        f"Question: {question}\n\nAnswer A: {a}\n\nAnswer B: {b}\n\n"
        "Which answer is better, A or B? Reply with one letter."
    )
    letters = [tokenizer.encode(letter) for letter in "AB"]
    if any(len(ids) != 1 for ids in letters):
        raise ValueError("this tokenizer has no token for the letter A or B")
    prompt = tokenizer.encode(chat_prompt(tokenizer, [{"role": "user", "content": request}]))
    with as_in_use(model):
        stream = model.residual(torch.tensor([prompt], device=model.device))[0, -1]
        for_a, for_b = model.unembed(stream).float()[[ids[0] for ids in letters]].tolist()
    return torch.tensor(for_a - for_b).sigmoid().item()


class PositionBias(NamedTuple):
    """What turning the order of two answers does to a judge."""

    first: float  # the share of all verdicts for what stands first: 0.5 of a fair judge
    first_interval: tuple[float, float]  # 95 %, over pairs
    contradicts: float  # the share of pairs of which it prefers another when they are turned
    contradicts_interval: tuple[float, float]


def position_bias(prefers: Judge, pairs: Sequence[tuple[str, str, str]]) -> PositionBias:
    """Return how `prefers` judges (question, answer, other answer) in both orders.

    A probability of just one half counts as half a verdict for the first. ValueError for fewer than two pairs, and a judge that
    says no probability.
    """
    _check_pairs(pairs)
    firsts, contradictions = [], []
    for question, a, b in pairs:
        straight, turned = _verdict(_said(prefers, question, a, b)), _verdict(_said(prefers, question, b, a))
        firsts.append((straight + turned) / 2)
        contradictions.append(float(straight + turned != 1))  # both for the first, or both for the second
    first, contradicts = (sum(values) / len(values) for values in (firsts, contradictions))
    return PositionBias(first, bootstrap_interval(firsts), contradicts, bootstrap_interval(contradictions))


class LengthBias(NamedTuple):
    """Whether a judge prefers what is longer."""

    longer: float  # the share of verdicts for the longer answer, in the mean of both orders: 0.5 if length is nothing
    longer_interval: tuple[float, float]  # 95 %, over pairs
    log_odds: float  # of the longer answer, in nats, in the mean of both orders: 0 if length is nothing
    log_odds_interval: tuple[float, float]


def length_bias(prefers: Judge, pairs: Sequence[tuple[str, str, str]]) -> LengthBias:
    """Return how `prefers` judges (question, answer, longer answer), the order turned and so taken out of account.

    The two should be as good as each other: pairs whose longer answer is better show no bias, but taste. ValueError for fewer
    than two pairs, one whose last answer is not the longer, and a judge that says no probability.
    """
    _check_pairs(pairs)
    longer, log_odds = [], []
    for number, (question, short, long) in enumerate(pairs):
        if len(long) <= len(short):
            raise ValueError(f"of pair {number}, the last answer must be the longer one")
        for_long = _said(prefers, question, long, short), 1 - _said(prefers, question, short, long)
        longer.append(sum(map(_verdict, for_long)) / 2)
        log_odds.append(sum(map(_log_odds, for_long)) / 2)
    means = (sum(values) / len(values) for values in (longer, log_odds))
    (share, odds), intervals = means, map(bootstrap_interval, (longer, log_odds))
    return LengthBias(share, next(intervals), odds, next(intervals))


def _check_pairs(pairs: Sequence[tuple[str, str, str]]) -> None:
    if len(pairs) < 2:
        raise ValueError(f"a bias needs at least two pairs, not {len(pairs)}")


def _said(prefers: Judge, question: str, a: str, b: str) -> float:
    probability = prefers(question, a, b)
    check("what the judge says", probability, float, 0, 1)
    return probability


def _verdict(probability: float) -> float:
    """Return 1 for the first answer, 0 for the second, one half for neither."""
    return 0.5 if probability == 0.5 else float(probability > 0.5)


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, 1e-12), 1 - 1e-12)  # a judge that rounds may say 1
    return math.log(bounded / (1 - bounded))


# ---------------------------------------------------------------- is a difference one?


class PairedDifference(NamedTuple):
    """By how much the second of two systems is better on the same items."""

    mean: float
    interval: tuple[float, float]  # 95 %, by the bootstrap over items


def paired_difference(first: Tensor | Sequence[float], second: Tensor | Sequence[float]) -> PairedDifference:
    """Return the mean of `second` less `first`, a number an item each, in the same order, and its interval.

    What makes an item hard for both falls out of the difference, so the interval is narrower than two intervals apart. Raises
    ValueError for fewer than two items, different lengths, and numbers that are not finite.
    """
    first, second = (torch.as_tensor(values).cpu().double() for values in (first, second))
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"both must have one number an item, not {tuple(first.shape)} and {tuple(second.shape)}")
    difference = second - first
    if not difference.isfinite().all():
        raise ValueError("scores must be finite: the mean of a NaN says nothing")
    return PairedDifference(difference.mean().item(), bootstrap_interval(difference))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test: `only_first` items only the first system has right, `only_second` the second.

    Items that both have right, or both wrong, say nothing of which is better. Of the others each is a coin's toss, if neither
    is: the two-sided probability of a split as uneven or more (McNemar 1947, Psychometrika 12; exact as a binomial test).
    """
    for name, value in (("only_first", only_first), ("only_second", only_second)):
        check(name, value, int, 0, 10**6)
    return min(1.0, 2 * binomial_tail(max(only_first, only_second), only_first + only_second, 0.5))


def mcnemar_power(n: int, only_first: float, only_second: float, level: float = 0.05) -> float:
    """Return how probably McNemar's exact test on `n` items has a p-value of at most `level`.

    `only_first` and `only_second` are the probabilities that an item is right for that system alone; their difference is that
    of the two accuracies. Nothing is approximated. ValueError for probabilities that are none, or together above 1.
    """
    check("n", n, int, 1, 10**4)
    check("level", level, float, None, 1)
    for name, value in (("only_first", only_first), ("only_second", only_second)):
        check(name, value, float, 0, 1)
    apart = only_first + only_second
    if not 0 < apart <= 1:
        raise ValueError(f"only_first and only_second must be above 0 and at most 1 together, not {apart:g}")
    n_apart = _binomial(n, apart)
    rejected = 0.0
    for m in (n_apart > 1e-12).nonzero()[:, 0].tolist():  # how many items are right for one alone
        tail = _binomial(m, 0.5).flip(0).cumsum(0)  # of 0 to m or more in m, from the end
        least = m + 1 - int((2 * tail <= level).sum())  # as many for one system have a p-value of at most the level
        split = _binomial(m, only_second / apart)
        rejected += n_apart[m].item() * (split[least:].sum() + split[: m + 1 - least].sum()).item()
    return min(1.0, rejected)


def items_needed(only_first: float, only_second: float, power: float = 0.8, level: float = 0.05) -> int:
    """Return on how many items the difference is found with probability `power`; see `mcnemar_power`.

    Found by halving: as the test counts in whole items, the power of some fewer may be above `power` again, by a point or so.
    ValueError if both probabilities are equal, for there is nothing to find, or if it takes more than 10,000 items.
    """
    check("power", power, float, level, 1 - 1e-6)
    if only_first == only_second:
        raise ValueError("of two systems that are as good as each other no number of items finds a difference")
    high, most = 1, 10**4
    while mcnemar_power(high, only_first, only_second, level) < power:
        if high == most:
            raise ValueError(f"that takes more than {most:,} items")
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if mcnemar_power(middle, only_first, only_second, level) < power:
            low = middle
        else:
            high = middle
    return high


def binomial_tail(at_least: int, n: int, p: float) -> float:
    """Return the probability of `at_least` successes or more in `n` independent trials of probability `p` each."""
    return min(1.0, _binomial(n, p)[max(at_least, 0) :].sum().item())


def _binomial(n: int, p: float) -> Tensor:
    """Return the probabilities of 0 to n successes in n trials of probability p: float64 (n + 1,)."""
    k = torch.arange(n + 1, dtype=torch.float64)
    p = torch.tensor(p, dtype=torch.float64)
    log_ways = torch.lgamma(k.new_tensor(n + 1.0)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return (log_ways + torch.special.xlogy(k, p) + torch.special.xlog1py(n - k, -p)).exp()
