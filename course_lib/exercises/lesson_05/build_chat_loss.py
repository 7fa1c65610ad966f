"""Exercise 05.5: the loss on which a model is fine-tuned to answer in chats."""

import math

import torch
from torch import nn

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_CHAT_LOSS"]

Turns = list[tuple[str, list[int]]]

_CHATS = (  # the role of each turn and the number of its tokens between the marks
    (("user", 3), ("assistant", 5)),
    (("user", 4), ("assistant", 1), ("user", 2), ("assistant", 6)),
    (("system", 5), ("user", 3), ("assistant", 4), ("user", 1), ("assistant", 2)),
    (("assistant", 2), ("user", 4), ("assistant", 5), ("user", 3)),
)
_START, _END, _ROLES, _FIRST_WORD = 0, 1, {"system": 2, "user": 3, "assistant": 4}, 5


class _Tiny(TransformerLM):
    """A model of one layer, with weights that are large enough for each token and each place to matter."""

    def __init__(self, vocab_size: int, generator: torch.Generator):
        with torch.random.fork_rng():  # an exercise leaves the seed alone that the learner has set
            super().__init__(TransformerConfig(vocab_size, 8, 1, 2, 12, 64))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.7, generator=generator)

    def __repr__(self) -> str:
        return f"a TransformerLM of {self.config.vocab_size} tokens"


def _models_and_chats(generator: torch.Generator) -> list[tuple]:
    """Return a model and the turns of a chat, for each stage."""
    cases = []
    for vocab_size, chat in zip((13, 17, 11, 19), _CHATS, strict=True):
        turns = []
        for role, length in chat:
            words = torch.randint(_FIRST_WORD, vocab_size, (length,), generator=generator).tolist()
            turns.append((role, [_START, _ROLES[role], *words, _END]))
        cases.append((_Tiny(vocab_size, generator), turns))
    return cases


def _token_by_token(model: TransformerLM, turns: Turns) -> float:
    """Ask, for each token that the assistant says, what probability it had after all those before it: plain numbers."""
    before, costs = [], []
    for role, ids in turns:
        for place, token in enumerate(ids):
            if role == "assistant" and place >= 2:
                parts = [math.exp(logit) for logit in model(torch.tensor([before]))[0, -1].tolist()]
                costs.append(-math.log(parts[token] / sum(parts)))
            before.append(token)
    return sum(costs) / len(costs)


_SIGNATURE = '''\
def chat_loss(model, turns):
    """The mean cross-entropy of what the assistant says, in nats per trained token: a number.

    turns are (role, ids), the whole chat in order: role is "system", "user" or "assistant", and ids
    are a list of tokens, of which the first two open the turn and the last one ends it. All that
    the assistant says is trained on, with the token that ends its turn, but without the two that
    open it: these stand in the prompt. model(ids), with ids (1, position), gives the logits
    (1, position, vocab).
    """
'''
_SAID = '[False, False] + [role == "assistant"] * (len(turn) - 2)'


def _masked(
    trained: str = _SAID,
    predictions: str = "logits[:-1]",
    targets: str = "ids[0, 1:]",
    result: str = "losses[trained[1:]].mean()",
) -> str:
    """Return the cell of exercise 05.5, in which the chat goes through the model once, with its steps as given."""
    return f"""\
{_SIGNATURE}    ids, trained = [], []
    for role, turn in turns:
        ids += turn
        trained += {trained}
    ids, trained = torch.tensor([ids]), torch.tensor(trained)
    logits = model(ids)[0]  # (position, vocab)
    losses = F.cross_entropy({predictions}, {targets}, reduction="none")
    return {result}
"""


