"""Exercise 05.4: the mask of the answers, one position off."""

import torch
from torch import Tensor

from course_lib.corpora.packing import IGNORED
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_TARGETS"]

_CHATS = (  # A: a token that the assistant says, u: another one, =: padding; the last chat begins inside an answer
    ("uuuAAAuuAA", "uuuuAAAA==", "uuAAuuuAA="),
    ("uuuAAuuAAAAA", "uuuAA======="),
    ("uAuAA=", "uuuAA=", "uuAAAA", "AAuuAA"),
)
_ZEROS = [1, 3]  # positions of a real token that has the padding's id, as the end token often has


def _chats(generator: torch.Generator) -> list[tuple]:
    """Return ids and trained (batch, position): chats of different lengths, with one answer or two."""
    batches = []
    for chats in _CHATS:
        tokens = torch.tensor([list(map(ord, chat)) for chat in chats])
        ids = torch.randint(1, 1000, tokens.shape, generator=generator).masked_fill(tokens == ord("="), 0)
        ids[:, _ZEROS] = 0
        batches.append((ids, tokens == ord("A")))
    return batches


def _token_by_token(ids: Tensor, trained: Tensor) -> Tensor:
    """Go from each trained token to the position before it, where it is asked for; the first has none."""
    targets = torch.full_like(ids, IGNORED)
    for row, position in trained.nonzero().tolist():
        if position > 0:
            targets[row, position - 1] = ids[row, position]
    return targets


def _shifted(
    targets: str = "ids[:, 1:].masked_fill(~trained[:, 1:], -100)",
    then: str = "",
    result: str = "targets",
    to: str = "targets[:, :-1]",
    fill: str = "-100",
) -> str:
    """Return the cell of exercise 05.4 with its steps as given."""
    then = f"    targets = {then}\n" if then else ""
    return f'''\
def answer_targets(ids, trained):
    """The targets (batch, position) of chats: at each position the token that follows, or -100.

    ids (batch, position), int64; trained (batch, position), bool, is True at the tokens that the
    assistant says, with the one that ends its turn. A token is a target if it is trained on, and
    if one stands before it. At all other positions the target is -100: `F.cross_entropy` leaves
    those out. Chats shorter than the batch are filled up with padding, which is not trained on.
    """
    targets = torch.full_like(ids, {fill})  # nothing follows the last position
    {to} = {targets}
{then}    return {result}
'''


