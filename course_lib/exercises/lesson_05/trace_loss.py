"""Exercise 05.3: the loss on the answers of a chat, by hand."""

import math

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_LOSS"]

_ANSWERS = ({"Lima": 1 / 64, "<|im_end|>": 1 / 8}, {"Yes": 1 / 8, "!": 1 / 4, "<|im_end|>": 1 / 2})


def _code_length() -> float:
    """Return how long both answers are when they are written with the model's probabilities, in bits for each token."""
    chances = [chance for answer in _ANSWERS for chance in answer.values()]
    return -math.log2(math.prod(chances)) / len(chances)


TRACE_LOSS = Exercise(
    id="05.3",
    kind="trace",
    title="The loss of an answer, by hand",
    section="What is trained on",
    answer="bits_per_token",
    results=("bits_per_token",),
    expected=_code_length,
    tolerance=0.01,
    stub="""\
# A chat, and below each token the probability that the model gave to it before it came (· = space):
#     <|im_start|> user       Capital  ·of    ·Peru  <|im_end|>
#     (the first)  1/2        1/256    1/4    1/64   1/4
#     <|im_start|> assistant  Lima     <|im_end|>
#     1/4          1/2        1/64     1/8
#     <|im_start|> user       Sure     ?      <|im_end|>
#     1/2          1/2        1/32     1/4    1/8
#     <|im_start|> assistant  Yes      !      <|im_end|>
#     1/4          1/2        1/8      1/4    1/2
# The prompt of an answer ends with <|im_start|>assistant. What is the loss on which the model is
# fine-tuned, in bits per trained token? By hand: every probability is a power of two.
bits_per_token = ...
""",
    solution="""\
# trained on are Lima and Yes!, each with the <|im_end|> behind it: 2 + 3 tokens
# −log₂ of 1/64 and 1/8 is 6 and 3; of 1/8, 1/4 and 1/2 it is 3, 2 and 1
bits_per_token = (6 + 3 + 3 + 2 + 1) / 5
""",
    why="Who uses the model writes the questions, and the program around it writes `<|im_start|>assistant`: the model need not "
    "predict either, and so they are read but not trained on. `<|im_end|>` is written by the model. It says that the answer is "
    "over, and a model that was never trained on it does not stop. Five tokens remain, with 15 bits. All answers of a batch "
    "share one mean, so each trained token weighs the same, in whichever answer it stands.",
    hints=(
        "Which of these tokens will the model have to write itself when it is used? Only those are trained on.",
        "Something stops the model when an answer is complete. Is that a token too, and who writes it?",
        "Count how often 1 is halved, for the two answers and for what ends each. Add all of it up, and divide once.",
    ),
    mistakes=(
        Mistake(
            "bits_per_token = 52 / 19",
            "That is the loss on the whole chat: the model would be trained to write the user's part, too.",
        ),
        Mistake(
            "bits_per_token = 52 / 20",
            "That is the loss on the whole chat, with the first token in the count, which nothing predicts. Trained on is only "
            "what the assistant says.",
        ),
        Mistake(
            "bits_per_token = 52",
            "That is what the whole chat costs. Which tokens does the model write, and how many of them are there?",
        ),
        Mistake(
            "bits_per_token = 37 / 14",
            "The wrong way round: that is the loss on all that is *given*, the user's words and the marks.",
        ),
        Mistake(
            "bits_per_token = (6 + 3 + 2) / 3",
            "The token that ends the turn is missing. The model writes it too; one that was never trained on it does not stop.",
        ),
        Mistake(
            "bits_per_token = (6 + 3 + 2) / 5",
            "You count five tokens, and the bits of three: the two `<|im_end|>` have a cost, too.",
        ),
        Mistake(
            "bits_per_token = 15 / 3",
            "The bits are right, with those of the two `<|im_end|>`. Then these count as tokens, too.",
        ),
        Mistake(
            "bits_per_token = (6 + 3 + 3 + 2) / 4",
            "The first answer counts with its `<|im_end|>`, and the last without. There, too, the model has to end it.",
        ),
        Mistake(
            "bits_per_token = (15 + 2 * (2 + 1)) / 9",
            "`<|im_start|>assistant` counts here. The prompt ends with it: the program around the model writes it.",
        ),
        Mistake(
            "bits_per_token = (15 + 2 * 1) / 7",
            "`assistant` counts here. It belongs to the mark that opens the turn, and the prompt ends with it.",
        ),
        Mistake(
            "bits_per_token = (15 + 2 * (2 + 1)) / 5",
            "You count five tokens, and the bits of `<|im_start|>assistant` besides. The prompt gives that mark.",
        ),
        Mistake(
            "bits_per_token = (15 + 2 + 3) / 7",
            "All four `<|im_end|>` count here. Two of them end what the user says, and the model writes only the other two.",
        ),
        Mistake(
            "bits_per_token = (15 + 12 + 3) / 12",
            "That is all that follows the first prompt. What the user says then, and the marks around it, are given as well.",
        ),
        Mistake(
            "bits_per_token = (15 + 18 + 10) / 12",
            "Only the opening marks are left out. What the user says is given as well.",
        ),
        Mistake(
            "bits_per_token = (3 + 1 + 2 + 1) / 4",
            "That is one token late: the first token of each answer is missing, and what stands behind the first one counts. "
            "The probability below a token is already the one that it had *before* it came.",
        ),
        Mistake(
            "bits_per_token = (3 + 2 + 1) / 3",
            "That is the last answer alone. The first one is the assistant's, too, and both are trained on.",
        ),
        Mistake(
            "bits_per_token = (6 + 3) / 2",
            "That is the first answer alone. The second one is the assistant's, too, and both are trained on.",
        ),
        Mistake(
            "bits_per_token = ((6 + 3) / 2 + (3 + 2 + 1) / 3) / 2",
            "That is the mean of the answers' own means, in which a token of the short answer weighs more. Add up the bits of "
            "both, and divide only then.",
        ),
        Mistake(
            "bits_per_token = 15 / 2",
            "That is the cost per *answer*. Long answers cost more; per token they can be compared.",
        ),
        Mistake(
            "bits_per_token = 15",
            "That is what the trained tokens cost together. Share it out over them.",
        ),
        Mistake(
            "bits_per_token = 15 / 19",
            "The bits are right. But they are divided by all tokens of the chat: what is not trained on does not count.",
        ),
        Mistake(
            "bits_per_token = 15 / 20",
            "The bits are right. But they are divided by all 20 tokens of the chat. Count those that are trained on.",
        ),
        Mistake(
            "bits_per_token = 15 * math.log(2) / 5",
            "The right tokens, but in nats: that is the natural logarithm. A bit is one halving.",
        ),
        Mistake(
            "bits_per_token = 15 * math.log(2)",
            "That is what the trained tokens cost together, and in nats. Count halvings, and share them out.",
        ),
        Mistake(
            "bits_per_token = 15 / math.log(2) / 5",
            "That takes the 6, 3, 3, 2 and 1 for nats. They are halvings, and so they are bits already.",
        ),
        Mistake(
            "bits_per_token = 15 * math.log10(2) / 5",
            "That is the logarithm to the base 10. A bit is one halving: the base is 2.",
        ),
        Mistake(
            "bits_per_token = 2**3",
            "That is the perplexity on the answers. The loss in bits is its logarithm to the base 2.",
        ),
        Mistake(
            "bits_per_token = -math.log2((1 / 64 + 1 / 8 + 1 / 8 + 1 / 4 + 1 / 2) / 5)",
            "The probabilities were averaged before the logarithm. Costs are averaged: the logarithm first, token by token.",
        ),
        Mistake(
            "bits_per_token = (1 / 64 + 1 / 8 + 1 / 8 + 1 / 4 + 1 / 2) / 5",
            "That is the mean *probability* of the trained tokens. The loss is the mean of what each costs in bits.",
        ),
        Mistake(
            "bits_per_token = 1 / 2**15",
            "That is the probability of both answers together. What does it cost in bits, and per token?",
        ),
        Mistake(
            "bits_per_token = -15 / 5",
            "The right size. But the logarithm of a probability is negative, and the loss is its opposite: a cost, above 0.",
        ),
    ),
)