def _answer_by_answer(result: str = "torch.cat(costs).mean()", before: str = "before + turn") -> str:
    """Return a cell in which each answer goes through the model by itself, behind the tokens `before`."""
    return f"""\
{_SIGNATURE}    before, costs = [], []
    for role, turn in turns:
        if role == "assistant":
            ids = torch.tensor([before + turn])
            losses = F.cross_entropy(model(ids)[0, :-1], ids[0, 1:], reduction="none")
            costs.append(losses[2 - len(turn):])
        before = {before}
    return {result}
"""


BUILD_CHAT_LOSS = Exercise(
    id="05.5",
    kind="build",
    title="The masked loss of a chat",
    section="What is trained on",
    answer="chat_loss",
    results=("loss",),
    inputs=_models_and_chats,
    expected=_token_by_token,
    tolerance=3e-6,  # a chat gives one number, and the wider this is, the more wrong ones hit it by chance
    stages=(
        Stage(
            "one question and one answer",
            "Write the tokens of both turns in one row, and below each whether it is trained on. Then mind which position "
            "predicts which token.",
        ),
        Stage(
            "several answers",
            "The chat has one loss: a mean over the trained tokens of all answers, each predicted from the whole chat before "
            "it.",
        ),
        Stage(
            "a system prompt",
            "There are three roles. What stands in the system's turn is read, and not trained on.",
        ),
        Stage(
            "a chat that the assistant begins and the user ends",
            "An answer may be the first turn, and need not be the last. Its role decides, and not its place.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_masked(),
    why="One forward pass predicts every token of the chat from all those before it, as in pretraining; the only new thing is "
    "which of the losses count. Token and mark go through the same shift: the losses begin with the second token, and so must "
    "the mask. All answers share one mean, and the user's turns have no part in it, but the model reads them, so the gradient "
    "changes how they are read. In a batch of chats the mean runs over the trained tokens of all of them, as in lesson 04.",
    hints=(
        "Three steps: one row of tokens from all turns, with a mark for each; one pass of the model; a mean over some losses.",
        "Build two lists side by side, tokens and booleans, turn by turn. Two tokens open a turn, and one ends it.",
        "With n tokens there are n − 1 losses, for the second token to the last. `cross_entropy` keeps them apart with "
        "`reduction`; a mask of booleans, shifted like the targets, picks out those that count.",
    ),
    mistakes=(
        Mistake(
            _masked("[True] * len(turn)"),
            "That is the loss on the whole chat, as in pretraining: the model would be trained to write the user's part, too.",
        ),
        Mistake(
            _masked('[role == "assistant"] * len(turn)'),
            "The two tokens that open the assistant's turn count as well. The prompt ends with them: they are given.",
        ),
        Mistake(
            _masked('[False] + [role == "assistant"] * (len(turn) - 1)'),
            "The second token of the assistant's turn counts as well. *Two* tokens open a turn, and both are given.",
        ),
        Mistake(
            _masked('[False, False] + [role == "assistant"] * (len(turn) - 3) + [False]'),
            "The token that ends the turn does not count. The model writes it too: if it is never trained on it, it does not "
            "stop.",
        ),
        Mistake(
            _masked('[role == "assistant"] * (len(turn) - 1) + [False]'),
            "The tokens that open the turn count, and the one that ends it does not. It is the other way round.",
        ),
        Mistake(
            _masked('[False] * 3 + [role == "assistant"] * (len(turn) - 3)'),
            "The first token of each answer does not count: three are left out where two open the turn.",
        ),
        Mistake(
            _masked('[role != "assistant"] * len(turn)'),
            "The wrong way round: that is the loss on what the others say.",
        ),
        Mistake(
            _masked('[False, False] + [role != "assistant"] * (len(turn) - 2)'),
            "The marks are left out as they should be. But counted is what the *others* say.",
        ),
        Mistake(
            _masked("[False, False] + [True] * (len(turn) - 2)"),
            "Only the marks that open a turn are left out. What the others say does not count either.",
        ),
        Mistake(
            _masked('[False, False] + [role != "user"] * (len(turn) - 2)'),
            "The system prompt counts as well. It is given, as what the user says is.",
        ),
        Mistake(
            _masked('[False, False] + [role == "assistant" or any(trained)] * (len(turn) - 2)'),
            "All that follows the first answer counts. What the user says after it is given, too.",
        ),
        Mistake(
            _masked('[False, False] + [role == "assistant" and len(ids) > len(turn)] * (len(turn) - 2)'),
            "The first turn never counts, as if it were always a prompt. Its role decides.",
        ),
        Mistake(
            _masked(result="losses[trained[:-1]].mean()"),
            "The mask is one position off: the first token of each answer does not count, and what follows the last does. The "
            "first loss belongs to the second token.",
        ),
        Mistake(
            _masked(predictions="logits", targets="ids[0]", result="losses[trained].mean()"),
            "Nothing is shifted: each position is asked for its own token, which it can see. The logits at a position belong "
            "to the token that follows.",
        ),
        Mistake(
            _masked(predictions="logits[1:]", targets="ids[0, :-1]", result="losses[trained[:-1]].mean()"),
            "Shifted the wrong way: each position is asked for the token *before* it.",
        ),
        Mistake(
            _masked(predictions="logits[:-2]", targets="ids[0, 2:]", result="losses[trained[2:]].mean()"),
            "Shifted twice: each position is asked for the token after the next one.",
        ),
        Mistake(
            _masked(result="(losses * trained[1:]).mean()"),
            "The sum is right, but it is divided by all tokens of the chat. Those that do not count are left out there, too.",
        ),
        Mistake(
            _masked(result="(losses * trained[1:]).sum() / len(trained)"),
            "The sum is right, but it is divided by all tokens of the chat, the first too. Count those that are trained on.",
        ),
        Mistake(
            _masked(result="losses[trained[1:]].sum()"),
            "The right tokens. But that is their sum, which grows with the answers; the mean does not.",
        ),
        Mistake(
            _answer_by_answer("torch.stack([cost.mean() for cost in costs]).mean()"),
            "That is the mean of the answers' own means, in which a token of a short answer weighs more. Every trained token "
            "weighs the same.",
        ),
        Mistake(
            _answer_by_answer("torch.cat(costs).sum() / len(costs)"),
            "That is the mean cost of an *answer*, which grows with its length. Divide by the number of tokens.",
        ),
        Mistake(
            _answer_by_answer("costs[-1].mean()"),
            "That is the loss on the last answer alone. The earlier ones are the assistant's, too.",
        ),
        Mistake(
            _answer_by_answer("costs[0].mean()"),
            "That is the loss on the first answer alone. The later ones are the assistant's, too.",
        ),
        Mistake(
            _answer_by_answer(before="[]"),
            "Each answer goes through the model without what stands before it, so it answers a question that it has not read.",
        ),
        Mistake(
            _answer_by_answer(before="turn"),
            "Each answer is predicted from the turn before it alone. The whole chat so far is its prompt.",
        ),
        Mistake(
            _answer_by_answer(before='before if role == "assistant" else before + turn'),
            "The earlier answers are missing from the prompt. They are part of the chat, and the model reads them, too.",
        ),
        Mistake(
            _masked(predictions="logits[:-1].softmax(dim=-1)"),
            "The logits go through a softmax first. `cross_entropy` takes the softmax itself, and of probabilities it makes a "
            "nearly even distribution.",
        ),
        Mistake(
            _masked(result="losses[trained[1:]].mean() / math.log(2)"),
            "The right loss, in bits. Here it is asked for in nats, as `cross_entropy` gives it.",
        ),
        Mistake(
            _masked(result="losses[trained[1:]].mean().exp()"),
            "That is the perplexity, the exponential of the loss. Return the loss.",
        ),
        Mistake(
            _masked(result="-losses[trained[1:]].mean()"),
            "The right size, with the wrong sign: `cross_entropy` gives costs, which are to become small.",
        ),
    ),
)