REPAIR_TARGETS = Exercise(
    id="05.4",
    kind="repair",
    title="The mask of an answer, one position off",
    section="What is trained on",
    answer="answer_targets",
    results=("targets",),
    inputs=_chats,
    expected=_token_by_token,
    stub=_shifted("ids[:, 1:]", then="targets.masked_fill(~trained, -100)"),
    solution=_shifted(),
    why="A target stands one position before its own token: at position i it is token i + 1. The mask has to make the same "
    "step, or it asks whether the token that is *seen* is the assistant's, where it should ask about the one that is wanted. "
    "Unshifted, it never asks for the first token of an answer, and asks for what stands behind the last: in a chat that is "
    "the mark that opens the user's next turn. The loss falls all the same: only a look at single targets shows it.",
    hints=(
        "Write down a chat of five tokens, the last two of them trained on. Which targets come out, and at which positions?",
        "Each target was moved one position to the left of its token. What happened to the mark that says it is trained on?",
        "Mark and token belong together until the token is a target: mask first and shift then, or shift both.",
    ),
    mistakes=(
        Mistake(
            _shifted("ids[:, 1:]"),
            "The mask is gone, so the prompts and the padding are trained on as well. Only its position was wrong.",
        ),
        Mistake(
            _shifted("ids", then="targets.masked_fill(~trained, -100)", to="targets[:]"),
            "Now nothing is shifted: each position is asked for its own token, which it can see. The targets were at the right "
            "positions; it is the mask that was not.",
        ),
        Mistake(
            _shifted("ids[:, :-1].masked_fill(~trained[:, :-1], -100)", to="targets[:, 1:]"),
            "Mask and tokens are shifted together, but the wrong way: each position is asked for the token *before* it.",
        ),
        Mistake(
            _shifted("ids[:, :-1]", then="targets.masked_fill(~trained, -100)", to="targets[:, 1:]"),
            "Now the tokens are shifted the wrong way: each position is asked for the one *before* it. They were right; it is "
            "the mask that was not.",
        ),
        Mistake(
            _shifted("ids[:, 1:]", then="targets.masked_fill(~trained.roll(1, dims=1), -100)"),
            "The mask is shifted, but the wrong way: it is now two positions behind the targets. The mark at i + 1 belongs to "
            "the target at i.",
        ),
        Mistake(
            _shifted("ids[:, 2:].masked_fill(~trained[:, 2:], -100)", to="targets[:, :-2]"),
            "Mask and tokens belong together, but they are shifted twice: each position is asked for the token after the next.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~trained[:, 1:], -100).roll(-1, dims=1)"),
            "Mask and tokens belong together, but they are shifted twice, and `roll` brings round what falls out.",
        ),
        Mistake(
            _shifted("ids.masked_fill(~trained, -100).roll(-1, dims=1)", to="targets[:]"),
            "Nearly: `roll` brings the first token round to the last position. Where a row begins inside an answer, that is a "
            "target, and nothing follows the last position.",
        ),
        Mistake(
            _shifted("ids.masked_fill(~trained, -100).roll(-1, dims=0)", to="targets[:]"),
            "That is shifted along the batch: each chat gets the targets of the next one. Positions are the second axis.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(trained[:, 1:], -100)"),
            "The mask is at the right position, and the wrong way round: the prompts are trained on, and the answers are not.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~(trained[:, 1:] & trained[:, :-1]), -100)"),
            "Both tokens have to be trained on here, the one that is seen and the one that is wanted. So an answer's first "
            "token is still missing: what comes before it is the prompt.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~(trained[:, 1:] | trained[:, :-1]), -100)"),
            "One of the two tokens has to be trained on here, the one that is seen or the one that is wanted. So what stands "
            "behind an answer is still a target.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~(trained[:, 1:] & F.pad(trained[:, 2:], (0, 1))), -100)"),
            "The last token of each answer is missing. It ends the turn: a model that is never trained on it does not stop.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~trained[:, 1:] | (ids[:, 1:] == 0), -100)"),
            "What has the id 0 is left out as if it were padding. It may be a token of an answer, and often the one that ends "
            "it; padding is not marked in `trained` anyway.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)"),
            "Only what has the id 0 is left out. The prompts are trained on, and answers that hold a 0 lose it.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~(trained[:, 1:].cumsum(dim=1) > 0), -100)"),
            "All that follows the first trained token is a target: the user's later turns are as well, and so is the padding.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~trained[:, 1:], 0)", fill="0"),
            "The targets are right, but the rest is 0. That is a token like others, which the model would be trained to write: "
            "only −100 is left out.",
        ),
        Mistake(
            _shifted("ids[:, 1:].masked_fill(~trained[:, 1:], -1)", fill="-1"),
            "The targets are right, but the rest is −1. `F.cross_entropy` leaves out −100.",
        ),
        Mistake(
            _shifted(fill="0"),
            "The last position has the target 0, which is a token like others. Nothing follows it: −100.",
        ),
        Mistake(
            _shifted(result="targets[:, :-1]"),
            "The last position is missing. Nothing follows it, so its target is −100; the shape stays that of `ids`.",
        ),
        Mistake(
            _shifted(result="targets[targets != -100]"),
            "Those are the targets without their positions. Return one for each position, −100 where there is none.",
        ),
        Mistake(
            _shifted(result="targets != -100"),
            "That says where the targets are. Return the targets: the tokens themselves.",
        ),
    ),
)
