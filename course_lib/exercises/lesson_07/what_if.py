"""Exercise 07.4: what if the prompt asks for the form that the mask enforces?"""

import functools
import math
import re

import torch

from course_lib.exercises.real_model import lesson_names
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["FORM", "QUESTION", "WHAT_IF", "allowed_share"]

QUESTION = "On which day did the first human walk on the Moon?"
FORM = " Answer with the date only, written as in 1815-06-18."
_PATTERN = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}"


@functools.cache
def allowed_share(message: str) -> float:
    """Return how probable SmolLM2 finds it, at the first token of its reply, that it begins a date: in plain numbers."""
    names = lesson_names()
    tokenizer = names["tokenizer"]
    text = f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
    text = f"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n{text}"
    logits = names["model"](torch.tensor([tokenizer.encode(text)], device=names["device"]))[0, -1].float().tolist()
    largest = max(logits)
    parts = [math.exp(logit - largest) for logit in logits]
    return sum(parts[id] for id in _first_tokens()) / sum(parts)


@functools.cache
def _first_tokens() -> list[int]:
    """Return the tokens with which a date may begin: filled up to a date's length, a regular expression matches."""
    tokenizer = lesson_names()["tokenizer"]
    pieces = {id: tokenizer.decode_bytes([id]) for id in tokenizer.vocab.values()}
    return [id for id, piece in pieces.items() if piece and re.fullmatch(_PATTERN, piece + b"0000-00-00"[len(piece) :])]


def _times_as_much() -> float:
    return allowed_share(QUESTION + FORM) / allowed_share(QUESTION)


_EXPERIMENT = f'''\
from course_lib.applications.constraints import Constraint
from course_lib.inference.generation import chat_prompt

moon_question = "{QUESTION}"
its_form = "{FORM}"
may_begin = Constraint("{_PATTERN.decode()}", tokenizer).allowed(0).to(device)  # (vocab,)


def next_logits(message):  # those of the reply's first token, (vocab,)
    text = chat_prompt(tokenizer, [{{"role": "user", "content": message}}])
    return model(torch.tensor([tokenizer.encode(text)], device=device))[0, -1].float()
'''


def _measured(
    share: str = "next_logits(message).softmax(dim=-1)[may_begin].sum()",
    answer: str = "share(moon_question + its_form) / share(moon_question)",
) -> str:
    """Return the cell of exercise 07.4 with the share and the comparison as given."""
    return f"""\
{_EXPERIMENT}

def share(message):
    return {share}


times_as_much = ({answer}).item()
"""


WHAT_IF = Exercise(
    id="07.4",
    kind="why",
    title="What if the prompt asks for the form?",
    section="What a mask costs",
    answer="times_as_much",
    results=("times_as_much",),
    expected=_times_as_much,
    names=lesson_names,
    tolerance=0.02,
    stub=f"""\
{_EXPERIMENT}

# By what factor does `its_form`, put behind the question, raise the probability of `may_begin`?
times_as_much = ...
""",
    solution=_measured(),
    why="A date begins with a digit, and the ten digits have 2.5 % of the probability: the model would say *The first human "
    "walked on*. With the form they have 18 %, seven times as much; with three other questions it was 11, 44 and 11 times. "
    "The mask makes a digit certain in both cases. But the 97 %, or 82 %, that it takes away are what the model would have "
    "said, and the more it takes away, the farther the text is led from what the model was trained to write. So ask for the "
    "form as well as enforcing it. It says nothing about the content: the one prompt gives 1969-01-24, and the other "
    "1815-06-18, which is copied from the example.",
    hints=(
        "Two messages, with the form behind the question and without it; of each the probability of all allowed tokens.",
        "Logits become probabilities over the *whole* vocabulary; `may_begin` picks out some of them, and their sum is a "
        "share.",
        "Divide the share with the form by the share without.",
    ),
    mistakes=(
        Mistake(
            _measured(answer="share(moon_question) / share(moon_question + its_form)"),
            "The right quotient upside down: the share with the form is the larger one.",
        ),
        Mistake(
            _measured(answer="share(moon_question + its_form) - share(moon_question)"),
            "That is by how much the share grows. How many times as large is it?",
        ),
        Mistake(
            _measured(answer="share(moon_question + its_form)"),
            "That is the share with the form. How many times as large is it as the one without?",
        ),
        Mistake(
            _measured(answer="share(moon_question)"),
            "That is the share without the form. How many times as large is the one with it?",
        ),
        Mistake(
            _measured(share="next_logits(message).softmax(dim=-1)[~may_begin].sum()"),
            "Those are the tokens that the mask takes *away*. Compare the share of the allowed ones.",
        ),
        Mistake(
            _measured(share="next_logits(message)[may_begin].sum()"),
            "The logits are added as they are. Probabilities are what the softmax makes of them.",
        ),
        Mistake(
            _measured(share="next_logits(message)[may_begin].exp().sum()"),
            "That is exp of the logits, without the sum over the vocabulary that a softmax divides by. It is not the same for "
            "both prompts.",
        ),
        Mistake(
            _measured(share="next_logits(message)[may_begin].softmax(dim=-1).sum()"),
            "The softmax runs over the allowed tokens alone, and so they have all of it, with either prompt. That is what the "
            "mask does; asked for is what they had before.",
        ),
        Mistake(
            _measured(share="next_logits(message).softmax(dim=-1)[may_begin].max()"),
            "That is the likeliest of the allowed tokens alone. Add up all of them.",
        ),
        Mistake(
            _measured(answer="share(its_form) / share(moon_question)"),
            "The question is missing in front of the form. Put the form *behind* it.",
        ),
        Mistake(
            _measured(answer="share(its_form + moon_question) / share(moon_question)"),
            "The form stands before the question, worth comparing! The answer to put in is with the form behind it.",
        ),
        Mistake(
            _measured(answer="(share(moon_question + its_form) / share(moon_question)).log2()"),
            "That is how many bits the form saves. How many *times* as much probability is that?",
        ),
    ),
)
